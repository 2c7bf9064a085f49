"""Where fine-tuning's time goes, where the seconds before its first learning step go, and the main job's time.

The loop is `wsrl_kit.training.finetune.finetune` with the parameters of the ablation's kit arm (UTD 4), for the
ablation's network (128 x 128, batch 128) and the papers' (256 x 256, batch 256), on one core, as an ablation's workers
have, and on all. Offline data are 24 scripted and random episodes; evaluations lie outside of what is measured.

For the split, the functions that the loop calls are replaced by ones that wait for their results and add up the time;
"the rest" is the loop's own time: records, diagnostics, schedules, Python. The undisturbed loop takes its turns too:
"sum" is the split's whole against it.

A start is `wsrl-kit finetune` of a warmed-up agent until its first learning step has been taken, with caches of this
benchmark's own, empty or filled: the command until its job begins, and the job's parts in a process of its own.

    --main-job    time `wsrl-kit ablation` with its defaults too, on data collected anew
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import turns
from tqdm import tqdm

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "03_ablation_warmup.ipynb"
NETWORKS = {
    "128 x 128, batch 128": {"hidden_sizes": [128, 128], "batch_size": 128},
    "256 x 256, batch 256": {"hidden_sizes": [256, 256], "batch_size": 256},
}
WARM_UP_STEPS = 150
"""Past the first record (step 50), so that everything is compiled."""
STEPS = 200
"""Environment steps of a turn: whole log intervals."""
PARTS = ("environment", "learning", "acting", "the rest")
STARTS = 3
"""Fresh processes of each kind."""


def settings(network: str, **changes: Any) -> Any:
    """The ablation's parameters, as its kit arm has them, by priority, without evaluations or checkpoints."""
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.experiments.config import ARMS
    from wsrl_kit.notebook.parameters import read_notebook
    from wsrl_kit.parameters import build

    defaults = read_notebook(NOTEBOOK).defaults | ARMS["warmup_decay"].overrides | NETWORKS[network]
    apart = {
        "use_prioritized_replay": True,
        "evaluation_interval": 10**9,
        "checkpoint_interval": 10**9,
        "evaluation_episodes": 1,
    }
    return build(WSRLConfig, defaults | apart | changes)


def prepare(network: str, split: bool, rounds: int) -> turns.Measure:
    """A fine-tuning loop, warmed up; a turn is its next `STEPS` environment steps."""
    from wsrl_kit.data.dataset import Dataset
    from wsrl_kit.data.weights import weigh
    from wsrl_kit.envs.collect import collect
    from wsrl_kit.envs.make import make
    from wsrl_kit.runs.loop import Step
    from wsrl_kit.training import actor, finetune
    from wsrl_kit.training import start as agents
    from wsrl_kit.training.evaluation import Evaluator

    config = settings(network, online_steps=WARM_UP_STEPS + rounds * STEPS + 1)
    episodes = [
        episode
        for kind in ("expert", "random")
        for episode in collect(config.exp_name, config.environment_options, kind, episodes=12, seed=0)
    ]
    source_weights = {**config.source_weights, "demos": config.demo_weight}
    dataset = weigh(Dataset.from_trajectories(episodes), source_weights, config.success_weight_bonus)
    environment = make(config.exp_name, config.environment_options)
    static, agent = agents.create(config, environment, dataset)
    probe = agents.probe_batch(config, dataset, agents.PROBE_SIZE)
    tree = finetune.initial_tree(config, static, agent, dataset)
    busy = dict.fromkeys(PARTS, 0.0)
    if split:
        actor.InlineActor._action = timed(actor.InlineActor._action, busy, "acting")  # type: ignore[method-assign]
        # It returns before learning has ended.
        finetune.learn = timed(finetune.learn, busy, "learning", lambda run: run.agent)
        environment.step = timed(environment.step, busy, "environment")  # type: ignore[method-assign]
        environment.reset = timed(environment.reset, busy, "environment")  # type: ignore[method-assign]
    events = finetune.finetune(config, static, tree, environment, Evaluator(config), probe)

    def advance(steps: int) -> float:
        start = time.perf_counter()
        while steps > 0:
            steps -= isinstance(next(events), Step)
        return time.perf_counter() - start

    def measure() -> Mapping[str, float]:
        busy.update(dict.fromkeys(PARTS, 0.0))
        whole = advance(STEPS)
        if not split:
            return {"whole": whole / STEPS}
        busy["the rest"] = whole - sum(busy.values())
        return {"whole": whole / STEPS} | {part: busy[part] / STEPS for part in PARTS}

    advance(WARM_UP_STEPS)
    return measure


def timed(
    function: Callable[..., Any], busy: dict[str, float], part: str, result_of: Callable[[Any], Any] | None = None
) -> Callable[..., Any]:
    """The function, waiting for its result or what its second argument then holds, its time added to a part's."""
    import jax

    def wrapper(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments, **named)
        jax.block_until_ready(result if result_of is None else result_of(arguments[1]))
        busy[part] += time.perf_counter() - start
        return result

    return wrapper


IN_PARTS = """
import inspect, json, pathlib, sys, time
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.training import finetune, jobs
began, seconds = time.perf_counter(), {}

def timed(module, name, part):
    function = getattr(module, name)
    def wrapper(*arguments, **named):
        start = time.perf_counter()
        result = function(*arguments, **named)
        # Events are made as they are taken.
        result = list(result) if inspect.isgenerator(result) else result
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start
        return result
    setattr(module, name, wrapper)

class FirstStep:
    stop_requested = False

    def update(self, step, total, text):
        self.stop_requested = True

timed(jobs, "_training_environment", "environments")
timed(jobs, "Evaluator", "environments")
timed(jobs, "load_offline_data", "data")
timed(jobs.agents, "start", "agent and checkpoint")
timed(jobs, "_finetuning_tree", "replay")
timed(finetune, "evaluate", "first evaluation, diagnosis")
timed(finetune, "learn", "first learning step")
try:
    jobs.run_finetune(WSRLConfig(**json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]), FirstStep())
except Exception as error:
    assert "stopped" in str(error), error
seconds["the rest"] = time.perf_counter() - began - sum(seconds.values())
print(json.dumps(seconds))
"""


def starts() -> Iterator[tuple[str, dict[str, float]]]:
    """Seconds of fresh processes by part, and of the whole command, with empty and with filled caches."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with tempfile.TemporaryDirectory() as folder:
        command("collect", "--out", f"{folder}/data")
        short = ["--warmup_steps=50", "--evaluation_episodes=1"]
        command("warmup", "--preset=small", *short, f"--offline_data_path={folder}/data", "--out", f"{folder}/warmup")
        given = {
            "checkpoint_path": f"{folder}/warmup/warmup.npz",
            "demo_path": f"{folder}/warmup/filtered_demos.pkl",
            "log_interval": 1,
        }
        parameters = json.dumps(asdict(settings("128 x 128, batch 128", evaluation_episodes=20, **given)))
        flags = [f"--{name}={value}" for name, value in given.items()]
        for number in tqdm(range(STARTS), desc="starts", leave=False):
            cache = Path(folder) / f"cache {number}"
            kept = inherited | {"XDG_CACHE_HOME": str(cache), "NUMBA_CACHE_DIR": str(cache / "loops")}
            for kind in ("empty caches", "filled caches"):
                out = Path(folder) / f"{kind} {number}"
                # First: the parts fill the caches further.
                command_seconds = until_the_job(flags, out / "command", kept)
                child = [sys.executable, "-c", IN_PARTS, parameters, str(out / "parts")]
                parts = subprocess.run(child, env=kept, check=True, stdout=subprocess.PIPE, text=True).stdout
                seconds = {"command, kernel, imports, pre-flight check, until the job begins": command_seconds}
                seconds |= json.loads(parts)
                yield kind, seconds | {"all together": sum(seconds.values())}


def until_the_job(flags: list[str], out: Path, environment: Mapping[str, str]) -> float:
    """Seconds from the command to the job in the notebook's kernel, which writes run.json first; it is then killed."""
    start, arguments = time.perf_counter(), ["finetune", "--preset=small", *flags, "--out", str(out)]
    process = subprocess.Popen([*WSRL_KIT, *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        while not (out / "run.json").exists():
            if process.poll() is not None:
                raise SystemExit(f"wsrl-kit {' '.join(arguments)} ended with {process.returncode}")
            time.sleep(0.02)
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


WSRL_KIT = [sys.executable, "-c", "import sys; from wsrl_kit.cli import main; sys.exit(main())"]


def command(*arguments: str) -> None:
    subprocess.run([*WSRL_KIT, *arguments], check=True, stdout=sys.stderr)


def main_job() -> float:
    """Seconds of `wsrl-kit ablation` on freshly collected data, with all its processes, from its command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        command("collect", "--out", f"{folder}/data")
        start = time.perf_counter()
        command("ablation", f"--offline_data_path={folder}/data", "--out", f"{folder}/ablation")
        return time.perf_counter() - start


def main() -> None:
    # Taken out before the options that all benchmarks share are read.
    with_main_job = "--main-job" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--main-job"]
    options = turns.arguments(__doc__)
    core = turns.one_core()
    cores: dict[str, frozenset[int] | None] = {"one core": core} if core else {}
    if core is None or len(os.sched_getaffinity(0)) > 1:
        cores["all cores"] = None
    raw: dict[str, Any] = {}
    speed = [["network", "cores", "steps/s", *PARTS, "acting + rest", "sum"]]
    for network in NETWORKS:
        for where, those in cores.items():
            name = f"{network}, {where}"
            contenders = [
                turns.Contender(kind, prepare, (network, kind == "split", options.rounds), those)
                for kind in ("undisturbed", "split")
            ]
            raw[name] = turns.compare(contenders, options.rounds)
            found = turns.medians(raw[name])
            split, undisturbed = found["split"], found["undisturbed"]["whole"]
            whole = sum(split[part] for part in PARTS)
            overhead = (whole - split["environment"] - split["learning"]) / whole
            parts = [f"{1e3 * split[part]:.2f} ms" for part in PARTS]
            speed.append(
                [network, where, f"{1 / undisturbed:.0f}", *parts, f"{overhead:.1%}", f"{whole / undisturbed:.2f}"]
            )
    raw["starts"] = {}
    for kind, seconds in starts():
        for part, value in seconds.items():
            raw["starts"].setdefault(kind, {}).setdefault(part, []).append(value)
    found = turns.medians(raw["starts"])
    start = [
        ["seconds", *found],
        *([part, *(f"{found[kind][part]:.1f}" for kind in found)] for part in found["empty caches"]),
    ]
    tables = {"Fine-tuning, UTD 4, per environment step": speed, "Start": start}
    if with_main_job:
        raw["main job"] = main_job()
        tables["The main job"] = [["command", "seconds"], ["wsrl-kit ablation", f"{raw['main job']:.0f}"]]
    turns.show(turns.machine("wsrl-kit", "jax", "mujoco"), tables, raw, options.json)


if __name__ == "__main__":
    main()
