"""The installed notebooks (templates), which commands execute, and a user's copies of them for JupyterLab.

A file beside the copies records their templates and their root: the folder at which relative paths in them begin.
"""

import hashlib
import json
import os
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
    "tuning": ("04_tuning.ipynb", "search any parameters by grid or TPE, and confirm the winner on fresh seeds"),
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
    "explore": ("91_explore.ipynb", "a table of all runs under a folder, and their curves"),
}

RECORD = ".wsrl-kit.json"
"""Name of the file beside the copies: {"root": folder, relative to this one, "templates": {name: digest}}."""


def template_folder() -> Path:
    """The installed notebooks: inside the package, or beside it in a clone."""
    package = Path(wsrl_kit.__file__).parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def copy_templates(folder: Path, root: Path) -> dict[str, list[str]]:
    """Copies every template that has no copy in the folder; overwrites nothing.

    Args:
        folder: of the copies.
        root: where relative paths in the copies begin.

    Returns:
        Names of the copies: `new`, `kept`, and `outdated`, which are kept although from another version's template.

    Raises:
        ParameterError: the folder holds the templates, or can't be written.
    """
    # Not for every command's help, which needs no NumPy and takes half as long without.
    from wsrl_kit.files import write_text, written_whole

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
                with written_whole(copy, ParameterError) as temporary:
                    temporary.write_bytes(contents)
                copied_from[copy.name] = digest
                found["new"].append(copy.name)
            elif copied_from.get(copy.name) == digest or copy.read_bytes() == contents:
                copied_from[copy.name] = digest
                found["kept"].append(copy.name)
            else:
                found["outdated"].append(copy.name)
        record = {"root": os.path.relpath(root.resolve(), folder.resolve()), "templates": copied_from}
        write_text(folder / RECORD, json.dumps(record, indent=1), ParameterError)
    except OSError as error:
        raise ParameterError(f"{folder} must be a folder that can be written, but {error.strerror}") from error
    return found


def root_of(notebook: Path) -> Path | None:
    """The root of a notebook in or below a folder of copies; None for any other notebook."""
    for folder in notebook.absolute().parents:
        root = _read_record(folder).get("root")
        if isinstance(root, str) and (folder / root).is_dir():
            return (folder / root).resolve()
    return None


def _read_record(folder: Path) -> dict[str, Any]:
    """The file beside the copies; {} if it is missing or damaged."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(record, dict) and isinstance(record.get("templates"), dict)
    return record if whole else {}
