"""Third-party packages of robot tasks: which names are theirs, and how to install them."""

from dataclasses import dataclass
from importlib import import_module

from wsrl_kit.errors import ExperimentError

METAWORLD = "metaworld/"
"""Beginning of the names of Metaworld's tasks, such as `metaworld/door-open-v3`."""


@dataclass(frozen=True)
class TaskPackage:
    """An optional package whose tasks work by `exp_name` alone.

    Attributes:
        name: of the package, which is also the name of the extra that installs it.
        prefixes: beginnings of its tasks' names; upper and lower case do not matter.
        module: the module of this kit that registers its tasks with Gymnasium when it is imported.
        remark: what a user must know before installing it, as the end of a sentence.
    """

    name: str
    prefixes: tuple[str, ...]
    module: str
    remark: str = ""


PACKAGES = (
    TaskPackage(
        "gymnasium-robotics",
        ("fetch", "adroithand", "hand", "pointmaze", "antmaze", "frankakitchen"),
        "wsrl_kit.envs.gymnasium_robotics_tasks",
    ),
    TaskPackage(
        "metaworld", (METAWORLD,), "wsrl_kit.envs.metaworld_tasks", " (in an environment of its own: it pins mujoco)"
    ),
    TaskPackage(
        "gym-hil",
        ("gym_hil/",),
        "wsrl_kit.envs.gym_hil_tasks",
        " (in an environment of its own: it wants mujoco below 3.9)",
    ),
)
"""In no order; no prefix of one package begins the names of another."""


def register_like(exp_name: str) -> None:
    """Import the package whose names begin like `exp_name`, which registers its tasks; do nothing if there is none.

    Raises:
        ExperimentError: the package is not installed; names the command that installs it.
    """
    for package in PACKAGES:
        # "package:Id" says itself what is imported.
        if ":" not in exp_name and exp_name.lower().startswith(package.prefixes):
            try:
                import_module(package.module)
            except ImportError as error:
                raise ExperimentError(
                    f"exp_name {exp_name!r} needs {package.name}, which `pip install 'wsrl-kit[{package.name}]'` "
                    f"installs{package.remark}: {error}"
                ) from error


def register_all_installed() -> None:
    """Import every package that is installed, so that the nearest name can be looked for among all tasks."""
    for package in PACKAGES:
        try:
            import_module(package.module)
        except ImportError:
            continue
