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
from wsrl_kit.reading import LARGEST_RATIO, check_size, reading
from wsrl_kit.trajectory import Images

# Bytes of frames to a byte of video, at most: what does not move takes next to nothing.
_VIDEO_RATIO = 1000

# Height and width; decoders allocate frames of the size that a file declares.
_LARGEST_FRAME = 4096

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
    found = _keys(folder)
    if missing := [camera for camera in cameras or () if camera not in found]:
        names = ", ".join(found) or "no cameras"
        raise DataError(f"{folder.path} has no images of {', '.join(missing)}, found {names}.")
    images: dict[str, UInt8[np.ndarray, "frame _height _width 3"]] = {}
    for camera, keys in found.items():
        if cameras is not None and camera not in cameras:
            continue
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
        images[camera] = _gathered(f"{folder.path}: {key!r}", frames, int(folder.lengths.sum()), stored, largest)
    return images


def _check_frame_size(width: int, height: int) -> None:
    if max(width, height) > _LARGEST_FRAME:
        raise ValueError(f"it has frames of {width}x{height}, expected at most {_LARGEST_FRAME} pixels a side")


def _keys(folder: Folder) -> dict[str, list[str]]:
    """Camera -> its keys, of which there should be one."""
    keys: dict[str, list[str]] = {}
    for key, feature in sorted(folder.features.items()):
        if key.startswith("observation.") and feature["dtype"] in ("image", "video"):
            keys.setdefault(key.rsplit(".", 1)[1], []).append(key)
    return keys


def _is_depth(feature: Mapping[str, Any]) -> bool:
    """Depth maps have been marked in three places, one after another."""
    said = [feature.get("info") or {}, feature.get("video_info") or {}]
    return any(part.get(name) for part in said for name in ("is_depth_map", "video.is_depth_map"))


def _gathered(
    what: str, frames: Iterator[Frame], count: int, stored: int, largest_ratio: int
) -> UInt8[np.ndarray, "frame _height _width 3"]:
    """All frames in one array, without a second copy of them in between; their files have `stored` bytes."""
    first = next(frames)
    check_size(count * first.nbytes, stored, largest_ratio)
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
