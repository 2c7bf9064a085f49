"""What a policy is worth alone: episodes on the robot that it was trained on, after training, without a human."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np

from wsrl_kit import envs, sac
from wsrl_kit.config import WSRLConfig
from wsrl_kit.envs.confirmation import by_task
from wsrl_kit.envs.wrappers import TASK_SUCCESS, succeeded
from wsrl_kit.errors import Stopped
from wsrl_kit.runs import Run
from wsrl_kit.sac import SACConfig, SACState
from wsrl_kit.training import agent as agents
from wsrl_kit.training import checkpoint, randomness
from wsrl_kit.training.classifier_file import rewarded
from wsrl_kit.training.evaluation import MODES, act
from wsrl_kit.training.events import Progress
from wsrl_kit.training.following import outcome_recorded
from wsrl_kit.training.observations import stacked
from wsrl_kit.training.workers import finished

FOLDER = "test"


def run_test(config: WSRLConfig, trained: Path, arm: str, episodes: int, progress: Progress) -> None:
    """Plays `episodes` episodes with sampled and as many with deterministic actions, unless that is done.

    Writes `trained`/test, with `evaluation/<success|task_success|length>_<mode>` of every episode; the n-th has
    the same seed in both modes and in every arm. With a reward classifier, success is what that says, and
    `task_success` what the task says, as far as it says anything.

    Args:
        config: of the fine-tuning.
        trained: its folder, whose checkpoint has the policy.

    Raises:
        Stopped: the user stopped it; the next call begins anew.
        RobotError: contact with the robot was lost; likewise.
        WSRLKitError: the checkpoint is not of such a run.
    """
    folder, parameters = trained / FOLDER, asdict(config) | {"final_episodes": episodes}
    if finished(folder, parameters):
        return
    run = Run.open(folder, kind="test", arm=arm, seed=config.seed, parameters=parameters, resume=False)
    with (
        outcome_recorded(run, progress) as progress,
        closing(envs.make(config.exp_name, config.environment_options)) as environment,
    ):
        static, agent = agents.create(config, environment, None)
        agent = checkpoint.load(trained / "checkpoint.npz", {"agent": agent}, "agent/")["agent"]
        task = environment
        if config.reward_classifier is not None:
            # As in training, so that a false success ends no episode.
            confirm = by_task(environment) if config.confirm_success else None
            task = rewarded(environment, Path(config.reward_classifier), config.exp_name, confirm)
        for index in range(episodes):
            for mode, noise_scale in zip(MODES, (1.0, 0.0), strict=True):
                outcome = _play(config, static, agent, task, index, noise_scale)
                values = {f"evaluation/{name}_{mode}": value for name, value in outcome.items()}
                run.record("online", config.online_steps, int(agent.updates), values)
            progress.update(index + 1, episodes, "testing the policy alone")
            if progress.stop_requested:
                raise Stopped("stopped in the last test, which Run All begins anew; the training is saved")
        run.finish({"episodes": episodes})


def _play(
    config: WSRLConfig,
    static: SACConfig,
    agent: SACState,
    environment: gymnasium.Env,
    index: int,
    noise_scale: float,
) -> dict[str, float]:
    """One episode; nan where nobody says whether it succeeded."""
    observation, _ = environment.reset(seed=randomness.episode_seed(config.seed, "evaluation", index))
    key, scale = randomness.key(config.seed, "evaluation"), np.full(1, noise_scale, np.float32)
    success = task_success = None
    length, done = 0, False
    while not done:
        states, images = stacked([observation])
        # Another stretch of noise for each episode.
        step = np.int32(index * 10_000 + length)
        action = np.asarray(act(static, sac.policy(agent), key, step, states, scale, images))[0]
        observation, _, terminated, truncated, info = environment.step(action)
        length, done = length + 1, terminated or truncated
        success = succeeded(success, info)
        task_success = succeeded(task_success, info, TASK_SUCCESS)
    said = {"success": success, "task_success": task_success}
    return {name: np.nan if value is None else float(value) for name, value in said.items()} | {"length": float(length)}
