"""One observation of HIL-SERL's files: `state`, and a stack of frames per camera."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wsrl_kit.data.recording import LONGEST_NAME, kind

# Height and width; beside it a state (k, S) has few rows.
_SMALLEST_MAP = 16


class Unreadable(Exception):
    """Why a transition can't be read, as the end of a sentence."""


class Observation(NamedTuple):
    """What a policy may see of one moment.

    Attributes:
        state: numbers; (k, S) or (S,) as recorded.
        images: camera, sorted by name -> its stack, uint8 (k, height, width, 3), oldest frame first.
    """

    state: np.ndarray
    images: dict[str, np.ndarray]

    @property
    def shapes(self) -> tuple[Any, ...]:
        """The state's shape, then names and shapes of the cameras."""
        return self.state.shape, *((camera, stack.shape) for camera, stack in self.images.items())

    def __str__(self) -> str:
        """The shapes in words, such as `(1, 19), wrist_1 (1, 128, 128, 3)`."""
        return ", ".join([f"{self.state.shape}", *(f"{name} {stack.shape}" for name, stack in self.images.items())])


def parse_observation(observation: Any, cameras: Sequence[str] | None) -> Observation:
    """Reads a dict with `state` and images, or a flat array.

    Args:
        observation: as unpickled.
        cameras: the cameras wanted, others are passed over; None: all.

    Raises:
        Unreadable: it is none of these, a camera is missing, or images are no uint8 RGB of the state's horizon.
    """
    entries = observation if isinstance(observation, dict) else {"state": observation}
    if not all(is_name(key) for key in entries):
        raise Unreadable(f"has an observation without a name of at most {LONGEST_NAME} printable characters")
    others = {key: as_array(entries[key], repr(key)) for key in sorted(entries) if key != "state"}
    found = {key: value for key, value in others.items() if _is_image(value)}
    for key in others.keys() - found.keys():
        raise Unreadable(f"has an observation under {key!r} ({kind(others[key])}), expected `state` and camera images")
    if "state" not in entries:
        beside = f", expected it beside the camera images ({', '.join(found)})" if found else ""
        raise Unreadable(f"has no 'state'{beside}")
    missing = [camera for camera in cameras or () if camera not in found]
    if missing:
        raise Unreadable(f"has no images of {', '.join(missing)}, found {', '.join(found) or 'no cameras'}")
    wanted = {key: value for key, value in found.items() if cameras is None or key in cameras}
    state = numbers(entries["state"], "observations")
    images = {camera: _stack(camera, value) for camera, value in wanted.items()}
    horizon = len(state) if state.ndim > 1 else 1
    for camera, stack in images.items():
        if len(stack) != horizon:
            raise Unreadable(
                f"has {len(stack)} frames under {camera!r} ({kind(stack)}) beside {horizon} of `state` "
                f"({kind(state)}), expected one observation horizon"
            )
    return Observation(state, images)


def _is_image(value: np.ndarray) -> bool:
    """Whether an entry is a camera's, be it of a kind that the kit does not read, such as a depth map."""
    is_pictured = value.dtype == np.uint8 and value.ndim > 0
    return is_pictured or value.ndim > 2 or (value.ndim == 2 and min(value.shape) >= _SMALLEST_MAP)


def _stack(camera: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise Unreadable(f"has {images.dtype} images under {camera!r}, expected uint8 from 0 to 255")
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or images.size == 0:
        raise Unreadable(f"has images of shape {images.shape} under {camera!r}, expected (horizon, height, width, 3)")
    return images if images.ndim == 4 else images[None]


def is_name(value: Any) -> bool:
    """Whether a camera or a source may be called so; what prints names need not look at them again."""
    return isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()


def numbers(value: Any, name: str) -> np.ndarray:
    """The array that an entry holds, which must be of numbers.

    Raises:
        Unreadable: it is not.
    """
    array = as_array(value, name)
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise Unreadable(f"has {name} that are no numbers")
    return array


def as_array(value: Any, name: str) -> np.ndarray:
    """The array that an entry holds.

    Raises:
        Unreadable: it is neither an array, nor a number, nor a regular list of these.
    """
    if not _holds_numbers(value):
        raise Unreadable(f"has {name} that are no numbers")
    try:
        return np.asarray(value)
    except ValueError:
        raise Unreadable(f"has {name} that are no array") from None


def _holds_numbers(value: Any) -> bool:
    """Whether lists hold nothing else; a text among numbers would make numpy take a text's place for each of them."""
    if isinstance(value, list | tuple):
        return all(map(_holds_numbers, value))
    return isinstance(value, np.ndarray | np.generic | int | float)
