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
from wsrl_kit.config import WSRLConfig
from wsrl_kit.training.ablation import AblationConfig, run_ablation
from wsrl_kit.training.events import Silent

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
    # The parameters of notebook 03.
    config = WSRLConfig(
        offline_data_path=str(data),
        warmup_steps=3_000,
        online_steps=2_000,
        random_steps=100,
        behavior_cloning_weight=0.1,
        batch_size=128,
        hidden_sizes=[128, 128],
        target_update_rate=0.01,
        evaluation_interval=200,
        evaluation_episodes=20,
        warmup_evaluation_interval=1_000,
        log_interval=50,
    )
    ablation = AblationConfig(arms=["warmup_decay"], seeds=[5, 6, 7, 8, 9], control="warmup_decay")
    print(f"| variant | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for name, changes in VARIANTS.items():
        run_ablation(replace(config, **changes), ablation, root / name, Silent())
        head, _, row, *_ = report(root / name, control="warmup_decay").summary.to_markdown().splitlines()[2:]
        cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
        print(f"| {name} | {' | '.join(cells[column] for column in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()
