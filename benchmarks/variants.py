"""The kit's arm under other settings, on seeds apart from those of the ablation, so that defaults can be chosen fairly.

    wsrl-kit collect --out runs/data
    python benchmarks/variants.py runs/data runs/variants

Each variant takes about a minute and a half on two cores; one that is finished is not run again.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsrl_kit.analysis.ablation import report
from wsrl_kit.analysis.tables import format_cell
from wsrl_kit.config import WSRLConfig
from wsrl_kit.notebook import read_notebook
from wsrl_kit.parameters import build
from wsrl_kit.training.ablation import AblationConfig, run_ablation
from wsrl_kit.training.events import Silent

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "03_ablation_warmup.ipynb"
COLUMNS = ("Success at switch", "Dip after switch", "Steps to recover", "Area under curve", "Final success")
VARIANTS: dict[str, dict[str, Any]] = {
    "td_error": {"retention_priority": "td_error"},
    "quality": {"retention_priority": "quality"},
    "mix": {"retention_priority": "mix"},
    "mix_trajectory": {"retention_priority": "mix", "retention_unit": "trajectory"},
    "mix_uniform_replay": {"retention_priority": "mix", "use_prioritized_replay": False},
    "mix_no_cloning": {"retention_priority": "mix", "behavior_cloning_weight": 0.0},
}


def main() -> None:
    data, root = Path(sys.argv[1]), Path(sys.argv[2])
    config = build(WSRLConfig, read_notebook(NOTEBOOK).defaults | {"offline_data_path": str(data)})
    ablation = AblationConfig(arms=["warmup_decay"], seeds=[5, 6, 7, 8, 9], control="warmup_decay")
    print(f"| variant | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for name, changes in VARIANTS.items():
        run_ablation(replace(config, **changes), ablation, root / name, Silent())
        summary = report(root / name, control="warmup_decay").summary
        cells = {
            c.heading: format_cell(cell, c.digits) for c, cell in zip(summary.columns, summary.rows[0], strict=True)
        }
        print(f"| {name} | {' | '.join(cells[column] for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()
