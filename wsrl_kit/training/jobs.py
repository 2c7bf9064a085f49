"""Runs from parameters to finished folder, as notebooks and ablation call them."""

import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import gymnasium
from jaxtyping import PyTree

from wsrl_kit.agent import jax_tools
from wsrl_kit.agent.parameters import NO_VALUE
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.classifier.data import JUDGED
from wsrl_kit.classifier.model import rewarded
from wsrl_kit.config.advice import diagnose
from wsrl_kit.config.config import PERSON, WSRLConfig, is_scheduler
from wsrl_kit.data.conventions import UNKNOWN
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.digests import input_digests
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.trajectory import Trajectory
from wsrl_kit.data.weights import retain, retention_scores
from wsrl_kit.envs.collect import collect
from wsrl_kit.envs.config import SCRIPTED, SOURCES, CollectConfig
from wsrl_kit.envs.human import with_human
from wsrl_kit.envs.make import make
from wsrl_kit.envs.playback import make_visible
from wsrl_kit.envs.wrappers import camera_shapes
from wsrl_kit.errors import ExperimentError, ParameterError, RunError, Stopped
from wsrl_kit.replay import frame_files
from wsrl_kit.robot.environment import RobotEnv
from wsrl_kit.robot.reconnecting import reconnecting
from wsrl_kit.robot.record import run_record
from wsrl_kit.robot.takeover import PersonInput, beside_person, by_person, by_task
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.loop import follow, resumed
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import FILTERED_FILE, WARMUP_FILE, Run, read_run
from wsrl_kit.training import experience, finetune, warmup
from wsrl_kit.training import start as agents
from wsrl_kit.training.evaluation import Evaluator
from wsrl_kit.training.inputs import load_offline_data
from wsrl_kit.training.remote import SPOOL, Link, RemoteLearning

LOGGER = logging.getLogger("wsrl_kit")

T = TypeVar("T")


def run_collect(
    config: CollectConfig, folder: Path, progress: Progress, takeover: PersonInput | None = None
) -> Dataset | None:
    """Records an experiment's data sources as `<source>.pkl` in HIL-SERL's format; replaces earlier files.

    Args:
        takeover: a person's; then `run_record` records, and None is returned.

    Raises:
        Stopped: on request; no file was replaced.
        WSRLKitError: no such experiment, no script for it, bad options, or a full disk.
    """
    if takeover is not None:
        run_record(config, folder, progress, takeover)
        return None
    if config.operator != SCRIPTED:
        raise ParameterError(
            f"operator {config.operator!r} needs a person: use wsrl-kit record, or 00_collect_data.ipynb in JupyterLab"
        )
    run = Run.open(folder, kind="collect", arm="", seed=config.seed, parameters=asdict(config), resume=False)
    with outcome_recorded(run, progress) as progress:
        total, done = sum(config.episodes.values()), 0
        trajectories: list[Trajectory] = []
        kind = ""

        def count(episodes: int) -> None:
            nonlocal done
            done += episodes
            progress.update(done, total, f"collecting {SOURCES[kind]}")
            if progress.stop_requested:
                raise Stopped(f"stopped after {done} of {total} episodes; no data file was written")

        for kind, episodes in config.episodes.items():
            trajectories += collect(
                config.exp_name,
                config.environment_options,
                kind,
                episodes=episodes,
                seed=config.seed,
                progress=count,
            )
        if not trajectories:
            raise ParameterError("demo_episodes, suboptimal_episodes and random_episodes must not all be 0")
        for kind in config.episodes:
            own = [trajectory for trajectory in trajectories if trajectory.source == SOURCES[kind]]
            write_hil_serl(folder / f"{SOURCES[kind]}.pkl", own)
        dataset = Dataset.from_trajectories(trajectories)
        run.finish({"episodes": total, "transitions": len(dataset)})
    return dataset


def run_warmup(config: WSRLConfig, folder: Path, progress: Progress, *, arm: str = "", resume: bool = True) -> Path:
    """Offline warmup on `offline_data_path`, then retention; returns the path of the warmup checkpoint.

    Writes the checkpoint to `checkpoint_path` (default: warmup.npz in the folder), and filtered_demos.pkl beside it. A
    finished run continues only if `warmup_steps` grew.

    Raises:
        Stopped: on request; the run can be resumed.
        WSRLKitError: bad data, parameters or disk.
    """
    if config.offline_data_path is None:
        raise ParameterError("offline_data_path must name the offline data, found None")
    target = Path(config.checkpoint_path) if config.checkpoint_path else folder / WARMUP_FILE
    # The length of fine-tuning is part of the parameters, since learning rates may decay over both stages.
    lengths = ("warmup_steps", "online_steps")
    kept = (target.parent / FILTERED_FILE,) if _retains(config) else ()
    run = _open(config, folder, "warmup", arm, resume, may_grow=lengths, outputs=(target, *kept))
    if run.is_finished:
        return target
    with outcome_recorded(run, progress) as progress:
        dataset, (agent_config, agent_state) = _offline_start(config, agents.create)
        agents.check_trunk(config, agent_config)
        tree = resumed(run, warmup.initial_tree(agent_state))
        with closing(Evaluator(config)) as evaluator:
            events = warmup.warmup(config, agent_config, tree, dataset, evaluator, lambda: progress.stop_requested)
            result = follow(events, run, progress)
        assert result is not None
        diagnosis = diagnose(dataset, read_run(folder))
        details = {
            "exp_name": config.exp_name,
            "warmup_steps": result.steps,
            "seed": config.seed,
            "diagnosis": asdict(diagnosis),
        }
        agents.save_warmup(target, agent_config, result.agent, agents.probe_batch(config, dataset), details)
        kept_transitions = _retain(config, agent_config, result.agent, dataset, target.parent / FILTERED_FILE)
        run.finish(
            {
                "gradient_steps": result.steps,
                "stopped_early": result.stopped_early,
                "checkpoint": str(target),
                "transitions": len(dataset),
                "kept_transitions": kept_transitions,
                "diagnosis": asdict(diagnosis),
            }
        )
    return target


def run_retention(config: WSRLConfig, checkpoint_path: Path, target: Path) -> int:
    """Repeats retention with a warmup checkpoint's TD errors; returns the number of transitions kept.

    Args:
        target: file for the kept data; removed if nothing is kept.

    Raises:
        WSRLKitError: bad data, checkpoint, parameters or disk.
    """
    jax_tools.enable_compilation_cache()
    dataset, agent_config = _offline_start(config, agents.configure)
    agent_state, _ = agents.load_warmup(checkpoint_path, agent_config)
    return _retain(config, agent_config, agent_state, dataset, target)


def _offline_start(config: WSRLConfig, prepare: Callable[[WSRLConfig, gymnasium.Env, Dataset], T]) -> tuple[Dataset, T]:
    """The offline data, and what is prepared for them and the environment."""
    with closing(make(config.exp_name, config.environment_options)) as environment:
        dataset = load_offline_data(config, config.offline_data_path, camera_shapes(environment))
        return dataset, prepare(config, environment, dataset)


def _retains(config: WSRLConfig) -> bool:
    """Whether warmup keeps a part of the data; kept without rewards, they would be data of failures."""
    clones_alone = config.missing_rewards == UNKNOWN and config.actor_value == NO_VALUE
    return config.retention_ratio > 0 and not clones_alone


def _retain(config: WSRLConfig, agent_config: SACConfig, agent_state: SACState, dataset: Dataset, target: Path) -> int:
    errors = warmup.dataset_td_errors(config, agent_config, agent_state, dataset)
    seed = jax_tools.episode_seed(config.seed, "retention")
    unit = config.retention_unit
    scores = retention_scores(config.retention_priority, dataset, errors, config.discount, unit, seed)
    kept = retain(dataset, scores, config.retention_ratio, unit) if _retains(config) else None
    if kept is None:
        target.unlink(missing_ok=True)
        return 0
    write_hil_serl(target, kept.trajectories())
    return len(kept)


def run_finetune(
    config: WSRLConfig,
    folder: Path,
    progress: Progress,
    *,
    arm: str = "",
    resume: bool = True,
    takeover: PersonInput | None = None,
) -> None:
    """Fine-tunes from `checkpoint_path` (or a fresh agent) with `demo_path` (or no offline data).

    A `reward_classifier` decides reward and success in training episodes, not in evaluation. What
    somebody judged goes to the folder `judged`, as data for the next classifier. A finished run continues only if
    `online_steps` grew, with the schedules of the new length.

    Args:
        takeover: from the pad, for `human` "person".

    Raises:
        Stopped: on request; the run can be resumed.
        WSRLKitError: bad data, checkpoint, parameters or disk.
    """
    if config.human == PERSON and takeover is None:
        raise ParameterError(
            "human 'person' needs somebody at the pad that 02_robot_finetune.ipynb shows in JupyterLab: run it there, "
            "or give human 'scripted' or 'none'"
        )
    if config.actor_value == NO_VALUE:
        raise ParameterError(
            f"actor_value {NO_VALUE!r} clones alone, but fine-tuning learns from rewards: give 'mean' or 'minimum'"
        )
    config = agents.advised(config)
    if config.frozen_rollout_steps > config.online_steps:
        raise ParameterError(
            f"frozen_rollout_steps must be at most online_steps, else nothing is learned: found "
            f"{config.frozen_rollout_steps} and {config.online_steps}"
        )
    run = _open(config, folder, "finetune", arm, resume, may_grow=("online_steps",))
    if run.is_finished:
        return
    with outcome_recorded(run, progress) as progress:
        with ExitStack() as stack:
            is_remote = is_scheduler(config.learner)
            # First, so that nothing moves before the learner is found.
            link = stack.enter_context(closing(Link(config.learner))) if is_remote else None
            # Closed also on errors and stops, which tells a robot to hold.
            environment = stack.enter_context(closing(_training_environment(config, takeover, progress)))
            dataset = None
            if config.demo_path is not None:
                cameras = camera_shapes(environment)
                dataset = load_offline_data(finetune.online(config), config.demo_path, cameras)
            agent_config, agent_state, probe = agents.start(config, environment, dataset)
            tree = _finetuning_tree(config, run, agent_config, agent_state, dataset)
            save = frame_files.save
            if link is None:
                evaluator = stack.enter_context(closing(Evaluator(config)))
                frames = experience.offline_frames(config, agent_config, tree["agent"], dataset)
                events = finetune.finetune(
                    config, agent_config, tree, environment, evaluator, probe, frames, lambda: progress.stop_requested
                )
            else:
                learning = RemoteLearning(link, config, agent_config, tree, environment, probe, run)
                events, save = learning.events(lambda: progress.stop_requested), learning.save
            # Closed before the environment, in which an actor's thread may still act.
            follow(stack.enter_context(closing(events)), run, progress, save)
        run.finish({"environment_steps": config.online_steps})
        if arm:
            # The frames of a whole ablation would fill the disk.
            frame_files.remove(run.checkpoint_path)


def _finetuning_tree(
    config: WSRLConfig,
    run: Run,
    agent_config: SACConfig,
    agent_state: SACState,
    dataset: Dataset | None,
) -> PyTree:
    """The run's last checkpoint, with room for the requested steps, or a fresh tree."""
    tree = finetune.initial_tree(config, agent_config, agent_state, dataset)
    if not run.checkpoint_path.exists():
        frame_files.remove(run.checkpoint_path)
        for folder in (JUDGED, SPOOL):
            shutil.rmtree(run.folder / folder, ignore_errors=True)
        return resumed(run, tree)
    earlier_steps = checkpoint.read_metadata(run.checkpoint_path).get("online_steps", config.online_steps)
    if earlier_steps >= config.online_steps:
        return resumed(run, tree, frame_files.load)
    shorter = replace(config, online_steps=earlier_steps)
    smaller = finetune.initial_tree(shorter, agent_config, agent_state, dataset)
    return experience.grown(resumed(run, smaller, frame_files.load), tree)


def _open(
    config: WSRLConfig,
    folder: Path,
    kind: str,
    arm: str,
    resume: bool,
    may_grow: tuple[str, ...],
    outputs: tuple[Path, ...] = (),
) -> Run:
    jax_tools.enable_compilation_cache()
    run = Run.open(
        folder,
        kind=kind,
        arm=arm,
        seed=config.seed,
        parameters=asdict(config) | {"learner": _recorded_learner(config, folder)},
        inputs=input_digests(config, kind),
        may_grow=may_grow,
        outputs=outputs,
        resume=resume,
    )
    stretched = ["PER's beta"] * (kind == "finetune" and config.use_prioritized_replay)
    stretched += ["the learning rates"] * (config.learning_rate_schedule != "constant")
    for name, before in run.grown.items() if stretched else ():
        now, schedules = getattr(config, name), " and ".join(stretched)
        LOGGER.warning("%s was %d, is %d: from here on the longer run stretches %s", name, before, now, schedules)
    return run


def _recorded_learner(config: WSRLConfig, folder: Path) -> str:
    """The learner that the run's parameters name: a run may continue with a learner at another address."""
    with suppress(RunError):
        earlier = read_run(folder).parameters.get("learner")
        if is_scheduler(config.learner) and isinstance(earlier, str) and is_scheduler(earlier):
            return earlier
    return config.learner


def _made(config: WSRLConfig, is_watched: bool) -> gymnasium.Env:
    """The task; a watched one able to draw itself, if it can be."""
    if is_watched:
        with suppress(ExperimentError):
            return make_visible(config.exp_name, config.environment_options)
    return make(config.exp_name, config.environment_options)


def _training_environment(config: WSRLConfig, takeover: PersonInput | None, progress: Progress) -> gymnasium.Env:
    """The environment to learn from, with human, classifier and robot reconnection."""
    environment = _made(config, is_watched=takeover is not None)
    robot, is_told = environment.unwrapped, config.reward_classifier is not None or takeover is not None
    if isinstance(robot, RobotEnv) and not robot.knows_success and not is_told:
        environment.close()
        raise ParameterError(
            f"nobody tells the robot at {robot.client.url} its successes: give reward_classifier, human 'person', or "
            "a target_pose in environment_options"
        )
    environment = with_human(environment, config.human, config.human_options)
    if config.reward_classifier is not None:
        confirm = None
        if config.confirm_success:
            if takeover is None:
                confirm = by_task(environment)
            else:
                confirm = by_person(environment, takeover, lambda: progress.stop_requested)
        environment = rewarded(environment, Path(config.reward_classifier), config.exp_name, confirm)
    elif config.confirm_success:
        raise ParameterError("confirm_success needs a reward_classifier, whose successes are confirmed, found None")
    if takeover is not None:
        # Outside of the classifier: a person's verdict overrules it.
        environment = beside_person(environment, takeover)
    return reconnecting(environment)
