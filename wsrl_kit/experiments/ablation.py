"""Arms and ablations: arms differ in any parameter and share the data and the environment steps."""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wsrl_kit.config.config import Paths, WSRLConfig
from wsrl_kit.data.digests import input_digests
from wsrl_kit.data.sources import expand
from wsrl_kit.errors import DataError, RunError
from wsrl_kit.experiments.config import ARMS, AblationConfig, EngineConfig, naming
from wsrl_kit.experiments.engine import Job, connected, finished, run_jobs
from wsrl_kit.parameters import names_of
from wsrl_kit.runs.progress import Progress, outcome_recorded
from wsrl_kit.runs.run import FILTERED_FILE, RECORD, WARMUP_FILE, Run, read_run
from wsrl_kit.training.inputs import load_offline_data

RETENTION = names_of(WSRLConfig, stage="retention")


def run_ablation(
    config: WSRLConfig,
    ablation: AblationConfig,
    root: Path,
    progress: Progress,
    resume: bool = True,
    cluster: Any = None,
) -> None:
    """Runs every unfinished arm and seed in `root/<arm>/seed_<n>`, and their warmups in `root/warmup`.

    An earlier ablation can be extended: with other arms, variants or seeds its runs are kept; with more `online_steps`
    they go on.

    Args:
        config: parameters that all arms share.
        resume: False starts every run anew.
        cluster: a Dask cluster or client whose workers do the runs, instead of an address in `scheduler`.

    Raises:
        Stopped: the user stopped it; finished runs are kept, the others resume.
        RunError: a run failed (the others are finished first), or the workers can't do the runs.
        WSRLKitError: the data or parameters are bad.
    """
    config, transitions = with_files(config)
    compared = {name: value for name, value in asdict(ablation).items() if name not in names_of(EngineConfig)}
    parameters = asdict(config) | compared
    inputs = input_digests(config, "ablation")
    if resume and finished(root, parameters, inputs):
        return
    jobs = plan(config, ablation, root)
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
        with connected(ablation, root, len(jobs), cluster) as client:
            failures = run_jobs(jobs, client, progress, resume)
        if failures:
            raise RunError(f"{len(failures)} of {len(jobs)} runs failed: {'; '.join(failures)}")
        run.finish({"runs": len(jobs), "transitions": transitions})


def with_files(config: WSRLConfig) -> tuple[WSRLConfig, int]:
    """The config with its offline data as files by source, and the number of their transitions.

    Raises:
        DataError: a file is missing, damaged, unsafe, empty, or does not fit the others.
    """
    paths: Paths = {name: [str(path) for path in files] for name, files in expand(config.offline_data_path).items()}
    return replace(config, offline_data_path=paths), len(load_offline_data(config, paths, cameras={}))


def plan(config: WSRLConfig, ablation: AblationConfig, root: Path) -> list[Job]:
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
                jobs.append(Job("warmup", label, seeded, folder / f"seed_{seed}"))
    for seed in ablation.seeds:
        for name in ablation.arms:
            warmup_folder = folders[name] / f"seed_{seed}" if name in folders else None
            run_config = replace(
                configs[name],
                seed=seed,
                checkpoint_path=str(warmup_folder / WARMUP_FILE) if warmup_folder else None,
                demo_path=_offline_data(name, ablation.arm(name).offline, configs[name], config, warmup_folder),
            )
            jobs.append(Job("finetune", name, run_config, root / name / f"seed_{seed}"))
    return jobs


def _warmup_config(config: WSRLConfig, common: WSRLConfig) -> WSRLConfig:
    """The arm's config with every parameter that warmup ignores reset, so that equal warmups compare equal.

    The lengths of fine-tuning stay: learning rates may decay over both stages together.
    """
    ignored = names_of(WSRLConfig, stage="finetuning") + RETENTION
    others = {name: getattr(common, name) for name in ignored}
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
    own, shared = ({name: getattr(each, name) for name in RETENTION} for each in (config, common))
    kept = warmup_folder / FILTERED_FILE
    return str(kept if own == shared else kept.with_stem("_".join([kept.stem, *map(str, own.values())])))


def extends_earlier(root: Path, parameters: dict[str, Any], compared: Collection[str]) -> bool:
    """Whether the folder holds a run that differs in `compared` parameters, else at most in fewer `online_steps`."""
    if not (root / RECORD).exists():
        return False
    before = read_run(root).parameters
    if before.get("online_steps", 0) > parameters["online_steps"]:
        return False
    shared = parameters.keys() - compared - {"online_steps"}
    changed = any(before.get(name) != parameters[name] for name in compared)
    return changed and all(before.get(name) == parameters[name] for name in shared)
