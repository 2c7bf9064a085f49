"""The cameras of a LeRobotDataset v3: pictures in the parquet files, or videos of many episodes each."""

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.data.frames import Frame
from wsrl_kit.data.lerobot_folder import Folder, parquet
from wsrl_kit.errors import DataError
from wsrl_kit.trajectory import Images

# Pillow's modes of 8-bit pictures; 16 bits and floats are depths.
_PICTURES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def camera_images(folder: Folder, cameras: Sequence[str] | None) -> Images:
    """The frames of the cameras, one per row of the data; a camera's name is the last part of its key.

    Args:
        folder: the dataset.
        cameras: the cameras wanted; None: all.

    Raises:
        DataError: a camera or frames are missing, frames are damaged, of several sizes, or depths, two cameras have
            one name, or a decoder is not installed.
    """
    keys = _keys(folder)
    missing = [camera for camera in cameras or () if camera not in keys]
    if missing:
        found = ", ".join(keys) or "no cameras"
        raise DataError(f"{folder.path} has no images of {', '.join(missing)}, found {found}.")
    images: dict[str, UInt8[np.ndarray, "frame _height _width 3"]] = {}
    for camera, key in keys.items():
        if cameras is not None and camera not in cameras:
            continue
        if _is_depth(folder.features[key]):
            raise DataError(f"{folder.path}: {key!r} is a depth map, expected 8-bit color images.")
        frames = _pictures(folder, key) if folder.features[key]["dtype"] == "image" else _film(folder, key)
        images[camera] = _gathered(f"{folder.path}: {key!r}", frames, int(folder.lengths.sum()))
    return images


def _keys(folder: Folder) -> dict[str, str]:
    """Camera -> its key."""
    keys: dict[str, str] = {}
    for key, feature in sorted(folder.features.items()):
        if key.startswith("observation.") and feature["dtype"] in ("image", "video"):
            camera = key.rsplit(".", 1)[1]
            if camera in keys:
                raise DataError(f"{folder.path} has two cameras of the name {camera!r}: {keys[camera]!r} and {key!r}.")
            keys[camera] = key
    return keys


def _is_depth(feature: Mapping[str, Any]) -> bool:
    """Depth maps have been marked in three places, one after another."""
    said = [feature.get("info") or {}, feature.get("video_info") or {}]
    return any(part.get(name) for part in said for name in ("is_depth_map", "video.is_depth_map"))


def _gathered(what: str, frames: Iterator[Frame], count: int) -> UInt8[np.ndarray, "frame _height _width 3"]:
    """All frames in one array, without a second copy of them in between."""
    first = next(frames)
    gathered = np.empty((count, *first.shape), np.uint8)
    gathered[0] = first
    for number, frame in enumerate(frames, start=1):
        if frame.shape != first.shape:
            raise DataError(f"{what}: frame {number} has shape {frame.shape}, expected {first.shape} as frame 0.")
        gathered[number] = frame
    return gathered


def _pictures(folder: Folder, key: str) -> Iterator[Frame]:
    for file in folder.data_files():
        with parquet(file) as opened:
            for batch in opened.iter_batches(columns=[key], batch_size=64):
                for stored in batch.column(key).to_pylist():
                    yield _picture(f"{file}: {key!r}", stored)


def _picture(what: str, stored: Any) -> Frame:
    from PIL import Image

    content = stored.get("bytes") if isinstance(stored, dict) else None
    if not content:
        raise DataError(f"{what} has a frame without a picture; its bytes are expected in the parquet file.")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF")) as picture:
            if picture.mode not in _PICTURES:
                raise DataError(f"{what} has pictures of kind {picture.mode!r}, expected 8-bit color images.")
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{what} has a damaged picture: {error}.") from error


def _film(folder: Folder, key: str) -> Iterator[Frame]:
    """The frames of all episodes; episodes that follow each other in one video are decoded in one go."""
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
    """Every frame of a video with its time in seconds."""
    try:
        import av
    except ImportError as error:
        raise DataError(f"{file} needs PyAV, which `pip install 'wsrl-kit[video]'` installs.") from error
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.time is None:
                    raise DataError(f"{file} has a frame that does not say its time.")
                yield frame.time, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, LookupError) as error:
        raise DataError(f"{file} is truncated or damaged: {error}.") from error
