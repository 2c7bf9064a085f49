"""The names under which tasks and data files say that an episode succeeded."""

from collections.abc import Iterable, Sequence

SUCCESS_KEYS = ("succeed", "success", "is_success")
"""Names of success in `info`: HIL-SERL's, Metaworld's, Gymnasium-Robotics' and gym-hil's."""


def similar_keys(info: Iterable[object]) -> tuple[str, ...]:
    """Names that sound like success; to be asked where none of those looked for is there."""
    return tuple(sorted(key for key in info if isinstance(key, str) and "succ" in key.lower()))


def hint(keys: Sequence[str]) -> str:
    """The end of a sentence that says success is not recorded: what is there, and what to do; "" without names."""
    if not keys:
        return ""
    return f"; info holds {', '.join(map(repr, keys))}: give success_key={keys[0]!r} in environment_options"
