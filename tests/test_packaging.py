import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from wsrl_kit.envs.tasks import PACKAGES

ROOT = Path(__file__).parent.parent
# Extras whose package wants another MuJoCo than the lock pins, or very many others: each in an environment of its own.
OWN_ENVIRONMENT = ("metaworld", "gym-hil", "wandb")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lock() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_locked_within_its_range(project: dict[str, Any], lock: list[Requirement]) -> None:
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name not in OWN_ENVIRONMENT}
    wanted = [*project["dependencies"], *chain(*extras.values())]
    for requirement in map(Requirement, wanted):
        locked = [entry for entry in lock if canonical(entry.name) == canonical(requirement.name)]
        if requirement.name == project["name"]:
            assert requirement.extras <= project["optional-dependencies"].keys()
            continue
        assert locked, f"{requirement} is not in requirements.lock"
        for entry in locked:
            (version,) = (specifier.version for specifier in entry.specifier)
            assert requirement.specifier.contains(version), f"{entry} does not satisfy {requirement}"


def test_a_package_that_needs_an_environment_of_its_own_is_not_locked(lock: list[Requirement]) -> None:
    assert not {canonical(entry.name) for entry in lock} & set(OWN_ENVIRONMENT)


def test_every_package_of_robot_tasks_has_an_extra_of_its_name(project: dict[str, Any]) -> None:
    for package in PACKAGES:
        (requirement,) = map(Requirement, project["optional-dependencies"][package.name])
        assert canonical(requirement.name) == package.name and str(requirement.specifier)


def test_the_lock_pins_and_names_no_place_to_download_from(lock: list[Requirement]) -> None:
    for entry in lock:
        assert entry.url is None
        assert [specifier.operator for specifier in entry.specifier] == ["=="]
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"//|--|\bhttps?\b|\bindex\b|\bfile:", text)


def test_conda_gets_the_same_environment(project: dict[str, Any]) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, listed = environment["dependencies"]
    version = python.removeprefix("python=")
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)
    assert pip == "pip"
    assert listed == {"pip": ["-c requirements.lock", "-e .[dev]"]}


def test_every_package_is_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    found = {".".join(path.relative_to(ROOT).parent.parts) for path in (ROOT / "wsrl_kit").rglob("*.py")}
    assert sorted(listed) == sorted(found | {"wsrl_kit.notebooks"})


def test_an_installed_wheel_has_the_commands_the_notebooks_and_the_simulated_robot(tmp_path: Path) -> None:
    source, folder, environment = tmp_path / "source", tmp_path / "elsewhere", tmp_path / "environment"
    folder.mkdir()

    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: object, cwd: Path = folder) -> str:
        done = subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("wsrl_kit", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # The backend that pip calls, without an environment of its own, for which it would need the network.
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    run(sys.executable, "-c", build, cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.rmtree(source)
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel)
    (packages,) = environment.glob("lib/*/site-packages")
    # What the kit needs, from the environment of the tests; the kit itself lies before it on the path.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))

    assert "warmup" in run(environment / "bin" / "wsrl-kit", "--help")
    assert "copies: copied: 00_collect_data.ipynb, " in run(
        environment / "bin" / "wsrl-kit", "lab", "copies", "--version"
    )
    notebooks = {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.name: path.read_bytes() for path in (folder / "copies").glob("*.ipynb")} == notebooks
    code = (
        "import wsrl_kit; from wsrl_kit.envs.make import make; robot = make('hirol_fixed_gripper');"
        "state, _ = robot.reset(seed=0); print(wsrl_kit.__file__, state.shape, robot.action_space.shape)"
    )
    assert run(python, "-c", code) == f"{packages}/wsrl_kit/__init__.py (19,) (6,)\n"
    assert list(folder.iterdir()) == [folder / "copies"]


def test_the_folder_of_a_clone_does_not_hide_the_package_from_what_is_started_beside_it(tmp_path: Path) -> None:
    (tmp_path / "wsrl_kit" / "runs").mkdir(parents=True)
    found = subprocess.run(
        [sys.executable, "-c", "from wsrl_kit.runs.run import Run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
