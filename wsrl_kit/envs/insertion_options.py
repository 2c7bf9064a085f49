"""What can be chosen about the insertion task, and the named difficulties."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from wsrl_kit.envs.insertion_model import LARGEST_IMAGE
from wsrl_kit.parameters import check, parameter, unknown, validate


@dataclass(frozen=True)
class InsertionOptions:
    """Options of the insertion task; the defaults are the difficulty `default`.

    Raises:
        ParameterError: an option has a wrong type or is out of range.
    """

    clearance: float = parameter(0.0005, "hole width minus peg width, m", minimum=0.0001, maximum=0.005)
    hole_offset: float = parameter(
        0.003, "half range of the hole's x and y, hidden from the policy, m", minimum=0.0, maximum=0.01
    )
    reset_range: float = parameter(0.02, "half range of the tip's x and y at reset, m", minimum=0.0, maximum=0.03)
    reset_rotation: float = parameter(0.05, "half range of the peg's yaw at reset, rad", minimum=0.0, maximum=0.2)
    reset_height: float = parameter(0.04, "mean height of the tip at reset, +- 1 cm, m", minimum=0.012, maximum=0.045)
    max_episode_steps: int = parameter(100, "time limit, control steps of 0.1 s", minimum=1)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True)
class PixelInsertionOptions(InsertionOptions):
    """Options of the insertion task with cameras.

    Raises:
        ParameterError: an option has a wrong type or is out of range.
    """

    image_size: int = parameter(
        128, "height and width of the cameras' images, pixels", minimum=16, maximum=LARGEST_IMAGE
    )
    relative_pose: bool = parameter(
        True, "tcp_pose relative to the reset's, which leaves where the hole is to the cameras, as in HIL-SERL"
    )


Options = TypeVar("Options", bound=InsertionOptions)

DIFFICULTIES: dict[str, dict[str, Any]] = {
    "easy": {"clearance": 0.001, "hole_offset": 0.0},
    "default": {},
    "hard": {"clearance": 0.0003, "hole_offset": 0.004, "reset_rotation": 0.1},
}
"""Options that each difficulty sets; the others keep their defaults."""


def insertion_options(given: Mapping[str, Any], kind: type[Options]) -> Options:
    """Options of a `kind` from a mapping: `difficulty` names a preset, every other entry overrides one option of it.

    Raises:
        ParameterError: an unknown name or difficulty, a wrong type, a value out of range.
    """
    known = [field.name for field in fields(kind)]
    for name in given:
        if name != "difficulty" and name not in known:
            raise unknown(name, ["difficulty", *known])
    difficulty = check("difficulty", given.get("difficulty", "default"), str, {"choices": tuple(DIFFICULTIES)})
    chosen = {name: value for name, value in given.items() if name != "difficulty"}
    return kind(**{**DIFFICULTIES[difficulty], **chosen})
