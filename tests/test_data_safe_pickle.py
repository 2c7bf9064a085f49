"""The unpickler builds numpy arrays, containers and numbers, and runs nothing that a file asks for."""

import collections
import copyreg
import pickle
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from data_samples import upstream_rows, write_upstream
from wsrl_kit.data.files import load_sources
from wsrl_kit.data.safe_pickle import load_pickle
from wsrl_kit.errors import DataError


class Attack:
    """Calls `function` with `arguments` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def load_bytes(folder: Path, content: bytes) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(content)
    return load_pickle(path)


VALUES = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.zeros((0, 4), np.float32),
    np.array(True),
    np.float64(1.5),
    np.bool_(True),
    np.array([1 + 2j]),
    [1, 2.5, None, True, "text", b"bytes", b"", bytearray(b"ab"), 2**80, 1j],
    {"a": (1, 2), "b": {3}, "c": frozenset([4])},
    collections.OrderedDict(a=1),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", VALUES, ids=[str(number) for number in range(len(VALUES))])
def test_plain_values_come_back_equal(tmp_path: Path, value: Any, protocol: int) -> None:
    found = load_bytes(tmp_path, pickle.dumps(value, protocol=protocol))
    np.testing.assert_equal(found, value)
    if isinstance(value, np.ndarray | np.generic):
        assert found.dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        assert found.shape == value.shape


def test_arrays_may_share_their_bytes_and_not_leave_them(tmp_path: Path) -> None:
    content = bytes(range(6))
    views = [Attack(np.ndarray, (2, 2), "|u1", content, offset) for offset in range(3)]
    found = load_bytes(tmp_path, pickle.dumps(views))
    np.testing.assert_array_equal(found, [[[0, 1], [2, 3]], [[1, 2], [3, 4]], [[2, 3], [4, 5]]])
    assert np.shares_memory(found[0], found[2])
    for shape, dtype, offset in [((2, 2), "|u1", 3), ((4,), "|u1", -1), ((-1,), "|u1", 2), ((2,), "<f4", 0)]:
        with pytest.raises(DataError, match="an array does not lie inside its bytes"):
            load_bytes(tmp_path, pickle.dumps(Attack(np.ndarray, shape, dtype, content, offset)))


def test_files_of_numpy_1_are_read(tmp_path: Path) -> None:
    array = np.arange(4, dtype=np.float32)
    content = pickle.dumps([array, array[0]], protocol=2)
    assert b"numpy._core.multiarray" in content
    found = load_bytes(tmp_path, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    np.testing.assert_array_equal(found[0], array)
    assert found[1] == array[0]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["list", "observations", "state", "infos", "key", "nested"])
def test_code_is_refused_by_name_and_never_run(tmp_path: Path, protocol: int, where: str) -> None:
    marker = tmp_path / "was_run"
    attack = Attack(Path.touch, marker)
    rows = upstream_rows([3])
    match where:
        case "list":
            rows.append(attack)  # type: ignore[arg-type]
        case "observations":
            rows[1]["observations"] = attack
        case "state":
            rows[1]["observations"] = {"state": attack}
        case "infos":
            rows[1]["infos"] = {"deep": [({"er": attack},)]}
        case "key":
            rows[1][attack] = 1
        case "nested":
            rows[1]["infos"] = {"inner": Attack(dict, [("a", attack)])}
    path = write_upstream(tmp_path / "demos.pkl", rows, protocol)
    with pytest.raises(
        DataError, match=r"demos\.pkl is refused: it asks for (pathlib\.|builtins\.getattr|__builtin__\.)"
    ):
        load_sources(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "posix system",
        "builtins eval",
        "builtins getattr",
        "__builtin__ apply",
        "numpy load",
        "numpy frombuffer",
        "numpy.testing measure",
        "copyreg _reconstructor",
        "copyreg add_extension",
        "collections defaultdict",
        "wsrl_kit.data.safe_pickle load_pickle",
    ],
)
def test_only_the_few_known_names_can_be_asked_for(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    content = f"c{module}\n{attribute}\n(S'x'\ntR.".encode()
    with pytest.raises(DataError, match=rf"refused: it asks for {module}\.{attribute}, .*nothing of it was run"):
        load_bytes(tmp_path, content)


def test_dotted_names_do_not_reach_into_what_is_known(tmp_path: Path) -> None:
    content = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    with pytest.raises(DataError, match=r"numpy\.ndarray\.__init__"):
        load_bytes(tmp_path, content)


def test_persistent_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused: it asks for persistent object 'abc'"):
        load_bytes(tmp_path, b"Pabc\n.")


def test_registered_extensions_are_refused_even_when_they_are_cached(tmp_path: Path) -> None:
    copyreg.add_extension("os", "getcwd", 240)
    try:
        attack = b"\x80\x02\x82\xf0)R."
        assert isinstance(pickle.loads(attack), str)
        with pytest.raises(DataError, match=r"os\.getcwd"):
            load_bytes(tmp_path, attack)
    finally:
        copyreg.remove_extension("os", "getcwd", 240)


@pytest.mark.parametrize("value", [np.array([{}], dtype=object), np.array(["text"]), np.zeros(2, "f4,i4")])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, value: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"refused: it asks for numpy\.dtype\('"):
        load_bytes(tmp_path, pickle.dumps(value))


def test_a_forged_dtype_state_changes_neither_sizes_nor_numpy_itself(tmp_path: Path) -> None:
    # A float64 whose state claims another byte order and an item size of 2: numpy's own dtype would take it.
    state = (3, ">", None, None, None, 2, 1, 63)
    dtype = Attack(np.dtype, "f8", False, False)
    forged = pickle.dumps([dtype, state], protocol=2)
    start = forged.index(b"cnumpy\ndtype\n")
    call_end = forged.index(b"R", start) + 1
    content = b"\x80\x02" + forged[start:call_end] + pickle.dumps(state, protocol=2)[2:-1] + b"b."
    load_bytes(tmp_path, content)
    assert np.dtype("f8").itemsize == 8
    assert np.dtype("f8").byteorder == "="
    assert (sys.byteorder == "little") == np.dtype("f8").isnative


@pytest.mark.parametrize(
    "content",
    [
        # Setting the state of a known function, as a dict and as slots.
        b"\x80\x02cnumpy\nndarray\n}U\x08functionK\x01sb.",
        b"\x80\x02cnumpy\nndarray\nN}U\x08functionK\x01s\x86b.",
        # An array larger than its bytes.
        b"\x80\x02cnumpy\nndarray\n(M\xff\xff\x85U\x02f8U\x01xtR.",
        # A known function as a class to be instantiated without a call.
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        # Bytes and bytearrays of a size that the file does not fill.
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        # Codecs may do more than encode.
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    ],
    ids=["state", "slots", "size", "instance", "bytearray", "bytes", "codec"],
)
def test_known_names_can_not_be_abused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="damaged|refused"):
        load_bytes(tmp_path, content)
    np.testing.assert_array_equal(load_bytes(tmp_path, pickle.dumps(np.ones(2))), [1, 1])


def test_every_truncation_of_a_file_is_reported(tmp_path: Path) -> None:
    content = pickle.dumps(upstream_rows([2]), protocol=4)
    for length in range(1, len(content) - 1, 7):
        with pytest.raises(DataError, match=r"file\.pkl is truncated or damaged: \w"):
            load_bytes(tmp_path, content[:length])


KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def assert_kernel(found: Any) -> None:
    np.testing.assert_equal(found, {"layer": {"kernel": KERNEL}})
    assert isinstance(found["layer"]["kernel"], np.ndarray)


@pytest.mark.parametrize("protocol", range(6))
def test_parameters_of_networks_come_back_as_numpy(tmp_path: Path, protocol: int) -> None:
    tree = FrozenDict({"layer": {"kernel": jnp.asarray(KERNEL)}})
    assert_kernel(load_bytes(tmp_path, pickle.dumps(tree, protocol=protocol)))


def test_arrays_of_the_jax_of_2022_are_read(tmp_path: Path) -> None:
    content = pickle.dumps({"layer": {"kernel": jnp.asarray(KERNEL)}}, protocol=2)
    now, then = b"jax._src.array\n_reconstruct_array", b"jax._src.device_array\nreconstruct_device_array"
    assert now in content
    assert_kernel(load_bytes(tmp_path, content.replace(now, then)))


@pytest.mark.parametrize("function", [Path.touch, print, dict])
def test_what_stands_for_a_jax_array_runs_no_other_function(tmp_path: Path, function: Any) -> None:
    marker = tmp_path / "was_run"
    reconstruct, (_, _, state, kind) = jnp.ones(2).__reduce__()
    attack = Attack(reconstruct, function, (marker,), state, kind)
    with pytest.raises(DataError):
        load_bytes(tmp_path, pickle.dumps([attack]))
    assert not marker.exists()
