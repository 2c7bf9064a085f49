"""What lies where in the folder of a LeRobotDataset v3: `meta/info.json`, `meta/episodes`, `data`, `videos`."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from wsrl_kit.errors import DataError
from wsrl_kit.reading import check_size, read_json, reading, within

_FIELD = re.compile(r"{(video_key|(chunk_index|file_index)(:0?[1-9]?d)?)}")

# Every episode's record says these.
_OF_EPISODES = ("episode_index", "length", "data/chunk_index", "data/file_index")


@dataclass(frozen=True)
class Folder:
    """A dataset's metadata.

    Attributes:
        path: the dataset's folder.
        features: name of a column or a camera -> its `dtype`, `shape` and more, as `info.json` says.
        frames_per_second: of the data and of the videos.
        data_path: the template of the parquet files' paths.
        video_path: the template of the videos' paths; None in a dataset without videos.
        episodes: each episode's record, in order: its number and length, where its rows and its parts of videos are.
    """

    path: Path
    features: Mapping[str, Mapping[str, Any]]
    frames_per_second: float
    data_path: str
    video_path: str | None
    episodes: tuple[Mapping[str, Any], ...]

    @property
    def lengths(self) -> Int64[np.ndarray, " episode"]:
        """Frames of each episode."""
        return np.array([episode["length"] for episode in self.episodes], dtype=np.int64)

    def data_files(self) -> list[Path]:
        """The parquet files that hold the episodes' rows, in the order of the episodes.

        Raises:
            DataError: one is missing.
        """
        places = dict.fromkeys((episode["data/chunk_index"], episode["data/file_index"]) for episode in self.episodes)
        return [self._file(self.data_path, chunk_index=chunk, file_index=file) for chunk, file in places]

    def video_part(self, camera: str, episode: Mapping[str, Any]) -> tuple[Path, float, float]:
        """The video that holds a camera's frames of an episode, and from when to when, in seconds.

        Raises:
            DataError: the video is missing, or the metadata do not say which it is.
        """
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
            name = template.format(**values)
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: no path can be made of the template {template!r}: {error}.") from error
        if not (self.path / name).is_file():
            raise DataError(f"{self.path} is incomplete: {name} is missing.")
        if not within(self.path, self.path / name):
            raise DataError(f"{self.path}: {name} lies outside of the folder.")
        return self.path / name


def open_folder(path: Path) -> Folder:
    """Reads a dataset's metadata.

    Raises:
        DataError: they are missing, damaged, or those of another version.
    """
    file = path / "meta" / "info.json"
    if not within(path, file):
        raise DataError(f"{path} is incomplete: meta/info.json is missing, or lies outside of the folder.")
    with reading(file, DataError, "is damaged"):
        info = read_json(file)
        try:
            _check_version(path, str(info["codebase_version"]))
            features = {
                name: {**said, "dtype": str(said["dtype"]), "shape": tuple(int(size) for size in said["shape"])}
                for name, said in info["features"].items()
            }
            data_path, video_path = str(info["data_path"]), info.get("video_path") and str(info["video_path"])
            if not 0 < (frames_per_second := float(info["fps"])) < math.inf:
                raise ValueError(f"fps is {frames_per_second:g}")
            counts = {name: int(info[f"total_{name}"]) for name in ("episodes", "frames")}
        except KeyError as missing:
            raise DataError(f"{file} has no {missing}.") from missing
    folder = Folder(path, features, frames_per_second, data_path, video_path, tuple(_episodes(path)))
    for name, found in (("episodes", len(folder.episodes)), ("frames", int(folder.lengths.sum()))):
        if found != counts[name]:
            raise DataError(
                f"{path} has {found} {name} in meta/episodes, expected {counts[name]} as in meta/info.json."
            )
    if min(folder.lengths, default=0) < 1:
        raise DataError(f"{path} has an episode without frames, or none at all.")
    return folder


def _check_version(path: Path, version: str) -> None:
    if not version.startswith("v3."):
        older = version.startswith(("v1.", "v2."))
        mend = "; lerobot's own script convert_dataset_v21_to_v30 makes one of it" if older else ""
        raise DataError(f"{path} is a LeRobotDataset {version}, expected v3.0{mend}.")


def _episodes(path: Path) -> list[Mapping[str, Any]]:
    files = sorted((path / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise DataError(f"{path} is incomplete: meta/episodes holds no parquet file.")
    episodes: list[Mapping[str, Any]] = []
    for file in files:
        if not within(path, file):
            raise DataError(f"{path}: {file.name} of meta/episodes lies outside of the folder.")
        with parquet(file) as opened:
            if opened.metadata.num_rows > file.stat().st_size:
                raise DataError(f"{file} declares {opened.metadata.num_rows} episodes, more than it can hold.")
            # Statistics of every column are most of these files.
            names = [name for name in opened.schema_arrow.names if not name.startswith("stats/")]
            episodes += opened.read(columns=names).to_pylist()
    for name in _OF_EPISODES:
        if not all(isinstance(number := episode.get(name), int) and number >= 0 for episode in episodes):
            raise DataError(f"{path} is damaged: an episode in meta/episodes does not say its {name!r}.")
    return sorted(episodes, key=lambda episode: int(episode["episode_index"]))


@contextmanager
def parquet(file: Path) -> Iterator[Any]:
    """A parquet file to read from.

    Raises:
        DataError: it is damaged, declares more data than it can hold, or pyarrow is not installed.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{file} needs pyarrow, which `pip install 'wsrl-kit[lerobot]'` installs.") from error
    with reading(file, DataError), ParquetFile(file) as opened:
        check_size(_declared_bytes(opened.metadata), file.stat().st_size)
        yield opened


def _declared_bytes(metadata: Any) -> int:
    """What the columns of a parquet file take: uncompressed as stored, and as numbers of 8 bytes."""
    total = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            total += max(column.total_uncompressed_size, 8 * column.num_values, 8 * group.num_rows)
    return total
