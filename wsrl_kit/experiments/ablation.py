"""Arms and ablations: arms differ in any parameter and share the data and the environment steps."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wsrl_kit.config.config import FINETUNING_PARAMETERS, RETENTION_PARAMETERS, Paths, WSRLConfig
from wsrl_kit.data.sources import expand
from wsrl_kit.errors import DataError, ParameterError, RunError
from wsrl_kit.experiments.engine import Job, finished, run_jobs
from wsrl_kit.parameters import check_distinct, check_some, parameter, unknown, validate
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import Run, read_run
from wsrl_kit.training.inputs import input_digests
from wsrl_kit.training.jobs import FILTERED_FILE, WARMUP_FILE, load_offline_data
from wsrl_kit.training.warmup import PADDING

OTHER_FOLDERS = ("warmup", "figures")
"""Folders beside the arms' in an ablation's folder."""


@dataclass(frozen=True)
class Arm:
    """One setting of the ablation.

    Attributes:
        offline: offline data of stage 2: "none", "demos", "all", or "kept" (by retention, of all).
        warmup: whether the arm starts from a warmup checkpoint.
        overrides: parameters that differ from the common config.
    """

    offline: str
    warmup: bool
    overrides: dict[str, Any] = field(default_factory=dict)


UNIFORM = {"use_prioritized_replay": False}
NO_FROZEN_ROLLOUTS = {"frozen_rollout_steps": 0}
SYMMETRIC = {"offline_ratio_schedule": "constant", "initial_offline_ratio": 0.5, "min_offline_ratio": 0.5}
"""RLPD's symmetric sampling (Ball et al. 2023, section 4.1)."""

ARMS = {
    "scratch": Arm("none", False, UNIFORM | NO_FROZEN_ROLLOUTS),
    "rlpd_demos": Arm("demos", False, UNIFORM | NO_FROZEN_ROLLOUTS | SYMMETRIC),
    "rlpd_all": Arm("all", False, UNIFORM | NO_FROZEN_ROLLOUTS | SYMMETRIC),
    "warmup_decay": Arm("kept", True, NO_FROZEN_ROLLOUTS | {"random_steps": 0}),
    "warmup_wsrl": Arm("none", True, UNIFORM | {"random_steps": 0}),
    "warmup_no_data": Arm("none", True, UNIFORM | NO_FROZEN_ROLLOUTS | {"random_steps": 0}),
}
"""Arms by name. Only arms without warmup begin with `random_steps`, only WSRL's arm with `frozen_rollout_steps`.

`warmup_no_data`, WSRL's arm without frozen rollouts, is the setting of the downward spiral (arXiv 2412.07762,
section 4).
"""

COMMON = (
    "seed",
    "exp_name",
    "environment_options",
    "offline_data_path",
    "demo_path",
    "checkpoint_path",
    "online_steps",
)
"""Parameters that no variant may change: arms share task, data and budget; the arm sets the rest."""


@dataclass(frozen=True)
class AblationConfig:
    """What is compared.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    arms: list[str] = parameter(
        ["scratch", "rlpd_demos", "rlpd_all", "warmup_decay", "warmup_wsrl"], "settings to compare: arms and variants"
    )
    variants: dict[str, dict] = parameter(
        {}, "more arms by name: {parameter: value} that differ, and `like`: the arm that they differ from"
    )
    base_arm: str = parameter("warmup_decay", "arm that a variant without `like` differs from", choices=tuple(ARMS))
    seeds: list[int] = parameter([0, 1, 2, 3, 4], "one run of every arm for each seed", minimum=0)
    control: str = parameter("rlpd_all", "arm or variant that the others are compared with")
    worker_processes: int = parameter(0, "runs at the same time; 0: one per core", minimum=0)

    def __post_init__(self) -> None:
        validate(self)
        check_distinct("arms", self.arms)
        check_distinct("seeds", self.seeds)
        variants = {name: _checked_variant(name, variant) for name, variant in self.variants.items()}
        object.__setattr__(self, "variants", variants)
        for name in (*self.arms, self.control):
            if name not in ARMS and name not in variants:
                raise unknown(name, [*ARMS, *variants], "arm or variant")

    def arm(self, name: str) -> Arm:
        """The arm of `ARMS`, or the variant as an arm."""
        if name in ARMS:
            return ARMS[name]
        overrides = dict(self.variants[name])
        like = ARMS[overrides.pop("like", self.base_arm)]
        return replace(like, overrides=like.overrides | overrides)


def _checked_variant(name: str, variant: dict[str, Any]) -> dict[str, Any]:
    """The variant with its values in the parameters' types."""
    if not re.fullmatch(r"\w[\w.+=-]*", name) or name in (*ARMS, *OTHER_FOLDERS):
        reserved = ", ".join((*ARMS, *OTHER_FOLDERS))
        raise ParameterError(
            f"a variant's name must be letters, digits and any of _ . + = -, and none of {reserved}, found {name!r}"
        )
    overrides = dict(variant)
    like = {"like": overrides.pop("like")} if "like" in overrides else {}
    for arm in like.values():
        if arm not in ARMS:
            raise unknown(str(arm), list(ARMS), f"arm for the variant {name} to be like")
    for parameter_name in COMMON:
        if parameter_name in overrides:
            raise ParameterError(
                f"variant {name}: {parameter_name} must be the same for all arms, found one of its own"
            )
    with naming(name):
        return like | check_some(WSRLConfig, overrides)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts the variant's name before the sentence of a ParameterError."""
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"variant {name}: {error}") from error


def run_ablation(
    config: WSRLConfig, ablation: AblationConfig, root: Path, progress: Progress, resume: bool = True
) -> None:
    """Runs every unfinished arm and seed in `root/<arm>/seed_<n>`, and their warmups in `root/warmup`.

    An earlier ablation can be extended: with other arms, variants or seeds its runs are kept; with more `online_steps`
    they go on.

    Args:
        config: parameters that all arms share.
        resume: False starts every run anew.

    Raises:
        Stopped: the user stopped it; finished runs are kept, the others resume.
        RunError: a run failed (the others are finished first), or a worker process died.
        WSRLKitError: the data or parameters are bad.
    """
    config, transitions = with_files(config)
    # The number of worker processes may change between sessions.
    compared = {name: value for name, value in asdict(ablation).items() if name != "worker_processes"}
    parameters = asdict(config) | compared
    inputs = input_digests(config, "ablation")
    if resume and finished(root, parameters, inputs):
        return
    jobs = plan(config, ablation, root, padded(transitions))
    same = resume and not extends_earlier(root, parameters, compared)
    run = Run.open(
        root,
        kind="ablation",
        arm="",
        seed=0,
        parameters=parameters,
        inputs=inputs,
        may_grow=("online_steps",),
        resume=same,
    )
    with outcome_recorded(run, progress) as progress:
        failures = run_jobs(jobs, ablation.worker_processes, progress, resume)
        if failures:
            raise RunError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")
        run.finish({"runs": len(jobs), "transitions": transitions})


def with_files(config: WSRLConfig) -> tuple[WSRLConfig, int]:
    """The config with its offline data as files by source, and the number of their transitions.

    Raises:
        DataError: a file is missing, damaged, unsafe, empty, or does not fit the others.
    """
    paths: Paths = {name: [str(path) for path in files] for name, files in expand(config.offline_data_path).items()}
    return replace(config, offline_data_path=paths), len(load_offline_data(config, paths, cameras=()))


def padded(transitions: int) -> int:
    """Rows for the offline data of every run, so that all runs share compiled programs."""
    return -(-transitions // PADDING) * PADDING


def plan(config: WSRLConfig, ablation: AblationConfig, root: Path, offline_capacity: int) -> list[Job]:
    """All runs of an ablation, warmups first.

    Arms with equal warmups share a checkpoint per seed: in `root/warmup/seed_<n>` if the warmup has the common
    parameters, else in `root/warmup/<name>/seed_<n>`. <name> is the first variant with that warmup, whether it is among
    the arms or not, so that the folder keeps its name when arms are added.

    Raises:
        ParameterError: a variant's parameters do not fit the common ones.
        DataError: an arm needs a source that is not there.
    """
    configs, folders = {}, {}
    warmups = {root / "warmup": _warmup_config(config, config)}
    for name in (*ARMS, *ablation.variants):
        with naming(name):
            configs[name] = replace(config, **ablation.arm(name).overrides)
        if ablation.arm(name).warmup:
            own = _warmup_config(configs[name], config)
            same = [folder for folder, other in warmups.items() if other == own]
            folders[name] = same[0] if same else root / "warmup" / name
            warmups[folders[name]] = own
    used = {folders[name] for name in ablation.arms if name in folders}
    jobs = []
    for seed in ablation.seeds:
        for folder, warmup_config in warmups.items():
            if folder in used:
                label = "_".join(folder.relative_to(root).parts)
                seeded = replace(warmup_config, seed=seed)
                jobs.append(Job("warmup", label, seeded, folder / f"seed_{seed}", offline_capacity))
    for seed in ablation.seeds:
        for name in ablation.arms:
            warmup_folder = folders[name] / f"seed_{seed}" if name in folders else None
            run_config = replace(
                configs[name],
                seed=seed,
                checkpoint_path=str(warmup_folder / WARMUP_FILE) if warmup_folder else None,
                demo_path=_offline_data(name, ablation.arm(name).offline, configs[name], config, warmup_folder),
            )
            jobs.append(Job("finetune", name, run_config, root / name / f"seed_{seed}", offline_capacity))
    return jobs


def _warmup_config(config: WSRLConfig, common: WSRLConfig) -> WSRLConfig:
    """The arm's config with every parameter that warmup ignores reset, so that equal warmups compare equal."""
    others = {name: getattr(common, name) for name in (*FINETUNING_PARAMETERS, *RETENTION_PARAMETERS)}
    return replace(config, **others | {"checkpoint_path": None, "demo_path": None})


def _offline_data(name: str, offline: str, config: WSRLConfig, common: WSRLConfig, warmup_folder: Path | None) -> Paths:
    """The `demo_path` of an arm's fine-tuning: None, sources, or a file of kept data beside the warmup checkpoint.

    Every retention other than the common one has a file of its own, which arms share.
    """
    sources = common.offline_data_path
    assert isinstance(sources, dict)
    if offline == "all":
        return sources
    if offline == "demos":
        if "demos" not in sources:
            raise DataError(f"the arm {name} needs a source named demos, found {', '.join(sources) or 'no source'}")
        return {"demos": sources["demos"]}
    if offline == "none" or config.retention_ratio == 0:
        return None
    assert warmup_folder is not None
    own, shared = ([str(getattr(each, name)) for name in RETENTION_PARAMETERS] for each in (config, common))
    kept = warmup_folder / FILTERED_FILE
    return str(kept if own == shared else kept.with_stem("_".join([kept.stem, *own])))


def extends_earlier(root: Path, parameters: dict[str, Any], compared: Collection[str]) -> bool:
    """Whether the folder holds a run that differs in `compared` parameters, else at most in fewer `online_steps`."""
    if not (root / "run.json").exists():
        return False
    before = read_run(root).parameters
    if before.get("online_steps", 0) > parameters["online_steps"]:
        return False
    shared = parameters.keys() - compared - {"online_steps"}
    changed = any(before.get(name) != parameters[name] for name in compared)
    return changed and all(before.get(name) == parameters[name] for name in shared)
