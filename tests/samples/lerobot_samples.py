"""Folders as lerobot writes them: LeRobotDataset v3 or v2.1, with pictures in the parquet files or with videos."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

# Columns by name, a row per frame; those of cameras are uint8 (frame, height, width, 3).
Episode = Mapping[str, np.ndarray]

FRAMES_PER_SECOND = 10

NEWER = "chunk-{chunk_index:03d}/file-{file_index:03d}"
OLDER = "chunk-{episode_chunk:03d}/episode_{episode_index:06d}"
OLDER_VIDEO = "chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}"
"""Templates of places in v3, in v2, and of videos in v2."""


def episode(
    length: int,
    start: int = 0,
    *,
    reward: float = 1.0,
    flags: Mapping[str, Sequence[bool]] | None = None,
    cameras: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, np.ndarray]:
    """Frames numbered from `start`, which the state says, the action in hundredths, and the first pixel of an image.

    The last step has the reward, and is done.
    """
    numbers = np.arange(start, start + length)
    columns = {
        "observation.state": np.stack([numbers, numbers + 0.25, numbers + 0.5], axis=1).astype(np.float32),
        "action": np.stack([numbers, -numbers], axis=1).astype(np.float32) / 100,
        "next.reward": np.where(numbers == numbers[-1], reward, 0).astype(np.float32),
        "next.done": numbers == numbers[-1],
    }
    for camera, size in (cameras or {}).items():
        images = np.random.default_rng(start).integers(0, 256, (length, *size, 3), dtype=np.uint8)
        images[:, 0, 0, 0] = numbers
        columns[f"observation.images.{camera}"] = images
    return columns | {name: np.array(values) for name, values in (flags or {}).items()}


def write_lerobot(
    path: Path,
    episodes: Sequence[Episode],
    *,
    video: bool = False,
    episodes_per_file: int = 2,
    version: str = "v3.0",
) -> Path:
    records: list[dict[str, Any]] = []
    is_older = version.startswith("v2")
    episodes_per_file = 1 if is_older else episodes_per_file
    for file in range(0, len(episodes), episodes_per_file):
        # The second file lies in the second chunk: `chunks_size` is 1.
        chunk = f"chunk-{file // episodes_per_file:03d}"
        place = f"{chunk}/episode_{file:06d}" if is_older else f"{chunk}/file-000"
        part = episodes[file : file + episodes_per_file]
        for frames in part:
            first, length = records[-1]["dataset_to_index"] if records else 0, len(next(iter(frames.values())))
            record = {
                "episode_index": len(records),
                "tasks": ["insert"],
                "length": length,
                "data/chunk_index": file // episodes_per_file,
                "data/file_index": 0,
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                "stats/action/mean": [0.0, 0.0],
            }
            for name in filter(_is_camera, frames if video else ()):
                begin = 0.0 if frames is part[0] else records[-1][f"videos/{name}/to_timestamp"]
                record |= {
                    f"videos/{name}/chunk_index": file // episodes_per_file,
                    f"videos/{name}/file_index": 0,
                    f"videos/{name}/from_timestamp": begin,
                    f"videos/{name}/to_timestamp": begin + length / FRAMES_PER_SECOND,
                }
            records.append(record)
        _write_rows(path / "data" / f"{place}.parquet", part, records[-len(part) :], video)
        for name in filter(_is_camera, episodes[0] if video else ()):
            target = f"{chunk}/{name}/episode_{file:06d}" if is_older else f"{name}/{place}"
            write_video(path / "videos" / f"{target}.mp4", np.concatenate([frames[name] for frames in part]))
    if is_older:
        (path / "meta").mkdir()
        kept = [{name: record[name] for name in ("episode_index", "tasks", "length")} for record in records]
        (path / "meta" / "episodes.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in kept))
    else:
        write_records(path, records)
    features = {name: _feature(name, values, video) for name, values in episodes[0].items()}
    said = {
        "codebase_version": version,
        "robot_type": None,
        "total_episodes": len(records),
        "total_frames": records[-1]["dataset_to_index"],
        "total_tasks": 1,
        "chunks_size": 1,
        "fps": FRAMES_PER_SECOND,
        "data_path": f"data/{OLDER if is_older else NEWER}.parquet",
        "video_path": f"videos/{OLDER_VIDEO if is_older else f'{{video_key}}/{NEWER}'}.mp4" if video else None,
        "features": features | {"episode_index": {"dtype": "int64", "shape": [1], "names": None}},
    }
    (path / "meta" / "info.json").write_text(json.dumps(said))
    return path


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    file = path / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), file)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Lossless, and with frames that are stored in another order than they are shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=FRAMES_PER_SECOND, options={"qp": "0", "bf": "2", "g": "4"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def picture(image: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG" if image.dtype != np.float32 else "TIFF")
    return {"bytes": file.getvalue(), "path": "frame-000000.png"}


def _is_camera(name: str) -> bool:
    return name.startswith("observation.image")


def _feature(name: str, values: np.ndarray, video: bool) -> dict[str, Any]:
    dtype = ("video" if video else "image") if _is_camera(name) else str(values.dtype)
    return {"dtype": dtype, "shape": list(values.shape[1:]) or [1], "names": None}


def _write_rows(path: Path, episodes: Sequence[Episode], records: Sequence[Mapping[str, Any]], video: bool) -> None:
    columns: dict[str, Any] = {}
    for name in episodes[0]:
        rows = np.concatenate([frames[name] for frames in episodes])
        if not _is_camera(name):
            # Vectors are lists of fixed size, single numbers are no lists.
            flat = pyarrow.array(rows.reshape(-1))
            columns[name] = flat if rows.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        elif not video:
            columns[name] = [picture(image) for frames in episodes for image in frames[name]]
    columns["episode_index"] = np.repeat([r["episode_index"] for r in records], [r["length"] for r in records])
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="snappy")
