"""The scripted operators that Metaworld brings, one for each of its tasks."""

import warnings

import numpy as np
from jaxtyping import Float, Float32

from wsrl_kit.envs.script import Script


def metaworld(task: str) -> Script:
    """Metaworld's own policy of a task, such as "door-open-v3"; the clumsy operator sees the hand up to 2 cm off."""
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP[task]()

    def controller(observation: Float32[np.ndarray, "39"], error: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4"]:
        # A copy, because the policies write into what they are given.
        seen = observation.astype(np.float64)
        seen[:3] -= error
        with warnings.catch_warnings():
            # That its actions exceed [-1, 1] before they are clipped.
            warnings.simplefilter("ignore")
            return np.asarray(policy.get_action(seen), np.float64)

    errors = (0.02, 0.02, 0.02)
    return Script(lambda seen: seen[:3], controller, expert_noise=0.1, suboptimal_noise=0.5, suboptimal_error=errors)
