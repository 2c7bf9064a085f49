"""Writes a LeRobotDataset v3 folder, with pictures in the parquet files."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped
from tqdm import tqdm

from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.formats.lerobot import PENALTY, require_pyarrow
from wsrl_kit.data.recording import Frame
from wsrl_kit.errors import DataError
from wsrl_kit.files import written_whole

_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"

# Files in a folder at most, and the size from which on a file is full.
_CHUNK_SIZE, _FILE_MEGABYTES = 1000, 100

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

# Columns of the data by name, but for pictures.
_Columns = Mapping[str, Shaped[np.ndarray, "row _numbers"]]


def write_lerobot(path: Path, dataset: Dataset, frames_per_second: int, task: str) -> None:
    """Writes a folder that lerobot's `LeRobotDataset(..., root=path)` loads, as a whole or not at all.

    A row is a transition. Lost are the observation after an episode's last action, older frames of an observation
    horizon, sources and weights.

    Args:
        task: what the robot does, in words.

    Raises:
        DataError: the folder exists already or can't be written, or pyarrow is missing.
    """
    require_pyarrow(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} exists already: give a new folder for the LeRobotDataset.")
    columns = _columns(dataset, frames_per_second)
    with written_whole(path, DataError) as folder:
        records, levels = _write_data(folder, dataset, columns, task)
        (folder / _EPISODES_PATH).parent.mkdir(parents=True)
        pd.DataFrame(records).to_parquet(folder / _EPISODES_PATH)
        pd.DataFrame({"task_index": [0]}, index=[task]).to_parquet(folder / "meta" / "tasks.parquet")
        statistics = {name: _of_numbers(values) for name, values in columns.items()}
        statistics |= {_key(camera): _of_pictures(counts) for camera, counts in levels.items()}
        (folder / "meta" / "stats.json").write_text(json.dumps(statistics, indent=1))
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": dataset.episode_count,
            "total_frames": len(dataset),
            "total_tasks": 1,
            "chunks_size": _CHUNK_SIZE,
            "data_files_size_in_mb": _FILE_MEGABYTES,
            "video_files_size_in_mb": _FILE_MEGABYTES,
            "fps": frames_per_second,
            "splits": {"train": f"0:{dataset.episode_count}"},
            "data_path": _DATA_PATH,
            "video_path": None,
            "features": _features(dataset, columns),
        }
        (folder / "meta" / "info.json").write_text(json.dumps(info, indent=1))


def _columns(dataset: Dataset, frames_per_second: int) -> _Columns:
    row, lengths = np.arange(len(dataset)), dataset.episode_lengths
    in_episode = row - np.repeat(dataset.episode_starts, lengths)
    columns = {
        "observation.state": dataset.observations[:, -(dataset.observations.shape[1] // dataset.observation_horizon) :],
        "action": dataset.actions,
        "next.reward": dataset.rewards,
        "next.done": dataset.terminated | dataset.truncated,
        "next.truncated": dataset.truncated & ~dataset.terminated,
        "timestamp": (in_episode / frames_per_second).astype(np.float32),
        "frame_index": in_episode,
        "episode_index": dataset.episode_of_row,
        "index": row,
        "task_index": np.zeros_like(row),
    }
    if not np.isnan(dataset.episode_success).any():
        columns["next.success"] = np.repeat(dataset.episode_success == 1, lengths)
    if dataset.grasp_penalty is not None:
        columns[PENALTY] = dataset.grasp_penalty
    return {name: values.reshape(len(row), -1) for name, values in columns.items()}


def _features(dataset: Dataset, columns: _Columns) -> dict[str, dict[str, Any]]:
    """What info.json says of every column and camera."""
    numbers = {
        name: {"dtype": str(values.dtype), "shape": [values.shape[1]], "names": None}
        for name, values in columns.items()
    }
    pictures = {
        _key(camera): {"dtype": "image", "shape": list(frames.shape[1:]), "names": ["height", "width", "channels"]}
        for camera, frames in dataset.images.items()
    }
    return numbers | pictures


def _key(camera: str) -> str:
    # lerobot takes no slash in a name, and the kit takes what follows the last point.
    return f"observation.images.{camera.replace('/', '_').replace('.', '_')}"


def _write_data(
    folder: Path, dataset: Dataset, columns: _Columns, task: str
) -> tuple[list[dict[str, Any]], dict[str, Int64[np.ndarray, "3 256"]]]:
    """Writes the rows; returns the records of episodes, and by camera how often each level of a color occurs."""
    from pyarrow import concat_tables, parquet

    levels = {camera: np.zeros((3, 256), np.int64) for camera in dataset.images}
    records: list[dict[str, Any]] = []
    tables: list[Any] = []
    file = size = 0
    bounds = np.stack([dataset.episode_starts, dataset.episode_ends], axis=1).tolist()
    for episode, (start, end) in enumerate(tqdm(bounds, desc="writing", unit="episode", leave=False, delay=1.0)):
        pictures = {}
        for camera, frames in dataset.images.items():
            own = frames[dataset.frame_of_row[start:end]]
            levels[camera] += np.stack([np.bincount(own[..., color].ravel(), minlength=256) for color in range(3)])
            pictures[_key(camera)] = [_picture(number, frame) for number, frame in enumerate(own)]
        tables.append(_table({name: values[start:end] for name, values in columns.items()}, pictures))
        chunk, index = divmod(file, _CHUNK_SIZE)
        record = {"episode_index": episode, "tasks": [task], "length": end - start}
        record |= {"dataset_from_index": start, "dataset_to_index": end}
        record |= {"data/chunk_index": chunk, "data/file_index": index}
        records.append(record | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        size += tables[-1].nbytes
        if end == len(dataset) or size > _FILE_MEGABYTES * 2**20:
            target = folder / _DATA_PATH.format(chunk_index=chunk, file_index=index)
            target.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(concat_tables(tables), target)
            tables, size, file = [], 0, file + 1
    return records, levels


def _table(columns: _Columns, pictures: Mapping[str, list[dict[str, Any]]]) -> Any:
    """Rows as a table of pyarrow: single numbers, lists of fixed size, and pictures."""
    import pyarrow

    arrays = {}
    for name, values in columns.items():
        flat = pyarrow.array(values.reshape(-1))
        size = values.shape[1]
        arrays[name] = flat if size == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, size)
    return pyarrow.table(arrays | dict(pictures))


def _picture(number: int, frame: Frame) -> dict[str, Any]:
    """As `datasets.Image` stores a picture."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG", compress_level=1)
    return {"bytes": content.getvalue(), "path": f"frame-{number:06d}.png"}


def _of_numbers(values: Shaped[np.ndarray, "row numbers"]) -> dict[str, list[float]]:
    """Statistics of a column."""
    values = values.astype(np.float64)
    found = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    quantiles = np.quantile(values, list(_QUANTILES.values()), axis=0).tolist()
    return found | dict(zip(_QUANTILES, quantiles, strict=True)) | {"count": [len(values)]}


def _of_pictures(counts: Int64[np.ndarray, "3 256"]) -> dict[str, list[Any]]:
    """Statistics of pictures by color, in [0, 1], from how often each level occurs."""
    level, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ level / total
    found = {
        "min": level[(counts > 0).argmax(axis=1)],
        "max": level[255 - (counts > 0)[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ level**2 / total - mean**2, 0)),
    }
    below = counts.cumsum(axis=1) / total[:, None]
    found |= {name: level[(below >= share).argmax(axis=1)] for name, share in _QUANTILES.items()}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [int(total[0])]}
