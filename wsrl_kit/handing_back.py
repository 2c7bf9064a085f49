"""The agents of whole experiments as HIL-SERL's checkpoints."""

from pathlib import Path

from wsrl_kit import hil_serl_checkpoint
from wsrl_kit.errors import CheckpointError
from wsrl_kit.runs import find_runs

FOLDER = "hil_serl"
"""Within a run's."""


def hand_back(root: Path) -> list[dict[str, str | int | float]]:
    """Exports every finished fine-tuning below `root` into its own folder, for HIL-SERL's `--checkpoint_path`.

    Returns:
        For each the run, and the folder, or the sentence why HIL-SERL's agents can't hold it; sorted by folder.
    """
    rows: list[dict[str, str | int | float]] = []
    for record in find_runs(root):
        if record.kind == "finetune" and record.status == "finished":
            target = record.folder / FOLDER
            try:
                hil_serl_checkpoint.export(record.folder / "checkpoint.npz", target)
                outcome = str(target)
            except CheckpointError as error:
                outcome = str(error)
            rows.append({"run": f"{record.arm}, seed {record.seed}", "handed back": outcome})
    return rows
