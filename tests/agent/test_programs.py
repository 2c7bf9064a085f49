"""Compiled programs are kept in the user's cache folder, and change nothing but the time that a run takes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from slow_cases import one_fast
from training_samples import PENDULUM, settings

FOLDER = """
import jax
from wsrl_kit.agent import jax_tools

jax_tools.enable_compilation_cache()
print(jax.config.jax_compilation_cache_dir)
"""

RUN = """
import json, sys
from pathlib import Path
import jax
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.runs.progress import Silent
from wsrl_kit.training.jobs import run_finetune

events = []
jax.monitoring.register_event_listener(lambda event, **details: events.append(event))
run_finetune(WSRLConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]), Silent())
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def process(script: str, *arguments: str, **environment: str) -> str:
    """What a process of its own prints, on both streams, without the cache that all tests share."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def test_the_folder_is_the_users_cache_folder(tmp_path):
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    assert process(FOLDER, **home) == str(tmp_path / ".cache" / "wsrl-kit" / "programs")


@pytest.mark.parametrize(
    ("choice", "found"),
    one_fast(
        [
            ({"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, "elsewhere"),
            ({"JAX_COMPILATION_CACHE_DIR": ""}, ""),
            ({"JAX_ENABLE_COMPILATION_CACHE": "0"}, "None"),
        ]
    ),
)
def test_what_the_user_chose_holds(tmp_path, choice, found):
    assert process(FOLDER, XDG_CACHE_HOME=str(tmp_path), **choice) == found
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_no_obstacle(tmp_path):
    occupied = tmp_path / "occupied"
    occupied.touch()
    assert process(FOLDER, XDG_CACHE_HOME=str(occupied)) == "None"


@pytest.mark.slow
def test_a_run_with_kept_programs_ends_with_the_same_bytes_as_the_one_that_compiled_them(tmp_path):
    config = json.dumps(asdict(settings(**PENDULUM, online_steps=40, log_interval=1)))
    cache = tmp_path / "cache"

    def run(name: str) -> tuple[int, bytes]:
        """How many programs were found, which is all that is printed, and the metrics."""
        found = process(RUN, config, str(tmp_path / name), XDG_CACHE_HOME=str(cache))
        return int(found), (tmp_path / name / "metrics.csv").read_bytes()

    assert run("cold")[0] == 0
    kept = list(cache.rglob("*-cache"))
    assert any("learning_step" in path.name for path in kept)
    found, metrics = run("warm")
    assert found >= len(kept)
    assert metrics == (tmp_path / "cold" / "metrics.csv").read_bytes()
    # A half-written program is compiled again, in silence.
    for path in cache.rglob("*-cache"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run("damaged") == (0, metrics)
