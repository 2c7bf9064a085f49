"""The kit's notebooks as they were installed, and a user's copies of them for JupyterLab.

Commands execute the installed notebooks, the templates; people edit copies. A file beside the copies remembers which
templates they were made from, and the root: the folder at which relative paths in them begin.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wsrl_kit
from wsrl_kit.errors import ParameterError

# Commands that run one of the kit's notebooks, with the notebook's parameters as flags.
COMMANDS = {
    "collect": ("00_collect_data.ipynb", "collect demonstrations, suboptimal and random data"),
    "warmup": ("01_offline_warmup.ipynb", "offline warmup on existing data"),
    "finetune": ("02_robot_finetune.ipynb", "fine-tuning on the robot, from a warmup checkpoint or from scratch"),
    "ablation": ("03_ablation_warmup.ipynb", "compare training with and without warmup over seeds"),
    "tuning": ("04_tuning.ipynb", "search any parameters by grid or Optuna, and confirm the winner on fresh seeds"),
    "ablate-replay": ("05_ablate_replay.ipynb", "compare ways to sample replay and to keep offline data"),
    "regularisers": (
        "06_regularisers.ipynb",
        "compare behavior cloning, CQL, Cal-QL, dropout and early stopping in warmup",
    ),
    "classifier": (
        "07_reward_classifier.ipynb",
        "train a success classifier, which can give the reward in fine-tuning",
    ),
    "hil-serl": (
        "08_hil_serl.ipynb",
        "run HIL-SERL from end to end: demonstrations, classifier, warmup, human, export",
    ),
    "report": ("90_report.ipynb", "tables and figures of any runs"),
}

RECORD = ".wsrl-kit.json"
"""Name of the file beside the copies: {"root": folder, relative to this one, "templates": {name: digest}}."""


@dataclass(frozen=True)
class Copies:
    """What was done for the copies in a folder, by names of notebooks.

    Attributes:
        new: copied now.
        kept: there before, of this version's template.
        outdated: there before and kept, though this version's template is not the one they were copied from.
    """

    new: tuple[str, ...]
    kept: tuple[str, ...]
    outdated: tuple[str, ...]


def template_folder() -> Path:
    """The installed notebooks: inside the package, or beside it in a clone."""
    package = Path(wsrl_kit.__file__).parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def copy_templates(folder: Path, root: Path) -> Copies:
    """Copies every template into a folder that has none of its name, and overwrites nothing.

    Args:
        folder: of the copies, made if need be.
        root: where relative paths in the copies begin.

    Raises:
        ParameterError: the folder is one of templates, or can't be written.
    """
    templates = template_folder()
    if folder.resolve().is_relative_to(templates.resolve()):
        raise ParameterError(f"{folder} holds the notebooks that commands execute: name another folder for copies")
    copied_from = {name: str(digest) for name, digest in _read_record(folder).get("templates", {}).items()}
    found: dict[str, list[str]] = {"new": [], "kept": [], "outdated": []}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for template in sorted(templates.glob("*.ipynb")):
            copy, contents = folder / template.name, template.read_bytes()
            digest = hashlib.sha256(contents).hexdigest()
            if not copy.exists():
                _write(copy, contents)
                copied_from[copy.name] = digest
                found["new"].append(copy.name)
            elif copied_from.get(copy.name) == digest or copy.read_bytes() == contents:
                copied_from[copy.name] = digest
                found["kept"].append(copy.name)
            else:
                found["outdated"].append(copy.name)
        record = {"root": os.path.relpath(root.resolve(), folder.resolve()), "templates": copied_from}
        _write(folder / RECORD, json.dumps(record, indent=1).encode())
    except OSError as error:
        raise ParameterError(f"{folder} must be a folder that can be written, but {error.strerror}") from error
    return Copies(*(tuple(names) for names in found.values()))


def root_of(notebook: Path) -> Path | None:
    """Where relative paths in a notebook begin, if it lies among copies of templates or in a folder of theirs."""
    for folder in notebook.absolute().parents:
        root = _read_record(folder).get("root")
        if isinstance(root, str) and (folder / root).is_dir():
            return (folder / root).resolve()
    return None


def _read_record(folder: Path) -> dict[str, Any]:
    """What the file beside the copies says, {} where there is none or a damaged one."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(record, dict) and isinstance(record.get("templates"), dict)
    return record if whole else {}


def _write(path: Path, contents: bytes) -> None:
    """Whole or not at all: half a notebook would be kept for ever."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(contents)
    part.replace(path)
