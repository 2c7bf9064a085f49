"""Tiny notebooks for the tests of what runs notebooks."""

from pathlib import Path

import nbformat

PARAMETERS = """\
exp_name: str = "hirol_fixed_gripper"  # task
seed: int = 0
hidden_sizes: list[int] = [256, 256]
offline_data_path: "str | list[str] | None" = None
output_dir: str = "runs/latest"
"""
CONFIG = """\
from wsrl_kit.config.config import AgentSession, WSRLConfig
from wsrl_kit.notebook.parameters import from_notebook

config, session = from_notebook(globals(), WSRLConfig, AgentSession)
"""
FINISH = """\
import json
import pathlib

_folder = pathlib.Path(session.output_dir)
_folder.mkdir(parents=True, exist_ok=True)
(_folder / "run.json").write_text(json.dumps({"status": "finished", "sizes": config.hidden_sizes, "seed": seed}))
"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook of code cells after its parameters, which asks for a kernel that nobody has installed."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    contents = nbformat.v4.new_notebook(cells=[first, *(nbformat.v4.new_code_cell(cell) for cell in cells)])
    contents.metadata.kernelspec = {"name": "removed-long-ago", "display_name": "Removed", "language": "python"}
    nbformat.write(contents, path)
    return path
