"""Cameras of a real robot, by name.

Settings: one of
    realsense: a RealSense camera's serial number, as a text ("130322274175");
    opencv: number of a device, or path of a device or a video;
and any of `width`, `height` (pixels, default 640 and 480), `frame_rate` (default 30), and `crop` before scaling
(HIL-SERL's IMAGE_CROP): first row, end row, first column, end column.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, UInt8

from wsrl_kit.data.views import View
from wsrl_kit.errors import ExperimentError, ParameterError, RobotError
from wsrl_kit.parameters import check, unknown

CameraFrames = Mapping[str, UInt8[np.ndarray, "height width 3"]]
"""The newest frame of each camera."""

_SETTINGS = {"realsense": str, "opencv": int | str, "width": int, "height": int, "frame_rate": int, "crop": list[int]}


@runtime_checkable
class Camera(Protocol):
    """A source of frames."""

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        """The newest RGB frame, top row first; raises if none comes in time."""

    def close(self) -> None:
        """Give the device back."""


class CroppedCamera:
    """A camera with frames cropped and scaled; every failure is a RobotError."""

    def __init__(self, name: str, camera: Camera, view: View) -> None:
        self._name, self._camera, self._view = name, camera, view

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        try:
            frame = self._camera.read()
        except Exception as error:  # drivers have no common error
            raise RobotError(f"camera {self._name} gives no picture: {error}") from error
        rows, columns = self._view.crop[1::2] or (1, 1)
        shape, kind = np.shape(frame), np.asarray(frame).dtype
        if len(shape) != 3 or shape[2] != 3 or kind != np.uint8 or shape[0] < rows or shape[1] < columns:
            raise RobotError(
                f"camera {self._name} must give color pictures of at least {rows} x {columns} pixels, found "
                f"{'x'.join(map(str, shape))} of {kind}"
            )
        return self._view.of(frame)

    def close(self) -> None:
        # A device that is gone can't be closed.
        with suppress(Exception):
            self._camera.close()


_MOVED = 0.01
"""Metres of the tool after which every camera, on or beside the robot, must see another picture."""


class FrozenCameras:
    """Tells a camera that is frozen: the same picture for a second while the robot moves.

    Args:
        steps: of a second.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._first: dict[str, tuple[UInt8[np.ndarray, "height width 3"], Float64[np.ndarray, 3]]] = {}
        self._repeats: Counter[str] = Counter()

    def check(self, frames: CameraFrames, position: Float64[np.ndarray, "3"]) -> None:
        """Takes a step's frames and the tool's position, m. Raises RobotError."""
        for name, frame in frames.items():
            if name not in self._first or not np.array_equal(frame, self._first[name][0]):
                self._first[name], self._repeats[name] = (frame, position), 0
                continue
            self._repeats[name] += 1
            moved = float(np.linalg.norm(position - self._first[name][1]))
            if self._repeats[name] >= self._steps and moved > _MOVED:
                raise RobotError(
                    f"camera {name} must show another picture when the robot moves, and has shown the same one for "
                    f"{self._repeats[name]} steps and {1000 * moved:.0f} mm: it is frozen"
                )


def open_camera(name: str, settings: Mapping[str, Any], size: int, deadline: float) -> Camera:
    """A camera by its settings (see the module), which must give each frame in `deadline` seconds.

    Raises:
        ParameterError: unfit settings.
        ExperimentError: a missing package.
        RobotError: no such device.
    """
    for key in settings:
        if key not in _SETTINGS:
            raise unknown(key, list(_SETTINGS), f"setting of camera {name}")
    chosen = {key: check(f"{key} of camera {name}", value, _SETTINGS[key]) for key, value in settings.items()}
    crop = chosen.get("crop", [])
    if crop and (len(crop) != 4 or not (0 <= crop[0] < crop[1] and 0 <= crop[2] < crop[3])):
        raise ParameterError(
            f"crop of camera {name} must be first row, end row, first column, end column, found {crop}"
        )
    if len({"realsense", "opencv"} & chosen.keys()) != 1:
        raise ParameterError(f"camera {name} must have one of realsense, a serial number, and opencv, found {settings}")
    kind, device = (_RealSense, chosen["realsense"]) if "realsense" in chosen else (_OpenCV, repr(chosen["opencv"]))
    try:
        return CroppedCamera(name, kind(chosen, deadline), View(size, size, crop))
    except ImportError as error:
        package = "pyrealsense2" if "realsense" in chosen else "opencv-python-headless"
        raise ExperimentError(
            f"camera {name} needs a package that `pip install {package}` installs: {error}"
        ) from error
    except Exception as error:
        raise RobotError(f"camera {name} ({device}) can't be opened: {error}") from error


class _RealSense:
    def __init__(self, settings: Mapping[str, Any], deadline: float) -> None:
        import pyrealsense2

        self._deadline = deadline
        self._pipeline = pyrealsense2.pipeline()
        configuration = pyrealsense2.config()
        configuration.enable_device(settings["realsense"])
        configuration.enable_stream(
            pyrealsense2.stream.color,
            settings.get("width", 640),
            settings.get("height", 480),
            pyrealsense2.format.rgb8,
            settings.get("frame_rate", 30),
        )
        self._pipeline.start(configuration)

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        frames = self._pipeline.wait_for_frames(round(1000 * self._deadline))
        return np.array(frames.get_color_frame().get_data())

    def close(self) -> None:
        self._pipeline.stop()


class _OpenCV:
    def __init__(self, settings: Mapping[str, Any], deadline: float) -> None:
        import cv2

        milliseconds = round(1000 * deadline)
        self._capture = cv2.VideoCapture(
            settings["opencv"], cv2.CAP_ANY, [cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        )
        if not self._capture.isOpened():
            raise OSError("there is no such device")
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.get("width", 640))
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.get("height", 480))
        self._capture.set(cv2.CAP_PROP_FPS, settings.get("frame_rate", 30))
        # Give the newest frame, not the oldest that waits.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)

    def read(self) -> UInt8[np.ndarray, "height width 3"]:
        read, frame = self._capture.read()
        if not read:
            raise OSError("the device gave none")
        return np.ascontiguousarray(frame[..., ::-1])

    def close(self) -> None:
        self._capture.release()
