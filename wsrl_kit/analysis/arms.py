"""Names, order and colours of an ablation's arms: the same in every table and figure."""

from collections.abc import Iterable

LABELS = {
    "scratch": "From scratch",
    "rlpd_demos": "RLPD, demos",
    "rlpd_all": "RLPD, all data",
    "warmup_decay": "Warmup + decaying ratio (kit)",
    "warmup_wsrl": "Warmup + frozen rollouts (WSRL)",
}

# Okabe and Ito's palette, told apart with every common colour blindness; grey for the arm without any data.
COLOURS = {
    "scratch": "#7a7a7a",
    "rlpd_demos": "#e69f00",
    "rlpd_all": "#0072b2",
    "warmup_decay": "#d55e00",
    "warmup_wsrl": "#009e73",
}
OTHER_COLOURS = ("#cc79a7", "#56b4e9", "#332288", "#882255", "#999933", "#000000")


def arm_order(names: Iterable[str]) -> list[str]:
    """Each arm once: the known ones in their order, then the others by name."""
    names = set(names)
    return [name for name in LABELS if name in names] + sorted(names - LABELS.keys())


def arm_label(name: str) -> str:
    """What a reader sees: an unknown arm is its own label."""
    return LABELS.get(name, name or "Run")


def arm_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour per arm; a known arm has the same one in every figure."""
    ordered = arm_order(names)
    others = [name for name in ordered if name not in COLOURS]
    return {name: COLOURS[name] for name in ordered if name in COLOURS} | {
        name: OTHER_COLOURS[index % len(OTHER_COLOURS)] for index, name in enumerate(others)
    }
