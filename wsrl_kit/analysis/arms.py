"""Names, order and colours of an ablation's arms: the same in every table and figure."""

from collections.abc import Iterable

LABELS = {
    "scratch": "From scratch",
    "rlpd_demos": "RLPD, demos",
    "rlpd_all": "RLPD, all data",
    "warmup_decay": "Warmup + decaying ratio (kit)",
    "warmup_wsrl": "Warmup + frozen rollouts (WSRL)",
    "warmup_no_data": "Warmup, no data, no frozen rollouts",
}

# Okabe and Ito's palette, told apart with every common colour blindness; grey for the arm without any data.
COLOURS = {
    "scratch": "#7a7a7a",
    "rlpd_demos": "#e69f00",
    "rlpd_all": "#0072b2",
    "warmup_decay": "#d55e00",
    "warmup_wsrl": "#009e73",
    "warmup_no_data": "#882255",
}
OTHER_COLOURS = ("#56b4e9", "#cc79a7", "#2d00d2", "#f0e442", "#000000", "#2df0d2")


def arm_order(names: Iterable[str]) -> list[str]:
    """Each arm once: the known ones in their order, then the others as they come."""
    names = dict.fromkeys(names)
    return [name for name in LABELS if name in names] + [name for name in names if name not in LABELS]


def arm_label(name: str) -> str:
    """What a reader sees: an unknown arm is its own label."""
    return LABELS.get(name, name or "Run")


def arm_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour per arm, none twice among twelve; a known arm has the same one in every figure."""
    ordered = arm_order(names)
    known = {name: COLOURS[name] for name in ordered if name in COLOURS}
    free = [*OTHER_COLOURS, *(colour for colour in COLOURS.values() if colour not in known.values())]
    others = [name for name in ordered if name not in COLOURS]
    return known | {name: free[index % len(free)] for index, name in enumerate(others)}
