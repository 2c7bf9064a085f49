"""Cameras of a real robot: pictures cut and scaled as HIL-SERL does it, and settings that do not fit."""

from importlib.util import find_spec

import numpy as np
import pytest

from robot_samples import driven, served
from wsrl_kit.data.views import View
from wsrl_kit.errors import ExperimentError, ParameterError, RobotError
from wsrl_kit.robot.cameras import CroppedCamera, open_camera

VIEW = View(3, 3, [1, 4, 3, 6])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "camera wrist_1 must have one of realsense, a serial number, and opencv"),
        ({"realsense": "1", "opencv": 0}, "camera wrist_1 must have one of"),
        ({"realsens": "1"}, "there is no setting of camera wrist_1 named realsens: did you mean realsense?"),
        ({"realsense": 130322274175}, "realsense of camera wrist_1 must be a str, found 130322274175"),
        ({"opencv": 0, "crop": [5, 2, 0, 9]}, "crop of camera wrist_1 must be first row, end row, first column"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, sentence):
    with pytest.raises(ParameterError, match=sentence):
        open_camera("wrist_1", settings, 128, 1.0)


class Device:
    """A camera that does what a test says."""

    def __init__(self, read):
        self.read = read

    def close(self):
        raise RuntimeError("the device is gone")


def broken():
    raise RuntimeError("Frame didn't arrive within 1000")


@pytest.mark.parametrize(
    ("read", "sentence"),
    [
        (broken, "camera wrist_1 gives no picture: Frame didn't arrive within 1000"),
        (lambda: None, "camera wrist_1 must give color pictures of at least 4 x 6 pixels, found"),
        (lambda: np.zeros((4, 8), np.uint8), "found 4x8 of uint8"),
        (lambda: np.zeros((4, 8, 4), np.uint8), "found 4x8x4 of uint8"),
        (lambda: np.zeros((4, 8, 3), np.uint16), "found 4x8x3 of uint16"),
        (lambda: np.zeros((4, 5, 3), np.uint8), "found 4x5x3 of uint8"),
        (lambda: np.zeros((3, 8, 3), np.uint8), "found 3x8x3 of uint8"),
    ],
)
def test_what_a_device_does_wrong_is_lost_contact(read, sentence):
    camera = CroppedCamera("wrist_1", Device(read), VIEW)
    with pytest.raises(RobotError, match=sentence):
        camera.read()
    camera.close()


def test_a_picture_that_fits_is_cut_and_scaled():
    picture = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    assert np.array_equal(CroppedCamera("w", Device(lambda: picture), VIEW).read(), picture[1:4, 3:6])


@pytest.mark.skipif(find_spec("pyrealsense2") is not None, reason="pyrealsense2 is installed")
def test_a_missing_package_is_named_with_its_command():
    with served() as server:
        # As a real server, which has no cameras of its own.
        del server.endpoints["sim/status"]
        with (
            pytest.raises(ExperimentError, match="camera wrist_1 needs a package that `pip install pyrealsense2`"),
            driven(server, cameras={"wrist_1": {"realsense": "130322274175"}}),
        ):
            raise AssertionError("it must not come so far")
