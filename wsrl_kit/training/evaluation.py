"""Evaluation episodes, with sampled and with deterministic actions."""

from collections.abc import Mapping
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer, PRNGKeyArray, Shaped

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import Policy, SACConfig, SACState
from wsrl_kit.config.config import ROBOT, WSRLConfig
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import parts, stacked, succeeded
from wsrl_kit.errors import ParameterError

MODES = ("sampled", "deterministic")


@partial(jax.jit, static_argnums=0)
def act(
    config: SACConfig,
    policy: Policy,
    key: PRNGKeyArray,
    step: Integer[Array, ""] | int,
    observation: Float[Array | np.ndarray, "batch observation"],
    noise_scale: Float[Array | np.ndarray, " batch"],
    images: Mapping[str, Shaped[Array | np.ndarray, "batch horizon height width channel"]] | None = None,
) -> Float[Array, "batch action"]:
    """The policy's actions; noise is a function of key and step, times `noise_scale` (0: deterministic)."""
    noise = jax.random.normal(jax.random.fold_in(key, step), (observation.shape[0], config.continuous_size))
    seen = {name: jnp.asarray(camera) for name, camera in (images or {}).items()}
    return sac.act(config, policy, jnp.asarray(observation), noise * noise_scale[:, None], seen)


class Evaluator:
    """Evaluation environments, stepped side by side so that one policy call serves all.

    Raises:
        ParameterError: episodes are requested on a robot, of which there is one.
    """

    def __init__(self, config: WSRLConfig) -> None:
        if config.exp_name == ROBOT and config.evaluation_episodes:
            raise ParameterError(
                f"evaluation_episodes must be 0 with {ROBOT}, which can't be evaluated beside its training, "
                f"found {config.evaluation_episodes}; success is that of the training episodes"
            )
        self._seed = config.seed
        self._episodes = config.evaluation_episodes
        self._environments = [
            make(config.exp_name, config.environment_options) for _ in range(len(MODES) * self._episodes)
        ]
        self._noise_scale = np.repeat(np.array([1.0, 0.0], np.float32), self._episodes)

    def close(self) -> None:
        for environment in self._environments:
            environment.close()

    def evaluate(self, config: SACConfig, agent_state: SACState, count: int) -> dict[str, float]:
        """Plays `evaluation_episodes` episodes in each mode; empty without episodes.

        Args:
            count: number of this evaluation; determines the seeds, shared by both modes and all arms.

        Returns:
            Means as `evaluation/<success|return|length>_<mode>`; success is nan if not reported.
        """
        if not self._episodes:
            return {}
        seeds = [jax_tools.episode_seed(self._seed, "evaluation", count, index) for index in range(self._episodes)]
        key = jax.random.fold_in(jax_tools.key(self._seed, "evaluation"), count)
        outcomes = _play(
            config, sac.policy(agent_state), key, self._environments, seeds * len(MODES), self._noise_scale
        )
        success, total_reward, length = (column.reshape(len(MODES), -1).mean(axis=1) for column in outcomes.T)
        columns = {"success": success, "return": total_reward, "length": length}
        return {
            f"evaluation/{name}_{mode}": float(values[row])
            for name, values in columns.items()
            for row, mode in enumerate(MODES)
        }


def _play(
    config: SACConfig,
    policy: Policy,
    key: PRNGKeyArray,
    environments: list[gymnasium.Env],
    seeds: list[int],
    noise_scale: Float[np.ndarray, " environments"],
) -> Float[np.ndarray, "environments 3"]:
    """One episode per environment: success (nan: not reported), return, length."""
    states, images = stacked([env.reset(seed=seed)[0] for env, seed in zip(environments, seeds, strict=True)])
    outcomes = np.zeros((len(environments), 3))
    success: list[bool | None] = [None] * len(environments)
    running = list(range(len(environments)))
    step = 0
    while running:
        actions = np.asarray(act(config, policy, key, np.int32(step), states, noise_scale, images))
        for index in list(running):
            observation, reward, terminated, truncated, info = environments[index].step(actions[index])
            states[index], newest = parts(observation)
            for camera, image in newest.items():
                images[camera][index] = image
            outcomes[index, 1] += float(reward)
            outcomes[index, 2] += 1
            success[index] = succeeded(success[index], info)
            if terminated or truncated:
                running.remove(index)
        step += 1
    outcomes[:, 0] = np.array(success, float)  # None becomes nan
    return outcomes
