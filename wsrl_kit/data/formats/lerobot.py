"""LeRobotDataset folders, v3 and v2.

A row is a frame: `observation.*`, `action`, `next.reward` and `next.done`. The observation after an episode's last
action has no row. If that step terminated, it is kept and its next observation repeats its own (bootstrap value 0);
otherwise the episode ends one step earlier, truncated.

`next.done` merges terminations with time limits; `next.truncated` tells them apart. Without it a successful last step
terminated, and `repair_timeouts` decides on any other. Success is `next.success`; without it, reward 1 if all rewards
are 0 or 1. Without both (teleoperation), rewards are missing and every episode is truncated: see `labels.labelled`.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8

from wsrl_kit.data.recording import (
    LONGEST_NAME,
    CameraChoice,
    Frame,
    Recording,
    kind,
    success_from_rewards,
    to_float32,
    without_last_steps,
)
from wsrl_kit.data.trajectory import CameraFrames
from wsrl_kit.errors import DataError
from wsrl_kit.files import LARGEST_RATIO, check_size, read_json, reading, within
from wsrl_kit.text import printable

_FIELD = re.compile(r"{(video_key|(chunk_index|file_index|episode_chunk|episode_index)(:0?[1-9]?d)?)}")

# Every episode's record says these.
_OF_EPISODES = ("episode_index", "length", "data/chunk_index", "data/file_index")

# Bytes of frames to a byte of video, at most: what does not move takes next to nothing.
_VIDEO_RATIO = 1000

# Height and width; decoders allocate frames of the size that a file declares.
_LARGEST_FRAME = 4096

# Pillow's modes of 8-bit pictures; 16 bits and floats are depths.
_PICTURES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# Of the numbers of an action.
_MOST_NAMES = 50

PENALTY = "complementary_info.discrete_penalty"
"""lerobot's name for what the use of the gripper costs."""

# Columns of the data by name.
_Table = Mapping[str, Shaped[np.ndarray, "row _numbers"]]


@dataclass(frozen=True)
class _Folder:
    """A dataset's metadata.

    Attributes:
        features: column or camera -> `dtype`, `shape` and more.
        data_path, video_path: templates; None without videos.
        episodes: records of v3, in order.
    """

    path: Path
    version: str
    features: Mapping[str, Mapping[str, Any]]
    frames_per_second: float
    data_path: str
    video_path: str | None
    episodes: tuple[Mapping[str, Any], ...]

    @property
    def lengths(self) -> Int64[np.ndarray, " episode"]:
        return np.array([episode["length"] for episode in self.episodes], dtype=np.int64)

    def data_files(self) -> list[Path]:
        """The parquet files, in the order of the episodes."""
        places = dict.fromkeys((episode["data/chunk_index"], episode["data/file_index"]) for episode in self.episodes)
        return [self._file(self.data_path, chunk_index=chunk, file_index=file) for chunk, file in places]

    def video_part(self, camera: str, episode: Mapping[str, Any]) -> tuple[Path, float, float]:
        """The video of a camera and episode; begin and end, seconds."""
        names = "chunk_index", "file_index", "from_timestamp", "to_timestamp"
        said: list[Any] = [episode.get(f"videos/{camera}/{name}") for name in names]
        if self.video_path is None or None in said:
            number = episode["episode_index"]
            raise DataError(f"{self.path}: the metadata do not say where {camera!r} of episode {number} lies.")
        chunk, file, begin, end = said
        path = self._file(self.video_path, video_key=camera, chunk_index=chunk, file_index=file)
        return path, float(begin), float(end)

    def _file(self, template: str, **values: Any) -> Path:
        # Names of places, and how many digits a number has: any other format could make a name of any length.
        if any(character in _FIELD.sub("", template) for character in "{}"):
            raise DataError(f"{self.path}: no path can be made of the template {template!r}.")
        try:
            # A file of v2 holds one episode.
            older = {"episode_chunk": values["chunk_index"], "episode_index": values["file_index"]}
            name = template.format(**values, **older)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: no path can be made of the template {template!r}: {error}.") from error
        if not (self.path / name).is_file():
            raise DataError(f"{self.path} is incomplete: {name} is missing.")
        if not within(self.path, self.path / name):
            raise DataError(f"{self.path}: {name} lies outside of the folder.")
        return self.path / name


def read_lerobot(path: Path, cameras: CameraChoice) -> Recording:
    """Reads a dataset's folder (which holds `meta/`).

    The state is every numeric `observation.*` column, in alphabetical order, as in HIL-SERL. A camera's name is the
    last part of its key.

    Raises:
        DataError: another version, incomplete, damaged, inconsistent, without a camera, or a package is missing.
    """
    folder = _open_folder(path)
    states = _states(folder, cameras)
    optional = ["next.reward", "next.done", "next.truncated", "next.success", PENALTY]
    table = _table(folder, ["action", *states], optional)
    last = np.zeros(len(table["action"]), bool)
    last[np.cumsum(folder.lengths) - 1] = True
    # A step leads to the next frame of its episode; the last one, for want of that, to its own.
    rows = np.arange(len(last))
    led_to = rows + ~last
    observations = to_float32(np.concatenate([table[name] for name in states], axis=1))
    rewarded = next((name for name in ("next.reward", "next.success") if name in table), None)
    rewards = to_float32(table[rewarded])[:, 0] if rewarded else np.zeros(len(last), np.float32)
    unknown = np.full(len(last), np.nan, np.float32)
    terminated, truncated, success = _ends(table, rewards, last) if rewarded else (np.zeros_like(last), last, unknown)
    images, scaled_from = _camera_images(folder, cameras)
    recording = Recording(
        observations=observations,
        actions=to_float32(table["action"]),
        rewards=rewards,
        next_observations=observations[led_to],
        terminated=terminated,
        truncated=truncated,
        may_be_timeout=terminated & ("next.truncated" not in table),
        success=success,
        source=np.full(len(rows), ""),
        weight=unknown,
        format=f"LeRobotDataset {folder.version}",
        observation_kind=kind(observations[0]),
        action_kind=kind(table["action"][0]),
        action_names=tuple(_texts(folder.features["action"].get("names"))),
        last_observations_recorded=False,
        rewards_recorded=rewarded is not None,
        grasp_penalty=to_float32(table[PENALTY])[:, 0] if PENALTY in table else None,
        frames=images,
        stack=rows[:, None] if images else None,
        next_stack=led_to[:, None] if images else None,
        stored_frames=len(rows) if images else 0,
        scaled_from=scaled_from,
    )
    recording = without_last_steps(recording, np.flatnonzero(last & ~terminated))
    if len(recording) == 0:
        raise DataError(f"{path} holds no transitions: no episode has a second frame, or ends in success.")
    return recording


def _ends(
    table: _Table, rewards: Float32[np.ndarray, " row"], last: Bool[np.ndarray, " row"]
) -> tuple[Bool[np.ndarray, " row"], Bool[np.ndarray, " row"], Float32[np.ndarray, " row"]]:
    """Terminated, truncated, and success (1, 0, or nan) of each step."""
    done, truncated = (_flags(table, name, len(last)) for name in ("next.done", "next.truncated"))
    if "next.success" in table:
        success = _flags(table, "next.success", len(last)).astype(np.float32)
    else:
        success = success_from_rewards(rewards, done | truncated | last)
    terminated = (done | (last & (success == 1))) & ~truncated
    return terminated, (truncated | last) & ~terminated, success


def _flags(table: _Table, name: str, count: int) -> Bool[np.ndarray, " row"]:
    """All False without the column."""
    return table[name][:, 0].astype(bool) if name in table else np.zeros(count, bool)


def _texts(names: Any) -> list[str]:
    """Names of an action's numbers, which may be in groups."""
    groups = [names, *names.values()] if isinstance(names, dict) else [names]
    texts = [name for group in groups if isinstance(group, list | dict) for name in group if isinstance(name, str)]
    return [printable(name[:LONGEST_NAME]) for name in texts[:_MOST_NAMES]]


def _states(folder: _Folder, cameras: CameraChoice) -> list[str]:
    """The columns of the state; depth maps are ignored if cameras are wanted by name."""
    found = []
    for name, feature in sorted(folder.features.items()):
        if name.startswith("observation.") and feature["dtype"].startswith(("float", "int", "uint", "bool")):
            if sum(size > 1 for size in feature["shape"]) > 1:
                if cameras.wanted is not None:
                    continue
                raise DataError(
                    f"{folder.path}: {name!r} holds {feature['dtype']} arrays of shape {feature['shape']}, expected "
                    "vectors, or 8-bit images of dtype 'image' or 'video'."
                )
            found.append(name)
    if not found:
        raise DataError(f"{folder.path} has no numeric 'observation.*' column, expected 'observation.state'.")
    return found


def _table(folder: _Folder, needed: Sequence[str], optional: Sequence[str]) -> _Table:
    """Columns of all episodes, in order; each row is a vector."""
    for name in needed:
        if name not in folder.features:
            raise DataError(f"{folder.path} has no column {name!r}.")
    # A table of millions of equal rows is a small file: before the rest is read, there must be as many as expected.
    _check_lengths(folder, _columns(folder, ["episode_index"])["episode_index"][:, 0])
    return _columns(folder, [*needed, *(name for name in optional if name in folder.features)])


def _columns(folder: _Folder, names: Sequence[str]) -> _Table:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for file in folder.data_files():
        with _parquet(file) as opened:
            table = opened.read(columns=list(names))
        for name in names:
            parts[name].append(_numbers(file, name, table))
    try:
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise DataError(f"{folder.path}: columns differ in size from file to file: {error}.") from error


def _numbers(file: Path, name: str, table: Any) -> Shaped[np.ndarray, "row _numbers"]:
    """A column of numbers, or of lists of equal length."""
    from pyarrow import compute, types

    if name not in table.column_names:
        raise DataError(f"{file} has no column {name!r}, though meta/info.json names it.")
    column = values = table.column(name).combine_chunks()
    even = True
    while even and any(
        is_list(values.type) for is_list in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    ):
        even = values.null_count == 0 and len(compute.unique(compute.list_value_length(values))) == 1
        values = values.flatten()
    if (
        not even
        or not len(values)
        or values.null_count
        or not types.is_primitive(values.type)
        or types.is_temporal(values.type)
    ):
        raise DataError(f"{file}: {name!r} holds {column.type}, expected equally many numbers in every row.")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _check_lengths(folder: _Folder, episode_of_row: Shaped[np.ndarray, " row"]) -> None:
    numbers = np.array([episode["episode_index"] for episode in folder.episodes], np.int64)
    lengths = folder.lengths
    counts = dict(zip(*(part.tolist() for part in np.unique(episode_of_row, return_counts=True)), strict=True))
    for number, length in zip(numbers.tolist(), lengths.tolist(), strict=True):
        if (found := counts.get(number, 0)) != length:
            raise DataError(f"{folder.path}: episode {number} has {found} rows of data, expected {length}.")
    if len(set(numbers.tolist())) == len(numbers) and np.array_equal(episode_of_row, np.repeat(numbers, lengths)):
        return
    raise DataError(f"{folder.path}: the rows of data are not in the order of their episodes.")


def _open_folder(path: Path) -> _Folder:
    file = path / "meta" / "info.json"
    if not within(path, file):
        raise DataError(f"{path} is incomplete: meta/info.json is missing, or lies outside of the folder.")
    with reading(file, DataError, "is damaged"):
        info = read_json(file)
        try:
            if not (version := str(info["codebase_version"])).startswith(("v2.", "v3.")):
                raise DataError(f"{path} is a LeRobotDataset {version}, expected v3.0, v2.1 or v2.0.")
            features = {
                name: {**said, "dtype": str(said["dtype"]), "shape": tuple(int(size) for size in said["shape"])}
                for name, said in info["features"].items()
            }
            data_path, video_path = str(info["data_path"]), info.get("video_path") and str(info["video_path"])
            if not 0 < (frames_per_second := float(info["fps"])) < math.inf:
                raise ValueError(f"fps is {frames_per_second:g}")
            counts = {name: int(info[f"total_{name}"]) for name in ("episodes", "frames")}
            if version.startswith("v2."):
                videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
                records = _episodes_of_v2(path, max(int(info["chunks_size"]), 1), videos, frames_per_second)
            else:
                records = _episodes(path)
        except KeyError as missing:
            raise DataError(f"{file} has no {missing}.") from missing
    for name in _OF_EPISODES:
        if not all(isinstance(number := record.get(name), int) and number >= 0 for record in records):
            raise DataError(f"{path} is damaged: an episode in meta/episodes does not say its {name!r}.")
    episodes = sorted(records, key=lambda record: int(record["episode_index"]))
    folder = _Folder(path, version, features, frames_per_second, data_path, video_path, tuple(episodes))
    for name, found in (("episodes", len(folder.episodes)), ("frames", int(folder.lengths.sum()))):
        if found != counts[name]:
            raise DataError(
                f"{path} has {found} {name} in meta/episodes, expected {counts[name]} as in meta/info.json."
            )
    if min(folder.lengths, default=0) < 1:
        raise DataError(f"{path} has an episode without frames, or none at all.")
    return folder


def _episodes_of_v2(
    path: Path, chunk_size: int, videos: Sequence[str], frames_per_second: float
) -> list[Mapping[str, Any]]:
    """Episodes of v2, which have files of their own, as v3 records them."""
    file = path / "meta" / "episodes.jsonl"
    if not within(path, file):
        raise DataError(f"{path} is incomplete: meta/episodes.jsonl is missing, or lies outside of the folder.")
    records: list[Mapping[str, Any]] = []
    with reading(file, DataError, "is damaged"):
        for episode in read_json(file):
            number, length = int(episode["episode_index"]), int(episode["length"])
            place = {"chunk_index": number // chunk_size, "file_index": number}
            time = {"from_timestamp": 0.0, "to_timestamp": length / frames_per_second}
            parts = {"data": place} | {f"videos/{camera}": place | time for camera in videos}
            said = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
            records.append({"episode_index": number, "length": length} | said)
    return records


def _episodes(path: Path) -> list[Mapping[str, Any]]:
    files = sorted((path / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise DataError(f"{path} is incomplete: meta/episodes holds no parquet file.")
    episodes: list[Mapping[str, Any]] = []
    for file in files:
        if not within(path, file):
            raise DataError(f"{path}: {file.name} of meta/episodes lies outside of the folder.")
        with _parquet(file) as opened:
            if opened.metadata.num_rows > file.stat().st_size:
                raise DataError(f"{file} declares {opened.metadata.num_rows} episodes, more than it can hold.")
            # Statistics of every column are most of these files.
            names = [name for name in opened.schema_arrow.names if not name.startswith("stats/")]
            episodes += opened.read(columns=names).to_pylist()
    return episodes


def require_pyarrow(path: Path) -> Any:
    """pyarrow.parquet, or a DataError that says how to install it."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow, which `pip install 'wsrl-kit[lerobot]'` installs.") from error
    return parquet


@contextmanager
def _parquet(file: Path) -> Iterator[Any]:
    """Opens a parquet file that declares no more data than it can hold."""
    parquet = require_pyarrow(file)
    with reading(file, DataError), parquet.ParquetFile(file) as opened:
        check_size(_declared_bytes(opened.metadata), file.stat().st_size)
        yield opened


def _declared_bytes(metadata: Any) -> int:
    """Bytes of all columns, uncompressed or as numbers of 8 bytes."""
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            total += max(column.total_uncompressed_size, 8 * column.num_values, 8 * group.num_rows)
    return total


def _camera_images(folder: _Folder, cameras: CameraChoice) -> tuple[CameraFrames, dict[str, tuple[int, ...]]]:
    """Frames by camera, one per row; and the recorded (height, width) of those that were scaled."""
    found = _keys(folder)
    images: dict[str, UInt8[np.ndarray, "frame _height _width 3"]] = {}
    scaled_from: dict[str, tuple[int, ...]] = {}
    for camera, name in cameras.of_file(folder.path, found).items():
        keys = found[camera]
        if len(keys) > 1:
            raise DataError(f"{folder.path} has two cameras of the name {camera!r}: {keys[0]!r} and {keys[1]!r}.")
        key = keys[0]
        if _is_depth(folder.features[key]):
            raise DataError(f"{folder.path}: {key!r} is a depth map, expected 8-bit color images.")
        is_video = folder.features[key]["dtype"] == "video"
        frames = _film(folder, key) if is_video else _pictures(folder, key)
        files = {folder.video_part(key, episode)[0] for episode in folder.episodes} if is_video else folder.data_files()
        largest = _VIDEO_RATIO if is_video else LARGEST_RATIO
        stored = sum(file.stat().st_size for file in files)
        first = next(frames)
        frames, view = chain([first], frames), cameras.views.get(name)
        if view is not None and view.narrows(first):
            # One by one: the frames of a folder as recorded may not fit into memory.
            frames, scaled_from[name] = map(view.of, frames), first.shape[:2]
        images[name] = _gathered(f"{folder.path}: {key!r}", frames, int(folder.lengths.sum()), stored, largest)
    return images, scaled_from


def _keys(folder: _Folder) -> dict[str, list[str]]:
    """Keys of cameras by their last part."""
    keys: dict[str, list[str]] = {}
    for key, feature in sorted(folder.features.items()):
        if key.startswith("observation.") and feature["dtype"] in ("image", "video"):
            keys.setdefault(key.rsplit(".", 1)[1], []).append(key)
    return keys


def _is_depth(feature: Mapping[str, Any]) -> bool:
    """Whether one of lerobot's three marks of depth maps is set."""
    said = [feature.get("info") or {}, feature.get("video_info") or {}]
    return any(part.get(name) for part in said for name in ("is_depth_map", "video.is_depth_map"))


def _gathered(
    what: str, frames: Iterator[Frame], count: int, stored: int, largest_ratio: int
) -> UInt8[np.ndarray, "frame _height _width 3"]:
    """All frames in one array; their files have `stored` bytes."""
    first = next(frames)
    check_size(count * first.nbytes, stored, largest_ratio)
    gathered = np.empty((count, *first.shape), np.uint8)
    gathered[0] = first
    for number, frame in enumerate(frames, start=1):
        if frame.shape != first.shape:
            raise DataError(f"{what}: frame {number} has shape {frame.shape}, expected {first.shape} as frame 0.")
        gathered[number] = frame
    return gathered


def _pictures(folder: _Folder, key: str) -> Iterator[Frame]:
    for file in folder.data_files():
        with _parquet(file) as opened:
            for batch in opened.iter_batches(columns=[key], batch_size=8):
                for stored in batch.column(key).to_pylist():
                    yield _picture(f"{file}: {key!r}", stored)


def _picture(what: str, stored: Any) -> Frame:
    from PIL import Image

    content = stored.get("bytes") if isinstance(stored, dict) else None
    if not content:
        raise DataError(f"{what} has a frame without a picture; its bytes are expected in the parquet file.")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF")) as picture:
            _check_frame_size(*picture.size)
            if picture.mode not in _PICTURES:
                raise DataError(f"{what} has pictures of kind {picture.mode!r}, expected 8-bit color images.")
            return np.asarray(picture.convert("RGB"))
    # Damaged pictures can make Pillow raise nearly anything.
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{what} has a damaged picture: {error}.") from error


def _film(folder: _Folder, key: str) -> Iterator[Frame]:
    """Frames of all episodes; each video is decoded once."""
    # Times are rounded: a frame may lie up to half a frame from where it belongs.
    slack = 0.5 / folder.frames_per_second
    for file, episodes in groupby(folder.episodes, lambda episode: folder.video_part(key, episode)[0]):
        decoded = _decoded(file)
        upcoming = next(decoded, None)
        for episode in episodes:
            _, begin, end = folder.video_part(key, episode)
            count = 0
            while upcoming is not None and upcoming[0] < end - slack:
                if upcoming[0] >= begin - slack:
                    count += 1
                    if count <= episode["length"]:
                        yield upcoming[1]
                upcoming = next(decoded, None)
            if count != episode["length"]:
                number = episode["episode_index"]
                raise DataError(f"{file} has {count} frames of episode {number}, expected {episode['length']}.")


def _decoded(file: Path) -> Iterator[tuple[float, Frame]]:
    """(time in seconds, frame) of a video."""
    try:
        import av
    except ImportError as error:
        raise DataError(f"{file} needs PyAV, which `pip install 'wsrl-kit[video]'` installs.") from error
    # One file alone: no playlists, and no addresses in them.
    alone = {"protocol_whitelist": "file"}
    with reading(file, DataError), av.open(str(file), format="mp4", options=alone) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        _check_frame_size(stream.width, stream.height)
        for frame in container.decode(stream):
            if frame.time is None:
                raise DataError(f"{file} has a frame that does not say its time.")
            _check_frame_size(frame.width, frame.height)
            yield frame.time, frame.to_ndarray(format="rgb24")


def _check_frame_size(width: int, height: int) -> None:
    if max(width, height) > _LARGEST_FRAME:
        raise ValueError(f"it has frames of {width}x{height}, expected at most {_LARGEST_FRAME} pixels a side")
