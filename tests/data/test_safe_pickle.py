"""The unpickler builds numpy arrays, containers and numbers, and runs nothing that a file asks for."""

import collections
import copyreg
import os
import pickle
import struct
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from data_samples import upstream_rows, write_upstream
from wsrl_kit.data.formats.safe_pickle import load_pickle, load_pickles
from wsrl_kit.data.sources import load_sources
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
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, 1:],
    np.arange(3, dtype=">i4"),
    np.array(2.5, np.float16),
    np.complex64(1 - 2j),
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
        with pytest.raises(DataError, match="it holds an array (that does not lie inside its bytes|with a length)"):
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
        "wsrl_kit.data.formats.safe_pickle load_pickle",
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


def test_registered_extensions_are_refused(tmp_path: Path) -> None:
    copyreg.add_extension("os", "getcwd", 240)
    try:
        attack = b"\x80\x02\x82\xf0)R."
        assert isinstance(pickle.loads(attack), str)
        with pytest.raises(DataError, match="refused: it asks for a registered extension"):
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
    with pytest.raises(DataError, match="refused: it asks for a dtype as a value"):
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


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def binary(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


NEW_ARRAY = name("numpy._core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
DTYPE = name("numpy", "dtype") + b"\x8c\x02u1\x89\x88\x87R"
DTYPE_STATE = b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
ARRAY_STATE = b"(K\x01K\x02\x85" + DTYPE + DTYPE_STATE + b"b\x89C\x02abt"
FINISHED = name("numpy._core.numeric", "_frombuffer") + b"(C\x02ab\x8c\x02u1K\x02\x85\x8c\x01CtR"


def test_these_pieces_make_arrays(tmp_path: Path) -> None:
    for content in (NEW_ARRAY + ARRAY_STATE + b"b.", FINISHED + b"."):
        np.testing.assert_array_equal(load_bytes(tmp_path, content), np.frombuffer(b"ab", np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (NEW_ARRAY + ARRAY_STATE + b"b" + ARRAY_STATE + b"b.", "sets the state of an array twice"),
        (DTYPE + DTYPE_STATE + b"b" + DTYPE_STATE + b"b.", "sets the state of a dtype twice"),
        (FINISHED + ARRAY_STATE + b"b.", "sets the state of an array twice"),
        (b"]" + ARRAY_STATE + b"b.", "sets the state of something that has none"),
        (name("numpy", "ndarray") + b"}b.", "sets the state of something that has none"),
        (NEW_ARRAY + b"Nb.", "sets an array to a state that arrays do not have"),
        (DTYPE + b"Nb.", "sets a dtype to a state that dtypes do not have"),
        (NEW_ARRAY + b".", "holds an array without content"),
        (b"]" + NEW_ARRAY + b"a.", "holds an array without content"),
    ],
)
def test_a_state_is_set_once_and_where_it_belongs(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"file\.pkl is truncated or damaged: it {reason}\.$"):
        load_bytes(tmp_path, content)


def test_an_array_can_not_be_made_of_another_ones_memory(tmp_path: Path) -> None:
    view = name("numpy._core.numeric", "_frombuffer") + b"(h\x00\x8c\x02u1K\x02\x85\x8c\x01CtR."
    with pytest.raises(DataError, match="holds an array whose content is no bytes"):
        load_bytes(tmp_path, NEW_ARRAY + b"q\x00" + ARRAY_STATE + b"b0" + view)


def test_arrays_can_not_be_written_to(tmp_path: Path) -> None:
    for protocol in range(6):
        assert not load_bytes(tmp_path, pickle.dumps(np.ones(3), protocol)).flags.writeable


def chain(start: bytes, step: bytes, count: int) -> bytes:
    """`step` wraps what memo entry n holds, and is memoized as the next one."""
    links = (step.replace(b"@", b"j" + struct.pack("<I", number)) for number in range(count))
    return b"\x940".join([start, *links]) + b"."


@pytest.mark.parametrize(
    "content",
    [
        chain(b"]K\x00a", b"@@\x86", 30),
        chain(b"]K\x00a", b"](@@e", 40),
        chain(b"}", b"}(K\x01@K\x02@u", 40),
        chain(b"\x8c\x03abc", b"(@@@@@@@@t", 40),
        binary(bytes(10**5)) + b"\x940](" + b"h\x00" * 10**5 + b"e.",
        binary(bytes(10**5)) + b"\x940]" + (name("builtins", "bytearray") + b"h\x00\x85Ra") * 5000 + b".",
    ],
)
def test_a_small_file_that_stands_for_a_large_one_is_refused(tmp_path: Path, content: bytes) -> None:
    before = time.process_time()
    with pytest.raises(DataError, match="damaged: it repeats its content so often that it would fill the memory"):
        load_bytes(tmp_path, content)
    assert time.process_time() - before < 5


@pytest.mark.parametrize("function", ["list", "tuple", "dict", "set"])
def test_copies_of_copies_are_refused(tmp_path: Path, function: str) -> None:
    large = b"}(" + b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(1000)) + b"u"
    if function != "dict":
        large = b"](" + b"K\x01" * 2000 + b"e"
    with pytest.raises(DataError, match="copies its content again and again"):
        load_bytes(tmp_path, large + b"\x94](" + (name("builtins", function) + b"h\x00\x85R") * 2000 + b"e.")


def test_texts_are_not_encoded_again_and_again(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5
    with pytest.raises(DataError, match="copies its content again and again"):
        load_bytes(tmp_path, text + b"\x94](" + (name("_codecs", "encode") + b"h\x00\x85R") * 1000 + b"e.")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "nests more than 50 containers"),
        (b")" + b"\x85" * 10**5 + b".", "nests more than 50 containers"),
        # Each list is seen before the one that holds it.
        (b"(" + chain(b"]", b"]@a", 200).replace(b"\x940", b"\x94")[:-1] + b"t.", "nests more than 50 containers"),
        (b"]\x94h\x00a.", "holds a container that holds itself"),
        (b"}\x94\x8c\x01ah\x00\x85s.", "holds a container that holds itself"),
        (b"]22a0.", "holds a container that holds itself"),
    ],
)
def test_deep_and_endless_nesting_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load_bytes(tmp_path, content)


def test_a_container_may_be_shared(tmp_path: Path) -> None:
    shared = {"state": np.ones(3)}
    found = load_bytes(tmp_path, pickle.dumps([shared] * 1000))
    assert len(found) == 1000
    assert all(each is found[0] for each in found)


@pytest.mark.parametrize(
    "content",
    [
        b"\x8e" + struct.pack("<Q", 2**40),
        b"\x8e" + struct.pack("<Q", 2**64 - 1),
        b"\x8d" + struct.pack("<Q", 2**40),
        b"\x96" + struct.pack("<Q", 2**40),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"X" + struct.pack("<I", 2**32 - 1),
        b"T" + struct.pack("<i", 2**31 - 1),
        b"T" + struct.pack("<i", -1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x95" + struct.pack("<Q", 2**60) + b"N.",
    ],
)
def test_a_size_beyond_the_files_is_refused_before_it_is_allocated(tmp_path: Path, content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"damaged: it declares -?\d+ bytes and has \d+ in all\.$"):
            load_bytes(tmp_path, b"\x80\x05" + content + b"rest.")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_large_memo_index_allocates_nothing(tmp_path: Path) -> None:
    assert load_bytes(tmp_path, b"\x80\x04]r" + struct.pack("<I", 2**28) + b".") == []
    with pytest.raises(DataError, match="has a memo entry"):
        load_bytes(tmp_path, b"]p99999999999\n.")


def test_a_file_of_nothing_but_containers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="makes too many containers of 2000002 bytes"):
        load_bytes(tmp_path, b"(" + b"]\x94" * 10**6 + b".")


def test_images_are_in_memory_once(tmp_path: Path) -> None:
    rows = [{"image": np.full((1, 64, 64, 3), number % 256, np.uint8)} for number in range(200)]
    content = pickle.dumps(rows)
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        found = load_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 1.2 * len(content)
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found[7]["image"], rows[7]["image"])


KEYS = {
    "array": FINISHED,
    "tuple": b")",
    "tuple of arrays": FINISHED + b"\x85",
    "list": b"]",
    "dict": b"}",
    "None": b"N",
    "bytes": b"C\x01a",
    "name": name("numpy", "ndarray"),
    "frozenset": b"(\x91",
    "integers of one hash": b"\x8a\x09" + (2**64).to_bytes(9, "little"),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_are_text_and_numbers(tmp_path: Path, key: bytes) -> None:
    for content in (
        b"}" + key + b"Ns.",
        b"}(" + key + b"Nu.",
        b"(" + key + b"Nd.",
        b"\x8f(" + key + b"\x90.",
        b"(" + key + b"\x91.",
        name("builtins", "set") + b"](" + key + b"e\x85R.",
        name("builtins", "dict") + b"](" + key + b"N\x86e\x85R.",
    ):
        with pytest.raises(DataError, match="with a key that is neither text nor a number of 64 bits"):
            load_bytes(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (name("numpy", "ndarray") + b".", r"refused: it asks for numpy\.ndarray as a value"),
        (b"]" + name("builtins", "list") + b"a.", r"refused: it asks for builtins\.list as a value"),
        (name("numpy", "ndarray") + b")R.", r"calls numpy\.ndarray with arguments that do not fit"),
        (name("numpy", "ndarray") + b"]R.", "calls something that is no name"),
        (b"N)R.", "calls something that is no name"),
        (name("builtins", "complex") + b"\x8c\x011\x85R.", "makes a complex number of something else"),
        (name("builtins", "list") + b"\x8c\x03abc\x85R.", "makes a list of something else"),
        (name("builtins", "dict") + b"](K\x01e\x85R.", "makes a dict of something else"),
        (NEW_ARRAY.replace(b"K\x00", b"K\x01") + b".", "holds an array of another kind"),
        (FINISHED.replace(b"\x8c\x01C", b"\x8c\x01Z") + b".", "holds an array in an unknown order"),
        (FINISHED.replace(b"K\x02", b"J\xfe\xff\xff\xff") + b".", "with a length that arrays do not have"),
        (FINISHED.replace(b"K\x02", b"K\x03") + b".", "whose bytes do not fill its shape"),
        (b"]Ns.", "sets an entry of something that is no dict|takes more than there is"),
        (b"}Na.", "appends to something that is no list"),
        (b"](N\x90.", "adds to something that is no set"),
        (b"h\x07.", "refers to something that was not there before"),
        (b"a.", "takes more than there is"),
        (b"t.", "takes more than there is"),
        (b"\x87.", "takes more than there is"),
        (b".", "leaves more than one value, or none"),
        (b"NN.", "leaves more than one value, or none"),
        (b"(N.", "leaves more than one value, or none"),
        (b"\x80\x06N.", "is of protocol 6, expected at most 5"),
        (b"\xffN.", r"has b'\\xff' where an instruction was expected"),
        (b"X\x01\x00\x00\x00\xff.", "has text in another encoding"),
        (b"V\\ud800\n.", "has text in another encoding"),
        (b"S'\\q'\n.", "has text with an unknown escape"),
        (b"I12x\n.", "has a number that is none"),
        (b"I" + b"9" * 400 + b"\n.", "holds a number of 400 digits"),
        (b"\x8b\x80\x00\x00\x00" + b"a" * 128 + b".", "holds a number of 128 bytes"),
        (b"\x81.", "refused: it asks for an object of a class"),
        (b"\x97.", "refused: it asks for a buffer outside of the file"),
        (b"N..", r"leaves more than one value, or none, after 1 whole pickle\(s\)"),
        (b"N.\n", r"has b'\\n' where an instruction was expected, after 1 whole pickle\(s\)"),
        (b"N.]", r"ends too early, after 1 whole pickle\(s\)"),
        (b"", "is empty"),
    ],
)
def test_instructions_that_no_data_consists_of_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"file\.pkl is .*{reason}") as caught:
        load_bytes(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["O", "V8", "U4", "S4", "M8", "f16", "i3", "float64", "f8,i4", "(2,)f8", "", 8, None])
def test_dtypes_are_those_of_numbers(tmp_path: Path, code: Any) -> None:
    with pytest.raises(DataError, match=r"refused: it asks for numpy\.dtype\("):
        load_bytes(tmp_path, pickle.dumps(Attack(np.ndarray, (1,), code, b"12345678")))


def test_structured_dtypes_are_refused_by_name(tmp_path: Path) -> None:
    state = DTYPE_STATE.replace(b"NNN", b"N\x8c\x01a\x85}")
    with pytest.raises(DataError, match=r"refused: it asks for numpy\.dtype\('u1'\) with fields"):
        load_bytes(tmp_path, DTYPE + state + b"b.")


def test_names_in_messages_are_short_and_no_orders_to_a_terminal(tmp_path: Path) -> None:
    for module in ("\x1b[2J", "a" * 10**5, "\u202eso", "\r\x00"):
        with pytest.raises(DataError, match="refused: it asks for") as caught:
            load_bytes(tmp_path, pickle.dumps(module)[:-1] + b"\x8c\x01x\x93.")
        assert str(caught.value).isprintable()
        assert str(caught.value).isascii()
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("opcode", [b"T" + struct.pack("<i", 4), b"U\x04"])
def test_arrays_of_python_2_are_read(tmp_path: Path, opcode: bytes) -> None:
    content = (
        (NEW_ARRAY + ARRAY_STATE + b"b.")
        .replace(b"\x8c\x02u1", b"U\x02u2")
        .replace(b"C\x02ab", opcode + b"\xff\x01\x80\x02")
    )
    np.testing.assert_array_equal(load_bytes(tmp_path, content), np.array([0x01FF, 0x0280], np.uint16))


def test_pickles_after_one_another_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    values = [[1], {"a": np.ones(2)}, "text"]
    path.write_bytes(b"".join(pickle.dumps(value, protocol) for protocol, value in enumerate(values)))
    np.testing.assert_equal(load_pickles(path), values)
    with pytest.raises(DataError, match=r"file\.pkl holds 3 pickles after one another, expected one"):
        load_pickle(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path / "pipe.pkl", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="is not a file"):
            load_pickle(path)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_or_refused_in_one_sentence(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = upstream_rows([3], cameras={"wrist": (4, 4, 3)})
    for _ in range(150):
        content = bytearray(pickle.dumps(rows, protocol=int(generator.integers(6))))
        for place in generator.integers(len(content), size=generator.integers(1, 4)):
            content[place] = generator.integers(256)
        sentence = ""
        try:
            load_bytes(tmp_path, bytes(content))
        except DataError as error:
            sentence = str(error)
        assert len(sentence.replace(str(tmp_path), "")) < 400
        assert sentence.isprintable()
