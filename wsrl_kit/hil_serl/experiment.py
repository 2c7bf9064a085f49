"""HIL-SERL on one robot: demonstrations, classifier, warmup, fine-tuning with a human, test of the policy alone.

The folder holds:

data/                       demonstrations, as 00_collect_data writes them
classifier/                 the reward classifier, as 07_reward_classifier writes it
warmup/seed_<n>/            offline warmup on the demonstrations
<arm>/seed_<n>/             fine-tuning through the robot's server
<arm>/seed_<n>/test/        the policy alone, without a human
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import gymnasium
import numpy as np

from wsrl_kit.agent import jax_tools, sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.classifier.model import rewarded
from wsrl_kit.classifier.train import CLASSIFIER_FILE, run_classifier
from wsrl_kit.config.config import NOBODY, PERSON, ROBOT, Paths, WSRLConfig
from wsrl_kit.envs.config import SOURCES, CollectConfig
from wsrl_kit.envs.make import make
from wsrl_kit.envs.wrappers import TASK_SUCCESS, camera_shapes, stacked, succeeded
from wsrl_kit.errors import Stopped
from wsrl_kit.experiments.ablation import extends_earlier
from wsrl_kit.experiments.engine import finished
from wsrl_kit.hil_serl.config import HIL_SERL_ARMS, HilSerlConfig
from wsrl_kit.robot.record import run_record
from wsrl_kit.robot.server import RobotServer, simulated_arm
from wsrl_kit.robot.takeover import PersonInput, by_task
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Progress, ProgressRelay, outcome_recorded
from wsrl_kit.runs.run import CHECKPOINT, Run
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import MODES, act
from wsrl_kit.training.jobs import FILTERED_FILE, WARMUP_FILE, run_collect, run_finetune, run_warmup

FOLDER = "test"


def run_test(config: WSRLConfig, trained: Path, arm: str, episodes: int, progress: Progress) -> None:
    """Plays `episodes` episodes with sampled and as many with deterministic actions, unless they are played already.

    Writes the run `trained`/test, with `evaluation/<success|task_success|length>_<mode>` of every episode. Episode n
    has one seed, in both modes and in every arm. With a reward classifier, success is the classifier's, and
    `task_success` the task's, if the task tells it.

    Args:
        config: the fine-tuning's.
        trained: the fine-tuning's folder.

    Raises:
        Stopped: the user stopped it; the next call begins anew.
        RobotError: contact with the robot was lost; the next call begins anew.
        WSRLKitError: the checkpoint is not of such a run.
    """
    folder, parameters = trained / FOLDER, asdict(config) | {"final_episodes": episodes}
    if finished(folder, parameters):
        return
    run = Run.open(folder, kind="test", arm=arm, seed=config.seed, parameters=parameters, resume=False)
    with (
        outcome_recorded(run, progress) as progress,
        closing(make(config.exp_name, config.environment_options)) as environment,
    ):
        agent_config, agent_state = agents.create(config, environment, None)
        agent_state = checkpoint.load(trained / CHECKPOINT, {"agent": agent_state}, "agent/")["agent"]
        task = environment
        if config.reward_classifier is not None:
            # As in training: a false success ends no episode.
            confirm = by_task(environment) if config.confirm_success else None
            task = rewarded(environment, Path(config.reward_classifier), config.exp_name, confirm)
        for index in range(episodes):
            for mode, noise_scale in zip(MODES, (1.0, 0.0), strict=True):
                outcome = _play(config, agent_config, agent_state, task, index, noise_scale)
                values = {f"evaluation/{name}_{mode}": value for name, value in outcome.items()}
                run.record("online", config.online_steps, int(agent_state.updates), values)
            progress.update(index + 1, episodes, "testing the policy alone")
            if progress.stop_requested:
                raise Stopped("stopped in the last test, which Run All begins anew; the training is saved")
        run.finish({"episodes": episodes})


def _play(
    config: WSRLConfig,
    agent_config: SACConfig,
    agent_state: SACState,
    environment: gymnasium.Env,
    index: int,
    noise_scale: float,
) -> dict[str, float]:
    """One episode's outcome; success is nan where unknown."""
    observation, _ = environment.reset(seed=jax_tools.episode_seed(config.seed, "evaluation", index))
    key, scale = jax_tools.key(config.seed, "evaluation"), np.full(1, noise_scale, np.float32)
    success = task_success = None
    length, done = 0, False
    while not done:
        states, images = stacked([observation])
        # Another stretch of noise for each episode.
        step = np.int32(index * 10_000 + length)
        action = np.asarray(act(agent_config, sac.policy(agent_state), key, step, states, scale, images))[0]
        observation, _, terminated, truncated, info = environment.step(action)
        length, done = length + 1, terminated or truncated
        success = succeeded(success, info)
        task_success = succeeded(task_success, info, TASK_SUCCESS)
    said = {"success": success, "task_success": task_success}
    return {name: np.nan if value is None else float(value) for name, value in said.items()} | {"length": float(length)}


def run_hil_serl(
    config: WSRLConfig,
    plan: HilSerlConfig,
    folder: Path,
    progress: Progress,
    *,
    robot_url: str | None = None,
    resume: bool = True,
    person: PersonInput | None = None,
    ended: Callable[[str], object] = lambda step: None,
) -> None:
    """Runs everything from the first demonstration to the last test, one run after another: there is one robot.

    Called again, it resumes, also with other arms or seeds. Agents get the form of HIL-SERL's files: with cameras one
    last layer for all critics, without cameras one for each.

    Args:
        config: of warmup and fine-tuning. `demo_path` replaces the recorded demonstrations, `reward_classifier` the
            trained classifier; `human` is for the arms with a human.
        robot_url: a robot's server; None: serve a simulated robot.
        person: who demonstrates, records data for the classifier, and takes over where `human` is "person".
        ended: called after each step with its name: record, classifier, warmup, fine-tune, test.

    Raises:
        Stopped: the user stopped it.
        WSRLKitError: a stage failed, for example a real robot, which no scripted expert can move.
    """
    parameters = asdict(config) | asdict(plan) | {"robot_url": robot_url}
    if resume and finished(folder, parameters):
        return
    same = resume and not extends_earlier(folder, parameters, ("arms", "seeds"))
    run = Run.open(folder, kind="hil_serl", arm="", seed=0, parameters=parameters, resume=same)
    with outcome_recorded(run, progress) as progress, _robot(plan, robot_url) as url:
        config = _on_robot(config, plan, url)
        if person is not None:
            config, plan = _recorded(config, plan, folder, progress, person)
        elif plan.is_demonstrated:
            config = replace(config, demo_path=_demonstrated(config, plan, folder, progress))
        ended("record")
        config = replace(config, reward_classifier=_classifier(config, plan, folder, progress))
        ended("classifier")
        runs = len(plan.seeds) * (plan.is_warmed_up + len(plan.arms))
        numbers = (f"run {number} of {runs}" for number in range(1, runs + 1))
        for seed in plan.seeds:
            seeded = warm = replace(config, seed=seed)
            if plan.is_warmed_up:
                named = ProgressRelay(progress, f"{next(numbers)}, warmup seed {seed}")
                warm = _warmed_up(seeded, folder / "warmup" / f"seed_{seed}", named, resume)
                ended("warmup")
            for name in plan.arms:
                arm, target = HIL_SERL_ARMS[name], folder / name / f"seed_{seed}"
                start = warm if arm.warmup else seeded if arm.demos else replace(seeded, demo_path=None)
                own = replace(start, human=config.human if arm.human else NOBODY)
                named = ProgressRelay(progress, f"{next(numbers)}, {name} seed {seed}")
                takeover = person if own.human == PERSON else None
                run_finetune(own, target, named, arm=name, resume=resume, takeover=takeover)
                ended("fine-tune")
                if plan.final_episodes:
                    run_test(own, target, name, plan.final_episodes, named)
                    ended("test")
        run.finish({"runs": len(plan.arms) * len(plan.seeds)})


@contextmanager
def _robot(plan: HilSerlConfig, robot_url: str | None) -> Iterator[str]:
    """The URL of the robot, or of a simulated one that is served inside the context."""
    if robot_url is not None:
        yield robot_url
        return
    arm = simulated_arm(plan.exp_name, plan.environment_options, plan.robot_speed)
    with RobotServer(arm, port=plan.robot_port) as server:
        yield server.url


def _on_robot(config: WSRLConfig, plan: HilSerlConfig, url: str) -> WSRLConfig:
    options = plan.robot_options | {"robot_url": url}
    with closing(make(ROBOT, options)) as environment:
        has_cameras = bool(camera_shapes(environment))
    return replace(
        config,
        exp_name=ROBOT,
        environment_options=options,
        evaluation_episodes=0,
        shared_critic_output=has_cameras,
    )


def _demonstrated(config: WSRLConfig, plan: HilSerlConfig, folder: Path, progress: Progress) -> Paths:
    """The given demonstrations, or newly recorded ones of the scripted expert."""
    if config.demo_path is not None:
        return config.demo_path
    collection = CollectConfig(
        exp_name=config.exp_name,
        environment_options=config.environment_options,
        demo_episodes=plan.demonstrations,
        suboptimal_episodes=0,
        random_episodes=0,
    )
    target = folder / "data"
    if not finished(target, asdict(collection)):
        run_collect(collection, target, progress)
    demos = SOURCES["expert"]
    return {demos: [str(target / f"{demos}.pkl")]}


def _recorded(
    config: WSRLConfig, plan: HilSerlConfig, folder: Path, progress: Progress, person: PersonInput
) -> tuple[WSRLConfig, HilSerlConfig]:
    """What a person records of what is not given: demonstrations, and data for the classifier."""
    collection = CollectConfig(
        exp_name=config.exp_name,
        environment_options=config.environment_options,
        demo_episodes=plan.demonstrations if config.demo_path is None and plan.is_demonstrated else 0,
        suboptimal_episodes=0,
        random_episodes=0,
        classifier_episodes=plan.classifier_episodes if config.reward_classifier is None else 0,
    )
    target = folder / "data"
    if collection.demo_episodes or collection.classifier_episodes:
        run_record(collection, target, progress, person)
    if collection.demo_episodes:
        demos = SOURCES["expert"]
        config = replace(config, demo_path={demos: [str(target / f"{demos}_*.pkl")]})
    own = plan.classifier_options | {"classifier_data": str(target / "classifier")}
    return config, replace(plan, classifier_options=own)


def _classifier(config: WSRLConfig, plan: HilSerlConfig, folder: Path, progress: Progress) -> str:
    """The given reward classifier, or a newly trained one."""
    if config.reward_classifier is not None:
        return config.reward_classifier
    robot = {"exp_name": config.exp_name, "environment_options": config.environment_options}
    own, target = ClassifierConfig(**plan.classifier_options | robot), folder / "classifier"
    if not finished(target, asdict(own)):
        run_classifier(own, target, progress)
    return str(target / CLASSIFIER_FILE)


def _warmed_up(config: WSRLConfig, folder: Path, progress: Progress, resume: bool) -> WSRLConfig:
    """Warms up on the demonstrations; returns the config of a fine-tuning from the warmup checkpoint."""
    own = replace(config, offline_data_path=config.demo_path, demo_path=None)
    run_warmup(own, folder, progress, resume=resume)
    return replace(config, checkpoint_path=str(folder / WARMUP_FILE), demo_path=str(folder / FILTERED_FILE))
