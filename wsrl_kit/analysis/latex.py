"""Text as LaTeX prints it, whatever characters it holds."""

import re

SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    # A row of a table that began with a bracket would be read as an option of the line end before it.
    "[": "{[}",
}


def escape(text: str) -> str:
    """Every character that LaTeX gives a meaning as itself; the hyphen of a negative number as a minus sign."""
    escaped = "".join(SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![\w.)-])-(?=\d)", "$-$", escaped)
