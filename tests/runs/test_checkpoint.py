"""Checkpoints: exact, written whole or not at all, and refused in one sentence when they do not fit."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PyTree

from wsrl_kit.agent import sac
from wsrl_kit.agent.sac import SACConfig, SACState
from wsrl_kit.agent.transition import Transition
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import CheckpointError
from wsrl_kit.runs import checkpoint
from wsrl_kit.training import start as agents


def small_tree(value: float = 0.1) -> dict[str, Any]:
    return {
        "network": {"kernel": jnp.full((2, 3), value), "bias": jnp.arange(3)},
        "step": np.int64(2**40 + 1),
        "error": np.float64(value),
        "held": (jnp.array([True, False]), np.zeros(0, np.float32)),
    }


def assert_identical(one: PyTree, other: PyTree) -> None:
    def same(a: Any, b: Any) -> None:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert isinstance(a, jax.Array) == isinstance(b, jax.Array)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, one, other)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, small_tree(), {"rows": 7})
    return path


def test_a_round_trip_is_bit_exact_in_values_and_types(saved: Path) -> None:
    assert_identical(checkpoint.load(saved, small_tree(9.0)), small_tree())
    assert checkpoint.read_metadata(saved) == {"rows": 7}


def test_saving_makes_folders_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "checkpoint.npz"
    for value in (1.0, 2.0):
        checkpoint.save(path, small_tree(value), {})
        assert_identical(checkpoint.load(path, small_tree()), small_tree(value))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.npz"]


def test_a_disk_that_fails_leaves_the_earlier_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; an earlier file there is intact$"):
        checkpoint.save(saved, small_tree(5.0), {})
    assert_identical(checkpoint.load(saved, small_tree()), small_tree())
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from wsrl_kit.errors import CheckpointError
from wsrl_kit.runs import checkpoint

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(Path(sys.argv[1]), {"large": np.zeros(100_000), "other": np.zeros(10)}, {})
except CheckpointError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_writing_costs_one_sentence_and_nothing_else(saved: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(saved)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout == (f"{saved} can't be written: File too large; an earlier file there is intact\n")
    assert_identical(checkpoint.load(saved, small_tree()), small_tree())
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def refusal(path: Path, template: PyTree | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, small_tree() if template is None else template)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.npz").endswith("does not exist: expected a checkpoint file")


def test_another_structure_shape_or_type_is_refused_by_name(saved: Path) -> None:
    wider = small_tree() | {"network": {"kernel": jnp.zeros((2, 4)), "bias": jnp.arange(3)}}
    assert "network/kernel as float32[2, 3], but the configured network needs float32[2, 4]" in refusal(saved, wider)
    assert "has no more: expected" in refusal(saved, small_tree() | {"more": jnp.zeros(1)})
    fewer = {name: leaf for name, leaf in small_tree().items() if name != "error"}
    assert "holds error, which the configured network does not have" in refusal(saved, fewer)
    assert "step as int64[], but the configured network needs int32[]" in refusal(
        saved, small_tree() | {"step": np.int32(0)}
    )


def test_a_truncated_file_is_refused_at_any_length(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), 37):
        saved.write_bytes(whole[:length])
        assert "is damaged or not a checkpoint" in refusal(saved)


def test_a_damaged_file_is_refused_or_read_right(saved: Path) -> None:
    whole = saved.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        saved.write_bytes(damaged)
        try:
            tree = checkpoint.load(saved, small_tree(9.0))
        except CheckpointError:
            refused += 1
        else:
            assert_identical(tree, small_tree())
    assert refused > len(whole) / 9


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x04N."])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    assert "is damaged or not a checkpoint" in refusal(path)


def test_arrays_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, observations=np.zeros(3))
    assert refusal(path).endswith("is not a checkpoint of wsrl_kit: it has no metadata")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "is damaged or not a checkpoint" in refusal(path)
    np.savez(path, __metadata__=np.zeros(3))
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint"):
        checkpoint.read_metadata(path)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_inside_is_refused_and_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.npz", tmp_path / "trace"
    payload = np.array([Payload(trace)], dtype=object)
    metadata = np.frombuffer(json.dumps({}).encode(), np.uint8)
    np.savez(path, **{checkpoint.METADATA: metadata, "step": payload})
    assert "is damaged or not a checkpoint" in refusal(path)
    np.savez(path, **{checkpoint.METADATA: payload})
    with pytest.raises(CheckpointError):
        checkpoint.read_metadata(path)
    assert not trace.exists()


# The warmup checkpoint


def network(observation_size: int = 3, **changed: Any) -> SACConfig:
    return sac.from_parameters(WSRLConfig(**({"hidden_sizes": [4]} | changed)), observation_size, 2)


@pytest.fixture(scope="module")
def fresh() -> SACState:
    return sac.create(network(), jax.random.key(0), jnp.zeros(3), jnp.ones(3))


@pytest.fixture(scope="module")
def warmup_file(fresh: SACState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = jax.tree.map(lambda leaf: leaf + 1, fresh)
    probe = Transition(*(jnp.ones((5, *size)) for size in ((3,), (2,), (), (3,), (), (), ())))
    path = tmp_path_factory.mktemp("warmup") / "warmup.npz"
    agents.save_warmup(path, network(), agent, probe, {"seed": 3})
    return path


def test_a_warmup_checkpoint_gives_agent_and_probe_back(warmup_file: Path, fresh: SACState) -> None:
    agent, probe = agents.load_warmup(warmup_file, network())
    assert_identical(agent, jax.tree.map(lambda leaf: leaf + 1, fresh))
    assert probe.observation.shape == (5, 3)
    assert checkpoint.read_metadata(warmup_file)["seed"] == 3


@pytest.mark.parametrize(
    ("observation_size", "changed", "sentence"),
    [
        (4, {}, "was made with observation_size 3, but this run has observation_size 4"),
        (3, {"hidden_sizes": [4, 4]}, "was made with hidden_sizes [4], but this run has hidden_sizes (4, 4)"),
        (3, {"critic_ensemble_size": 5}, "was made with critic_ensemble_size 2, but this run has"),
        (3, {"layer_norm": False}, "was made with layer_norm True, but this run has layer_norm False"),
        (3, {"shared_critic_output": True}, "was made with shared_critic_output False, but this run has"),
        (
            3,
            {"temperature_parameterisation": "softplus"},
            "was made with temperature_parameterisation exponential, but",
        ),
    ],
)
def test_a_warmup_checkpoint_of_another_network_is_refused(
    warmup_file: Path, observation_size: int, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        agents.load_warmup(warmup_file, network(observation_size, **changed))
    assert sentence in str(caught.value)


def test_a_runs_checkpoint_is_no_warmup_checkpoint(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="is a run's checkpoint: expected one written by offline warmup$"):
        agents.load_warmup(saved, network())
