"""How a notebook is run, apart from what it computes: the parameters that all notebooks share."""

from dataclasses import dataclass

from wsrl_kit.parameters import parameter, validate
from wsrl_kit.presets import preset


@dataclass(frozen=True)
class SessionConfig:
    """Where a notebook writes, and whether it shows widgets.

    Raises:
        ParameterError: naming the parameter, what was expected and what was found.
    """

    preset: str = parameter("kit", "published method that gives the values left at None")
    robot_url: str | None = parameter(
        None, "address of a robot's server, such as http://127.0.0.1:5000; it takes the place of exp_name"
    )
    output_dir: str = parameter("runs/latest", "folder of the run: metrics, checkpoint and figures", path=True)
    live: bool | None = parameter(None, "widgets and a Stop button; None: if a Jupyter front end is attached")
    resume: bool = parameter(True, "continue an unfinished run found in output_dir")

    def __post_init__(self) -> None:
        validate(self)
        preset(self.preset)
