"""Sliders for what decides how data are used: schedules of fine-tuning, and weights of sources.

They change nothing of a run: they show what values would do, and the parameters cell with these values.
"""

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets
import numpy as np
from IPython.display import display
from ipywidgets import Layout
from matplotlib.figure import Figure

from wsrl_kit.agent import jax_tools
from wsrl_kit.analysis import plots
from wsrl_kit.analysis.figures import source_figure
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.schedules import offline_share, run_schedules
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.weights import source_table, weigh
from wsrl_kit.errors import WSRLKitError
from wsrl_kit.notebook.parameters import is_live
from wsrl_kit.notebook.run_actions import cell_of, code_below
from wsrl_kit.text import printable

# Values of the sliders by name -> the config that they make, its figure, and a sentence.
Draw = Callable[[Mapping[str, Any]], tuple[WSRLConfig, Figure, str]]


def schedule_knobs(config: WSRLConfig, live: bool | None = None) -> Figure:
    """Shows the schedules of fine-tuning, live beside sliders; returns the figure of the config itself.

    Args:
        live: True: sliders; None: if a front end is attached.
    """
    jax_tools.enable_compilation_cache()  # schedules are the first that their notebooks compile
    steps = config.online_steps

    def draw(values: Mapping[str, Any]) -> tuple[WSRLConfig, Figure, str]:
        named = {name: value for name, value in values.items() if name in WSRLConfig.__dataclass_fields__}
        changed = replace(config, **named)
        figure, (ax,) = plots.new_figure(width=5.0, height=2.8)
        plots.schedules(ax, np.arange(steps), run_schedules(changed))
        first, window = values["from step"], values["next steps"]
        shares = (offline_share(changed, *span) for span in ((first, window), (0, steps)))
        part, whole = ("no batch" if math.isnan(share) else f"{share:.1%}" for share in shares)
        sentence = f"Offline data in the {window:,} steps from step {first:,}: {part} of all examples; in the whole run"
        text = f"{sentence} {whole}." if config.demo_path else "Without demo_path no offline data stay."
        return changed, figure, text

    ratio = {"min": 0.0, "max": 1.0, "step": 0.01}
    sliders: dict[str, Any] = {
        name: ipywidgets.FloatSlider(getattr(config, name), **ratio)
        for name in ("initial_offline_ratio", "min_offline_ratio")
    }
    # Rates next to 1 are the usual ones; a run that has another keeps it in reach.
    lowest = min(0.99, config.offline_decay_rate)
    sliders["offline_decay_rate"] = ipywidgets.FloatSlider(
        config.offline_decay_rate, min=lowest, max=1.0, step=1e-4, readout_format=".4f"
    )
    sliders["behavior_cloning_fade_steps"] = _steps(config.behavior_cloning_fade_steps, steps)
    if config.use_prioritized_replay:
        sliders["initial_priority_beta"] = ipywidgets.FloatSlider(config.initial_priority_beta, **ratio)
    sliders |= {"from step": _steps(0, steps - 1), "next steps": _steps(min(1_000, steps), steps)}
    return _show(sliders, draw, "finetune", live)


def source_knobs(config: WSRLConfig, dataset: Dataset, live: bool | None = None) -> Figure:
    """Shows each source's share of the loss, live beside sliders; returns the figure of the data as they are.

    Args:
        dataset: weighed by the config; one with weights of its own has no sliders.
        live: True: sliders; None: if a front end is attached.
    """
    weights = {name: config.weight_by_source.get(name, 1.0) for name in dataset.source_names}

    def draw(values: Mapping[str, Any]) -> tuple[WSRLConfig, Figure, str]:
        chosen = {name: values[name] for name in weights}
        bonus, quality = values["success_weight_bonus"], values["quality_weighting"]
        others = config.source_weights | {name: value for name, value in chosen.items() if name != "demos"}
        changed = replace(
            config,
            demo_weight=chosen.get("demos", config.demo_weight),
            source_weights=others,
            success_weight_bonus=bonus,
            quality_weighting=quality,
        )
        rows = source_table(weigh(dataset, chosen, bonus, quality))
        shares = ", ".join(f"{row['source']} {row['weight_share']:.1%}" for row in rows)
        return changed, source_figure(rows), f"Shares of the loss: {shares}."

    own = weigh(dataset, weights, config.success_weight_bonus, config.quality_weighting)
    if not np.allclose(own.weight, dataset.weight):
        figure = source_figure(source_table(dataset))
        display(figure)
        return figure
    most = max(5.0, config.success_weight_bonus, *weights.values())
    sliders: dict[str, Any] = {
        name: ipywidgets.FloatSlider(value, min=0.0, max=most, step=0.1)
        for name, value in {**weights, "success_weight_bonus": config.success_weight_bonus}.items()
    }
    sliders["quality_weighting"] = ipywidgets.Checkbox(config.quality_weighting, indent=False)
    return _show(sliders, draw, "warmup", live)


def _steps(value: int, most: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value, min=0, max=max(most, value, 1))


def _show(sliders: Mapping[str, Any], draw: Draw, command: str, live: bool | None) -> Figure:
    """Displays the sliders, or headless the figure alone; returns the figure of the first values."""

    def chosen() -> dict[str, Any]:
        return {name: slider.value for name, slider in sliders.items()}

    _, first, _ = draw(chosen())
    if not is_live(live):
        display(first)
        return first
    image = ipywidgets.Image(format="png", layout=Layout(max_width="100%", align_self="flex-start"))
    sentence = ipywidgets.HTML()
    cell = ipywidgets.Textarea(layout=Layout(width="100%", height="16em"))

    def redraw(_: Any = None) -> None:
        try:
            config, figure, text = draw(chosen())
            image.value, cell.value = plots.png(figure), cell_of(config, command)
        except WSRLKitError as error:
            text = str(error)
        sentence.value = html.escape(printable(text))

    for slider in sliders.values():
        slider.continuous_update = False  # a figure takes longer than a moving hand
        slider.observe(redraw, "value")
    redraw()
    wide = Layout(width="16em")
    rows = [[ipywidgets.Label(printable(name), layout=wide), slider] for name, slider in sliders.items()]
    display(ipywidgets.VBox([*map(ipywidgets.HBox, rows), sentence, image, code_below(cell)]))
    return first
