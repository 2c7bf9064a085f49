"""Small valid files of every format that the kit reads, damaged by chance or on purpose, and what reading them brings.

Each input has a format, a seed and a number, which decide it. It is read by the kit's public readers in a process of
its own, whose memory is limited and which is ended where it takes too long.
`python tests/fuzzing.py 0 '[["npz", 7, 8]]'` reads input 7 of seed 0 of a format and prints what came of it.
"""

import contextlib
import io
import json
import os
import pickle
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SECONDS, MEGABYTES = 10.0, 1000
"""What one file may take at most, of a processor and of memory."""

LIMIT_MEGABYTES = 6000
"""Of address space beyond what the process has before it reads: where a file asks for more, reading it fails."""

Random = np.random.Generator
Tree = dict[str, bytes]
"""A file or a folder: contents by relative path; "" for a file."""


class Format(NamedTuple):
    """One kind of file.

    Attributes:
        write: writes a valid file or folder at a path.
        read: reads it by the kit's readers.
        share: of all inputs, relative to others': slow formats get fewer.
        name: of the file or folder.
        is_valid: whether what is written is whole.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    share: float = 1.0
    name: str = "file"
    is_valid: bool = True


@dataclass(frozen=True)
class Failure:
    """An input that did not end in success or in one sentence."""

    format: str
    number: int
    what: str


@dataclass(frozen=True)
class Outcome:
    """What reading many inputs of one format brought."""

    format: str
    read: int
    refused: int
    failures: tuple[Failure, ...]
    slowest_seconds: float
    largest_megabytes: float


# Formats


def _trajectories(**changes: Any) -> list[Any]:
    from data_samples import trajectory

    kinds = [(4, "demos", True), (3, "demos", False), (5, "suboptimal", False)]
    weights = {"weight": np.linspace(0, 1, 4).astype(np.float32)}
    return [
        trajectory(length, seed=seed, source=source, success=success, **(weights if seed == 0 else {}), **changes)
        for seed, (length, source, success) in enumerate(kinds)
    ]


CAMERAS = {"wrist_1": (6, 5, 3), "wrist_2": (6, 5, 3)}


def _read_data(path: Path) -> None:
    from wsrl_kit.data.doctor import examine, render
    from wsrl_kit.data.sources import load_sources
    from wsrl_kit.errors import DataError

    # A report is never an error, whatever the file is.
    _require_plain(render(examine(path)).replace("\n", " "))
    refusals = []
    for cameras in (None, ()):
        try:
            load_sources(str(path), cameras=cameras)
        except DataError as error:
            refusals.append(error)
            _require_plain(str(error))
    if refusals:
        raise refusals[0]


def _write_pickle(path: Path) -> None:
    from data_samples import upstream_rows, write_upstream

    write_upstream(path, upstream_rows([3, 4], cameras={"wrist_1": (6, 5, 3)}, horizon=2))


def _write_own_pickle(path: Path) -> None:
    from wsrl_kit.data.formats.hil_serl import write_hil_serl

    write_hil_serl(path, _trajectories(cameras=CAMERAS))


def _write_npz(path: Path) -> None:
    from file_writers import write_npz

    write_npz(path, _trajectories())


def _write_npz_of_cameras(path: Path) -> None:
    from file_writers import write_npz

    write_npz(path, _trajectories(cameras=CAMERAS, horizon=2))


def _write_hdf5(path: Path) -> None:
    from file_writers import write_hdf5

    write_hdf5(path, _trajectories())


def _write_chunked_hdf5(path: Path) -> None:
    """As D4RL's files are: compressed, and without next observations."""
    import h5py

    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, shape in (("observations", (8, 3)), ("actions", (8, 2)), ("rewards", (8,))):
            values = generator.uniform(-1, 1, shape).astype(np.float32)
            file.create_dataset(name, data=values, compression="gzip", shuffle=True, chunks=(4, *shape[1:]))
        for name, row in (("terminals", 3), ("timeouts", 7)):
            file.create_dataset(name, data=np.arange(8) == row, compression="lzf", fletcher32=True)


def _write_minari(path: Path) -> None:
    from file_writers import write_minari

    write_minari(path, _trajectories())


def _write_robomimic(path: Path) -> None:
    from file_writers import write_robomimic

    write_robomimic(path, _trajectories(cameras=CAMERAS))


def _write_lerobot(path: Path, video: bool, version: str = "v3.0") -> None:
    from lerobot_samples import episode, write_lerobot

    episodes = [episode(3, cameras={"top": (16, 16)}), episode(4, start=3, cameras={"top": (16, 16)})]
    write_lerobot(path, episodes, video=video, episodes_per_file=1, version=version)


def _write_labelled(path: Path) -> None:
    from file_writers import write_npz

    path.mkdir()
    for name in ("failure", "success"):
        write_npz(path / f"{name}.npz", _trajectories())


def _read_labelled(path: Path) -> None:
    from wsrl_kit.classifier.data import load_labelled

    load_labelled(str(path))


def _warmup_agent() -> Any:
    import jax
    import jax.numpy as jnp

    from wsrl_kit.agent import sac
    from wsrl_kit.config.config import WSRLConfig

    static = sac.from_parameters(WSRLConfig(hidden_sizes=[4], critic_ensemble_size=2, critic_subset_size=2), 3, 2)
    return static, sac.create(static, jax.random.key(0), jnp.zeros(3), jnp.ones(3))


def _write_warmup(path: Path) -> None:
    from wsrl_kit.training import start as agents

    static, state = _warmup_agent()
    agents.save_warmup(path, static, state, agents.probe_zeros(static, 2), {"seed": 0})


def _read_warmup(path: Path) -> None:
    from wsrl_kit.training import start as agents

    agents.load_warmup(path, _warmup_agent()[0])


def _write_classifier(path: Path) -> None:
    import jax
    import jax.numpy as jnp

    from wsrl_kit.classifier import model

    config = model.RewardClassifier(3, (4,), 0.1, 1e-3)
    state = model.create(config, jax.random.key(0), jnp.zeros(3), jnp.ones(3))
    model.save(path, config, state, model.Decision(0.5, 0.4, 2))


def _read_classifier(path: Path) -> None:
    from wsrl_kit.classifier import model

    model.load(path)


def _write_hil_serl(path: Path) -> None:
    from hil_serl_samples import exported, random_agent
    from wsrl_kit.agent import sac
    from wsrl_kit.config.config import WSRLConfig

    config = WSRLConfig(hidden_sizes=[4], activation="tanh", critic_ensemble_size=2, critic_subset_size=2)
    static = sac.from_parameters(config, 3, 2)
    shutil.copy(exported(path.parent / "exported", static, random_agent(static)), path)


def _read_hil_serl(path: Path) -> None:
    from wsrl_kit.hil_serl.checkpoint import import_hil_serl

    import_hil_serl(path, path.with_name("imported.npz"))


def _write_resnet(path: Path) -> None:
    """Only the first arrays are of their size, so that the file is small."""
    small = np.zeros(3, np.float32)
    tree = {"conv_init": {"kernel": np.zeros((7, 7, 3, 64), np.float32)}, "norm_init": {"bias": small, "scale": small}}
    path.write_bytes(pickle.dumps(tree | {f"ResNetBlock_{index}": {"kernel": small} for index in range(4)}))


def _read_resnet(path: Path) -> None:
    from wsrl_kit.agent.vision import load_resnet10

    load_resnet10(path)


def _write_run(path: Path) -> None:
    from wsrl_kit.runs.run import Run

    run = Run.open(
        path, kind="finetune", arm="warmup", seed=3, parameters={"discount": 0.9, "sizes": [1, 2], "x": None}
    )
    run.record("warmup", 0, 10, {"loss": 0.5, "q": float("nan")})
    run.record("online", 20, 30, {"success": 1.0})
    run.finish({"success": 1.0})


def _read_run(path: Path) -> None:
    from wsrl_kit.runs.run import find_runs, read_run

    read_run(path)
    for record in find_runs(path):
        _require_plain(f"{record.arm} {record.kind} {record.message} {[*record.metrics]}")


FORMATS = {
    "pickle": Format(_write_pickle, _read_data),
    "pickle_own": Format(_write_own_pickle, _read_data),
    "npz": Format(_write_npz, _read_data),
    "npz_cameras": Format(_write_npz_of_cameras, _read_data),
    "hdf5": Format(_write_hdf5, _read_data),
    "hdf5_chunked": Format(_write_chunked_hdf5, _read_data),
    "robomimic": Format(_write_robomimic, _read_data),
    "minari": Format(_write_minari, _read_data, 0.7, "file-v0"),
    "lerobot_pictures": Format(lambda path: _write_lerobot(path, video=False), _read_data, 0.6),
    "lerobot_video": Format(lambda path: _write_lerobot(path, video=True), _read_data, 0.6),
    "lerobot_v2": Format(lambda path: _write_lerobot(path, video=True, version="v2.1"), _read_data, 0.6),
    "labelled": Format(_write_labelled, _read_labelled, 0.5),
    "warmup": Format(_write_warmup, _read_warmup),
    "classifier": Format(_write_classifier, _read_classifier, 0.3),
    "hil_serl": Format(_write_hil_serl, _read_hil_serl, 0.5),
    "resnet": Format(_write_resnet, _read_resnet, 0.3, is_valid=False),
    "run": Format(_write_run, _read_run),
}


# Damage


def _noise(content: bytes, random: Random) -> bytes:
    """Bytes changed without regard to what they mean."""
    data = bytearray(content or b"\0")
    for _ in range(random.integers(1, 4)):
        place, length = int(random.integers(len(data))), int(2 ** random.integers(0, 8))
        match random.integers(7):
            case 0:
                data[place] ^= 1 << int(random.integers(8))
            case 1:
                data[place : place + length] = random.bytes(min(length, 16))
            case 2:
                del data[place : place + length]
            case 3:
                start = int(random.integers(len(data)))
                data[place:place] = data[start : start + length]
            case 4:
                width = int(random.choice([1, 2, 4, 8]))
                value = int(random.choice([0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1]))
                order = "little" if random.random() < 0.5 else "big"
                data[place : place + width] = (value % 256**width).to_bytes(width, order)
            case 5:
                data = data[: max(place, 1)]
            case _:
                data[place : place + length] = bytes(min(length, len(data) - place))
        data = data or bytearray(b"\0")
    return bytes(data)


ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 10**18, 10**6, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "text", "\x1b[31mred\x07", "$x_1$", "<script>", "=1+1", "a\nb\rc", "../../../etc/passwd", "/etc/passwd"),
    *("\u202etxt", "\ud800", "{0.__class__}", "{chunk_index:0999999999d}", "x" * 70_000, "nan", "object", "|O", ">f8"),
    *([], {}, [[]], [None], {"": None}, [10**9, 10**9], [-1, -1], {"a": {"b": {"c": []}}}),
)


def _odd_value(random: Random) -> Any:
    if random.random() < 0.03:
        nested: Any = []
        for _ in range(int(random.choice([50, 900, 5000]))):
            nested = [nested]
        return nested
    return ODD_VALUES[random.integers(len(ODD_VALUES))]


def _altered(value: Any, random: Random) -> Any:
    """JSON's values with one of them changed, left out, doubled or added."""
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[random.integers(len(keys))]
        changed = value.copy()
        chance = random.random()
        if chance < 0.08:
            del changed[key]
        elif chance < 0.14 and isinstance(changed, dict):
            changed[f"{key}{random.integers(3)}"] = value[key]
        elif chance < 0.18 and isinstance(changed, dict):
            other = keys[random.integers(len(keys))]
            changed[key], changed[other] = changed[other], changed[key]
        else:
            changed[key] = _altered(value[key], random)
        return changed
    if isinstance(value, str) and value[:1] in "{[" and random.random() < 0.7:
        # JSON inside JSON, as Minari's spaces.
        with contextlib.suppress(ValueError):
            return json.dumps(_altered(json.loads(value), random))
    if isinstance(value, int | float) and random.random() < 0.4:
        return value + int(random.choice([-1, 1, 7, 1000, 10**9]))
    return _odd_value(random)


def _json(content: bytes, random: Random) -> bytes:
    with contextlib.suppress(RecursionError):
        return json.dumps(_altered(json.loads(content), random)).encode(errors="surrogatepass")
    return b"[" * 100_000


def _json_lines(content: bytes, random: Random) -> bytes:
    lines = content.splitlines()
    line = random.integers(len(lines))
    lines[line] = _json(lines[line], random)
    return b"\n".join(lines)


def _csv(content: bytes, random: Random) -> bytes:
    lines = content.decode().splitlines()
    line = random.integers(len(lines))
    cells = lines[line].split(",")
    cells[random.integers(len(cells))] = str(_odd_value(random))
    lines[line] = ",".join(cells)
    return "\n".join([*lines, ""]).encode(errors="surrogatepass")


def _odd_array(array: np.ndarray, random: Random) -> np.ndarray:
    """An array of another shape, type, or with other values."""
    match random.integers(12):
        case 0:
            return array[:0]
        case 1:
            return array.reshape(-1)
        case 2:
            return array[None]
        case 3:
            return np.concatenate([array.reshape(-1), array.reshape(-1)])
        case 4:
            return array.astype(random.choice(["u1", "i8", ">f8", "f2", "?", "c16", "S3"]).item(), casting="unsafe")
        case 5:
            return np.array("\x1b[2J" if random.random() < 0.5 else "x" * 5000)
        case 6:
            return np.zeros(int(random.choice([0, 1, 1000, 10**6, 3 * 10**7])), np.uint8)
        case 7 if array.dtype.kind == "f":
            odd = array.copy()
            odd.reshape(-1)[random.integers(max(array.size, 1)) : None] = random.choice([np.nan, np.inf, 1e30, -5])
            return odd
        case 8:
            return np.asfortranarray(array) if array.ndim > 1 else array[::-1]
        case 9:
            return array.reshape(*array.shape, 1)
        case 10:
            return np.array(
                [["=1+1", "<b>", "$x$", "\x1b[31m"][random.integers(4)]] * max(len(np.atleast_1d(array)), 1)
            )
        case _:
            return np.array(_odd_value(random) is None)


def _npy_header(content: bytes, random: Random) -> bytes:
    """An array's bytes under a header that says something else."""
    length = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + length].decode("latin1")
    shapes = ["(1000000000000,)", "(-1,)", "()", "(2, -3)", "(4611686018427387904, 4)", "(0, 99999999999)", "(1.5,)"]
    types = ["|O", "<U9999999", "<U0", "|V8", "<M8[ns]", "<f16", "[('a', '<f4')]", "|S1000000", ">f4", "<i8"]
    match random.integers(4):
        case 0:
            header = re.sub(r"\([^)]*\)", str(random.choice(shapes)), header)
        case 1:
            header = re.sub(r"'[<>|=][^']*'", f"'{random.choice(types)}'", header)
        case 2:
            header = "(" * 5000 + header if random.random() < 0.3 else header.replace("False", "True")
        case _:
            header = _noise(header.encode("latin1"), random).decode("latin1")
    encoded = header.encode("latin1")[:65000]
    return content[:8] + len(encoded).to_bytes(2, "little") + encoded + content[10 + length :]


def _zip(content: bytes, random: Random) -> bytes:
    """A sound archive with a member that is none: its checksum is right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    # The largest share goes to the metadata of checkpoints, where there are any.
    name = "__metadata__.npy" if "__metadata__.npy" in members and random.random() < 0.5 else None
    name = name or list(members)[random.integers(len(members))]
    array = np.load(io.BytesIO(members[name]))
    match random.integers(6):
        case 0:
            del members[name]
        case 1:
            members[name] = _npy_header(members[name], random)
        case 2:
            members[name] = _noise(members[name], random)
        case 3:
            members[str(_odd_value(random)).replace("\ud800", "")[:1000] or "x"] = members.pop(name)
        case _ if name == "__metadata__.npy":
            members[name] = _npy(np.frombuffer(_json(array.tobytes(), random), np.uint8))
        case _:
            members[name] = _npy(_odd_array(array, random))
    buffer = io.BytesIO()
    method = int(
        random.choice(
            [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], p=[0.4, 0.5, 0.05, 0.05]
        )
    )
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _hdf5(content: bytes, random: Random) -> bytes:
    """A sound file with an entry that is none of ours."""
    import h5py

    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None)
        name = names[random.integers(len(names))]
        values = file[name][()]
        group, key = file[name].parent, name.rsplit("/", 1)[-1]
        del group[key]
        match random.integers(12):
            case 0:
                pass
            case 1:
                group[key] = h5py.ExternalLink("/etc/passwd", "/x")
            case 2:
                group[key] = h5py.SoftLink(str(random.choice(["/", f"/{name}", "../x", "/actions"])))
            case 3:
                shape = [(10**12,), (10**6, 10**6), (2**62, 4), (0, 10**12), (2**31, 1)][random.integers(5)]
                group.create_dataset(key, shape, "f4", chunks=(1000,) if len(shape) == 1 else None, fillvalue=1)
            case 4:
                group.create_dataset(
                    key,
                    (int(values.shape[0]) if np.ndim(values) else 1,),
                    chunks=(10**8,),
                    compression="gzip",
                    maxshape=(None,),
                )
            case 5:
                layout = h5py.VirtualLayout((9, 3), "f4")
                layout[:] = h5py.VirtualSource("/etc/passwd", "x", (9, 3))
                group.create_virtual_dataset(key, layout)
            case 6:
                group.create_dataset(key, (9,), "f4", external=[("/etc/passwd", 0, 36)])
            case 7:
                group.create_group(key)
            case 8:
                group[key] = np.array([["x" * 3000, "\x1b[31m", "=1+1"][random.integers(3)]] * 12, object)
            case 9:
                group.create_dataset(key, (8,), "f4", scaleoffset=2) if random.random() < 0.5 else group.create_dataset(
                    key, (3,), h5py.vlen_dtype(np.float32)
                )
            case _ if np.asarray(values).dtype.kind in "biuf":
                odd = _odd_array(np.asarray(values), random)
                group[key] = odd.astype("S") if odd.dtype.kind == "U" else odd
            case _:
                group[key] = np.zeros(3)
    return buffer.getvalue()


def _parquet(content: bytes, random: Random) -> bytes:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content))
    rows = table.to_pylist()
    name = table.column_names[random.integers(table.num_columns)]
    match random.integers(6):
        case 0:
            table = table.drop_columns([name])
        case 1:
            order = random.permutation(len(rows)) if rows else []
            table = table.take(pyarrow.array(order, pyarrow.int64()))
        case 2:
            table = table.slice(0, int(random.integers(len(rows) + 1)))
        case 3:
            # A long table in few bytes.
            table = table.take(pyarrow.array(np.zeros(int(random.choice([1000, 2_000_000])), np.int64)))
        case _:
            value = _altered(rows[0][name] if rows else 0, random)
            with contextlib.suppress(pyarrow.ArrowException, OverflowError, UnicodeError, TypeError, ValueError):
                column = pyarrow.array([value] * len(rows))
                table = table.set_column(table.column_names.index(name), name, column)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression=str(random.choice(["snappy", "gzip", "none"])))
    return buffer.getvalue()


def _msgpack(content: bytes, random: Random) -> bytes:
    """A leaf changed, or lengths that are declared and not there."""
    from flax import serialization, traverse_util

    if random.random() < 0.2:
        head = [b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\x7f\xff\xff\xff\x01"]
        return head[random.integers(4)] * int(random.choice([1, 500, 3000])) + content
    leaves = traverse_util.flatten_dict(serialization.msgpack_restore(content), sep="/")
    name = list(leaves)[random.integers(len(leaves))]
    odd: Any = _odd_value(random) if random.random() < 0.4 else _odd_array(np.asarray(leaves[name]), random)
    if isinstance(odd, np.ndarray) and odd.dtype.kind in "SU":
        odd = str(odd)
    if random.random() < 0.15:
        del leaves[name]
    else:
        leaves[name] = odd
    try:
        return serialization.msgpack_serialize(traverse_util.unflatten_dict(leaves, sep="/"))
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeError):
        return _noise(content, random)


def _rows(content: bytes, random: Random) -> bytes:
    """A sound pickle of other objects."""
    found = pickle.loads(content)
    for _ in range(int(random.integers(1, 3))):
        if not (isinstance(found, list) and found and isinstance(found[0], dict)):
            break
        row = found[random.integers(len(found))]
        key = list(row)[random.integers(len(row))] if row else "x"
        place = row[key] if isinstance(row.get(key), dict) and row[key] and random.random() < 0.7 else row
        inner = list(place)[random.integers(len(place))] if place else "x"
        value = place.get(inner)
        place[inner] = _odd_array(value, random) if isinstance(value, np.ndarray) else _odd_value(random)
    return pickle.dumps(found, protocol=int(random.integers(0, 6)))


SOUND: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".hdf5": _hdf5,
    ".npz": _zip,
}
BY_FORMAT: dict[str, Callable[[bytes, Random], bytes]] = {
    "pickle": _rows,
    "pickle_own": _rows,
    "npz": _zip,
    "npz_cameras": _zip,
    "hdf5": _hdf5,
    "hdf5_chunked": _hdf5,
    "robomimic": _hdf5,
    "warmup": _zip,
    "classifier": _zip,
    "hil_serl": _msgpack,
}


def damaged(name: str, tree: Tree, random: Random) -> Tree:
    """The file or folder with one file changed: half of them with regard to what its bytes mean."""
    paths = sorted(tree)
    path = paths[random.integers(len(paths))]
    if random.random() < 0.02 and path:
        return {other: content for other, content in tree.items() if other != path}
    meant = BY_FORMAT.get(name) or SOUND.get(Path(path).suffix, _noise)
    change = meant if random.random() < 0.5 else _noise
    try:
        return tree | {path: change(tree[path], random)}
    # Some values can't be written in some formats, and some damage can't be done.
    except Exception:
        return tree | {path: _noise(tree[path], random)}


def _tree(path: Path) -> Tree:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def _write_tree(path: Path, tree: Tree) -> None:
    for name, content in tree.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


# Reading


def _require_plain(text: str) -> None:
    if unprintable := re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", text):
        raise AssertionError(f"text with {unprintable[0]!r}: {text[:300]!r}")
    if len(text) > 20_000:
        raise AssertionError(f"{len(text)} characters: {text[:300]!r}")


def _read(name: str, path: Path) -> tuple[str, str]:
    """("read", ""), ("refused", the sentence), or ("failed", why)."""
    from wsrl_kit.errors import WSRLKitError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FORMATS[name].read(path)
        return "read", ""
    except WSRLKitError as error:
        try:
            _require_plain(str(error))
        except AssertionError as unplain:
            return "failed", str(unplain)
        # To run into the limit of the process is to have asked for too much.
        asked = re.search("MemoryError|[Uu]nable to allocate|bad_alloc|malloc of size|out of memory", str(error))
        return ("failed" if asked else "refused"), str(error)
    except BaseException:
        return "failed", traceback.format_exc()


def _peak_megabytes() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]


def _work(name: str, seed: int, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Reads inputs of one format one after another."""
    with tempfile.TemporaryDirectory(prefix="wsrl-kit-fuzzing-") as folder:
        path = Path(folder) / FORMATS[name].name
        FORMATS[name].write(path)
        tree = _tree(path)
        # What it loads and compiles once is no input's.
        found, why = _read(name, path)
        yield {"number": -1, "found": found, "why": why, "seconds": 0.0, "megabytes": 0.0}
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_MEGABYTES * 2**20, resource.RLIM_INFINITY))
        for number in range(start, stop):
            random = np.random.default_rng([seed, sorted(FORMATS).index(name), number])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = damaged(name, tree, random)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            _write_tree(path, content)
            del content
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            before, begin = _peak_megabytes(), time.process_time()
            found, why = _read(name, path)
            seconds, megabytes = time.process_time() - begin, _peak_megabytes() - before
            if found != "failed" and (seconds > SECONDS or megabytes > MEGABYTES):
                found, why = "failed", f"{seconds:.1f} s and {megabytes:.0f} MB: {found} {why}"
            yield {"number": number, "found": found, "why": why, "seconds": seconds, "megabytes": megabytes}


def run(counts: Mapping[str, int], seed: int, first: int = 0) -> dict[str, Outcome]:
    """Reads so many inputs of each format, in one process after another: each reads as many as it survives."""
    outcomes = {name: Outcome(name, 0, 0, (), 0.0, 0.0) for name in counts}
    work = [(name, first, first + count) for name, count in counts.items()]
    while work:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, __file__, str(seed), json.dumps(work)]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment) as process,
        ):
            for line in _lines(process):
                said = json.loads(line)
                name, number = said["format"], said["number"]
                outcomes[name] = _counted(outcomes[name], said)
                # What is left to do should the process end here.
                work = work[[entry[0] for entry in work].index(name) :]
                work[0] = (name, max(number + 1, work[0][1]), work[0][2])
                if work[0][1] == work[0][2]:
                    del work[0]
            process.kill()
            process.wait()
            errors.seek(0)
            end = errors.read().decode(errors="replace")[-2000:]
        if work:
            name, number, stop = work[0]
            what = f"the process ended with {process.returncode}, or did not answer: {end}"
            outcomes[name] = _counted(outcomes[name], {"number": number, "found": "failed", "why": what})
            work[:1] = [(name, number + 1, stop)] if number + 1 < stop else []
    return outcomes


def _counted(outcome: Outcome, said: Mapping[str, Any]) -> Outcome:
    number, found = said["number"], said["found"]
    is_failure = found == "failed" or (number == -1 and found != "read" and FORMATS[outcome.format].is_valid)
    return Outcome(
        outcome.format,
        outcome.read + (number >= 0 and found == "read"),
        outcome.refused + (number >= 0 and found == "refused"),
        (*outcome.failures, Failure(outcome.format, number, said["why"])) if is_failure else outcome.failures,
        max(outcome.slowest_seconds, said.get("seconds", 0.0)),
        max(outcome.largest_megabytes, said.get("megabytes", 0.0)),
    )


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """A process's lines until it ends or is silent for too long; it has more time to begin."""
    assert process.stdout is not None
    patience, rest = 600.0, b""
    while select.select([process.stdout], [], [], patience)[0]:
        if not (portion := os.read(process.stdout.fileno(), 2**16)):
            return
        *lines, rest = (rest + portion).split(b"\n")
        yield from lines
        # On a busy machine ten seconds of a processor last longer.
        patience = 30 * SECONDS


def main(seed: int, work: Sequence[tuple[str, int, int]]) -> None:
    for name, start, stop in work:
        for said in _work(name, seed, start, stop):
            print(json.dumps({"format": name} | said), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
