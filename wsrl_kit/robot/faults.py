"""What can go wrong between a robot and its client, made to happen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsrl_kit.parameters import check_some, parameter, validate


@dataclass(frozen=True)
class Faults:
    """How the server misbehaves, towards all calls but those under `/sim/`; the default is that it does not.

    Raises:
        ParameterError: a field has a wrong type or is out of range.
    """

    latency: float = parameter(0.0, "every answer is this late, s", minimum=0.0)
    status: int = parameter(
        200, "every answer has this HTTP status; only with 200 is anything done", minimum=200, maximum=599
    )
    silent: bool = parameter(False, "calls are taken and never answered")
    frozen: bool = parameter(False, "simulated time stands still: the robot does not move and says the same for ever")
    state: dict = parameter({}, "entries of /getstate to answer in place of the true ones, such as {'vel': [nan, ...]}")
    endpoints: list[str] = parameter([], "calls that misbehave, such as ['pose']; empty for all")
    count: int = parameter(0, "calls after which all is well again; 0 for never", minimum=0)

    def __post_init__(self) -> None:
        validate(self)

    def hit(self, endpoint: str) -> bool:
        """Whether a call of this endpoint misbehaves."""
        return not endpoint.startswith("sim/") and (not self.endpoints or endpoint in self.endpoints)


def faults_from(given: Mapping[str, Any]) -> Faults:
    """Faults by name, for a server told over HTTP.

    Raises:
        ParameterError: there is no such fault, or its value does not fit.
    """
    return Faults(**check_some(Faults, given))
