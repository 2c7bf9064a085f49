"""Environment steps a second of fine-tuning on the simulated robot, where the time goes, and how long a start takes.

The loop is `wsrl_kit.training.finetune.finetune` with the parameters of the ablation's kit arm (UTD 4), for the
ablation's network (128 x 128, batch 128) and the papers' (256 x 256, batch 256), on one core, as an ablation's workers
have, and on all. Offline data are 24 scripted and random episodes; evaluations lie outside of what is measured.

For the split, the functions that the loop calls are replaced by ones that wait for their results and add up the time;
"the rest" is the loop's own time: records, diagnostics, schedules, Python. A transition is added in the same compiled
call that learns from it; "adding" is what that call takes more than one that only learns, measured apart, in turns on
equal arrays. The undisturbed loop takes its turns too: "sum" is the split's whole against it.

    --main-job    time `wsrl-kit ablation` with its defaults too, on data collected anew (about five minutes)
"""

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
PARTS = ("environment", "learning", "acting", "adding", "the rest")
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
    from wsrl_kit.training import finetune
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
    adding = 0.0
    if split:
        adding = seconds_of_adding(config, static, tree)
        finetune.act = timed(finetune.act, busy, "acting")
        finetune.add = timed(finetune.add, busy, "adding")
        finetune.learn = timed(finetune.learn, busy, "learning")
        environment.step = timed(environment.step, busy, "environment")
        environment.reset = timed(environment.reset, busy, "environment")
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
        busy["learning"] -= adding * STEPS
        busy["adding"] += adding * STEPS
        busy["the rest"] = whole - sum(busy.values())
        return {"whole": whole / STEPS} | {part: busy[part] / STEPS for part in PARTS}

    advance(WARM_UP_STEPS)
    return measure


def timed(function: Callable[..., Any], busy: dict[str, float], part: str) -> Callable[..., Any]:
    """The function, waiting for its results, its time added to a part's."""
    import jax

    def wrapper(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments, **named))
        busy[part] += time.perf_counter() - start
        return result

    return wrapper


def seconds_of_adding(config: Any, static: Any, tree: Any) -> float:
    """What adding a transition costs within the call that learns: medians of the call with and without, in turns."""
    import jax
    import numpy as np

    from wsrl_kit.agent import jax_tools
    from wsrl_kit.agent.transition import Transition
    from wsrl_kit.training import learner

    sampler, shape = experience.sampler_of(config), (config.update_to_data_ratio, config.batch_size)
    key = jax_tools.key(config.seed, "sampling")
    observation, action = (np.zeros(size, np.float32) for size in (static.observation_size, static.action_size))
    row = Transition(observation, action, np.float32(0), observation, np.float32(1), np.float32(1), np.float32(0))
    last = (key, np.int32(0), np.float32(0.5), np.float32(0.5))

    def both(*state: Any) -> Any:
        return learner.train_step(static, sampler, shape, *state, *last, transition=row)

    def alone(*state: Any) -> Any:
        return learner.train_step(static, sampler, shape, *state, *last)

    seconds: dict[Any, list[float]] = {both: [], alone: []}
    # Copied, since each call takes over the arrays that it is given.
    states = {call: jax.tree.map(jax.numpy.copy, (tree["agent"], tree["replay"])) for call in seconds}
    for _ in range(101):
        for call, times in seconds.items():
            start = time.perf_counter()
            *state, _ = jax.block_until_ready(call(*states[call]))
            times.append(time.perf_counter() - start)
            states[call] = tuple(state)
    # The first call compiles.
    return max(0.0, float(np.median(seconds[both][1:]) - np.median(seconds[alone][1:])))


IMPORT = """
import time
start = time.perf_counter()
from wsrl_kit.training import jobs
print(time.perf_counter() - start)
"""

FIRST_STEP = """
import json, pathlib, sys
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.training.jobs import run_finetune

class FirstStep:
    stop_requested = False

    def update(self, step, total, text):
        self.stop_requested = True

try:
    run_finetune(WSRLConfig(**json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]), FirstStep())
except Exception as error:
    assert "stopped" in str(error), error
"""


def starts() -> Iterator[tuple[str, float]]:
    """Seconds of fresh processes: importing, and from the command to the end of the first step that learns.

    Programs are kept as users have them kept, in a cache folder of this benchmark's own, empty or filled.
    """
    import json

    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}

    def run(script: str, cache: Path, *arguments: str) -> tuple[float, str]:
        start = time.perf_counter()
        command = [sys.executable, "-c", script, *arguments]
        environment = inherited | {"XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return time.perf_counter() - start, done.stdout

    # From nothing: a robot without offline data needs no files, and learns from its first transition on.
    changes = {"offline_data_path": None, "demo_path": None, "initial_offline_ratio": 0.0, "min_offline_ratio": 0.0}
    parameters = json.dumps(asdict(settings("128 x 128, batch 128", **changes)))
    for number in tqdm(range(STARTS), desc="starts", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            yield "import of a job", float(run(IMPORT, cache)[1])
            for kind in ("no program kept", "programs kept"):
                out = Path(folder) / f"{kind} {number}"
                yield f"to the first learning step, {kind}", run(FIRST_STEP, cache, parameters, str(out))[0]


def main_job() -> float:
    """Seconds of `wsrl-kit ablation` on freshly collected data, with all its processes, from its command to its end."""
    with tempfile.TemporaryDirectory() as folder:

        def command(name: str, *rest: str) -> None:
            script = "import sys; from wsrl_kit.cli import main; sys.exit(main())"
            subprocess.run([sys.executable, "-c", script, name, *rest], check=True, stdout=sys.stderr)

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
    cores = {"one core": core} if core else {}
    if core is None or len(os.sched_getaffinity(0)) > 1:
        cores["all cores"] = None
    raw: dict[str, Any] = {}
    speed = [["network", "cores", "steps/s", *PARTS, "acting + adding + rest", "sum"]]
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
    for name, seconds in starts():
        raw["starts"].setdefault(name, []).append(seconds)
    medians = turns.medians({"starts": raw["starts"]})["starts"]
    start = [["start of a process", "seconds"], *([name, f"{seconds:.1f}"] for name, seconds in medians.items())]
    tables = {"Fine-tuning, UTD 4, per environment step": speed, "Start": start}
    if with_main_job:
        raw["main job"] = main_job()
        tables["The main job"] = [["command", "seconds"], ["wsrl-kit ablation", f"{raw['main job']:.0f}"]]
    turns.show(turns.machine("wsrl-kit", "jax", "mujoco"), tables, raw, options.json)


if __name__ == "__main__":
    main()
