"""Makes names from files safe for terminals, figures, pages and spreadsheets."""

import re
import unicodedata

LONGEST_SENTENCE = 1000
"""Characters of an error's message."""


def printable(text: str) -> str:
    """Escapes control characters, line ends and text-direction marks."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


# Control, format, surrogate, private, unassigned, and separators of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def one_line(text: str, limit: int = LONGEST_SENTENCE) -> str:
    """Printable text on one line, shortened in the middle to `limit` characters."""
    line = printable(" ".join(text.split("\n")))
    return line if len(line) <= limit else f"{line[: limit // 2]} ... {line[-limit // 3 :]}"


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def for_figure(text: str) -> str:
    """Escapes matplotlib's formulas."""
    return text.replace("$", r"\$")


def for_spreadsheet(text: str) -> str:
    """Escapes spreadsheet formulas; numbers stay."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text


def for_markdown(text: str) -> str:
    """Escapes HTML and table separators."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


_LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    # A table's row that begins with a bracket would be read as an option of the line end before it.
    "[": "{[}",
})  # fmt: skip


def for_latex(text: str) -> str:
    """Escapes LaTeX; a negative number's hyphen becomes a minus sign."""
    return re.sub(r"(?<![\w.)-])-(?=\d)", "$-$", text.translate(_LATEX))
