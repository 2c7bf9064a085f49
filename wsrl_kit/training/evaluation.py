"""Evaluation episodes, with sampled and with deterministic actions."""

from collections.abc import Mapping
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Integer, PRNGKeyArray, Shaped

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import Policy, SACConfig, SACState
from wsrl_kit.config.config import ROBOT, WSRLConfig
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import parts, stacked, succeeded
from wsrl_kit.errors import ParameterError
from wsrl_kit.runs.loop import Output
from wsrl_kit.runs.traces import Trace, success_and_failure, trace_name, write_traces

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


@partial(jax.jit, static_argnums=0)
def _mean_value(
    config: SACConfig,
    agent_state: SACState,
    observation: Float[Array | np.ndarray, "batch observation"],
    action: Float[Array | np.ndarray, "batch action"],
    images: Mapping[str, Shaped[Array | np.ndarray, "batch horizon height width channel"]],
) -> Float[Array, " batch"]:
    """Q of each action, mean over the critics."""
    observation, action = jnp.asarray(observation), jnp.asarray(action)
    images = {name: jnp.asarray(camera) for name, camera in images.items()}
    return jnp.mean(sac.action_values(config, agent_state, observation, action, images), axis=0)


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

    def evaluate(self, config: SACConfig, agent_state: SACState, count: int) -> tuple[dict[str, float], list[Trace]]:
        """Plays `evaluation_episodes` episodes in each mode; empty without episodes.

        Args:
            count: number of this evaluation; determines the seeds, shared by both modes and all arms.

        Returns:
            Means as `evaluation/<success|return|length>_<mode>` (success is nan if not reported), and the traces of
            `success_and_failure` among the episodes with sampled actions.
        """
        if not self._episodes:
            return {}, []
        seeds = [jax_tools.episode_seed(self._seed, "evaluation", count, index) for index in range(self._episodes)]
        key = jax.random.fold_in(jax_tools.key(self._seed, "evaluation"), count)
        outcomes, traces = _play(
            config, agent_state, key, self._environments, seeds * len(MODES), self._noise_scale, self._episodes
        )
        success, total_reward, length = (column.reshape(len(MODES), -1).mean(axis=1) for column in outcomes.T)
        columns = {"success": success, "return": total_reward, "length": length}
        values = {
            f"evaluation/{name}_{mode}": float(means[row])
            for name, means in columns.items()
            for row, mode in enumerate(MODES)
        }
        return values, success_and_failure(traces)

    def one_episode(self, config: SACConfig, agent_state: SACState) -> list[Trace]:
        """The trace of one episode with sampled actions; empty without episodes."""
        if not self._episodes:
            return []
        seed = jax_tools.episode_seed(self._seed, "evaluation", 0, 0)
        key = jax_tools.key(self._seed, "evaluation")
        _, traces = _play(config, agent_state, key, self._environments[:1], [seed], np.ones(1, np.float32), 1)
        return traces


def traces_output(phase: str, step: int, traces: list[Trace]) -> list[Output]:
    """The file of an evaluation's traces; none without traces."""
    return [Output(trace_name(phase, step), lambda path: write_traces(path, traces))] if traces else []


def _play(
    config: SACConfig,
    agent_state: SACState,
    key: PRNGKeyArray,
    environments: list[gymnasium.Env],
    seeds: list[int],
    noise_scale: Float[np.ndarray, " environments"],
    traced: int,
) -> tuple[Float[np.ndarray, "environments 3"], list[Trace]]:
    """One episode per environment: success (nan: not reported), return, length; traces of the first `traced`."""
    policy = sac.policy(agent_state)
    states, images = stacked([env.reset(seed=seed)[0] for env, seed in zip(environments, seeds, strict=True)])
    outcomes = np.zeros((len(environments), 3))
    success: list[bool | None] = [None] * len(environments)
    running = list(range(len(environments)))
    taken: list[Float32[np.ndarray, "traced action"]] = []
    expected: list[Float32[np.ndarray, " traced"]] = []
    step = 0
    while running:
        actions = np.asarray(act(config, policy, key, np.int32(step), states, noise_scale, images))
        if running[0] < traced:
            first = {camera: frames[:traced] for camera, frames in images.items()}
            values = _mean_value(config, agent_state, states[:traced], actions[:traced], first)
            # Waited for, since the states change below.
            expected.append(np.asarray(values))
            taken.append(actions[:traced])
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
    traces = []
    for index in range(traced):
        steps = int(outcomes[index, 2])
        actions, values = (np.stack([row[index] for row in rows[:steps]]) for rows in (taken, expected))
        said, total_reward = outcomes[index, :2].tolist()
        traces.append(Trace(seeds[index], actions, values, said, total_reward, states[index].copy()))
    return outcomes, traces
