"""A run's clip in a notebook."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from IPython.display import Image, Video

from wsrl_kit.analysis.clips import write_clip
from wsrl_kit.errors import WSRLKitError
from wsrl_kit.notebook.parameters import is_headless
from wsrl_kit.runs.run import RunRecord
from wsrl_kit.runs.traces import find_traces
from wsrl_kit.text import one_line

# The training goes first, though the clip must not wait for its end.
_WATCH = "import os, sys; from wsrl_kit.cli import main; os.nice(5); sys.exit(main(['watch', sys.argv[1]]))"


def run_clip(folder: Path) -> Video | Image | None:
    """A run's clip, playable in JupyterLab and in the notebook's HTML; still pictures where MP4 can't be written.

    Prints a sentence where there is nothing to show: a notebook must not fail for a clip.
    """
    if is_headless():
        print("writing the clip", flush=True)
    try:
        clip = write_clip(folder)
    except WSRLKitError as error:
        print(error)
        return None
    for remark in clip.remarks:
        print(remark)
    if clip.path.suffix == ".png":
        return Image(clip.path)
    return Video(clip.path, embed=True, html_attributes="controls loop muted style='max-width: 100%'")


def last_evaluated(records: Sequence[RunRecord]) -> RunRecord | None:
    """The run with the newest traces; None without any."""
    newest = {}
    for record in records:
        for path in find_traces(record.folder).values():
            with suppress(OSError):  # deleted meanwhile
                newest[path.stat().st_mtime] = record
    return newest[max(newest)] if newest else None


def make_clip_apart(folder: Path) -> tuple[Path | None, str]:
    """Writes a run's clip in a process of low priority; returns its file, and what there is to say."""
    watched = subprocess.run([sys.executable, "-c", _WATCH, folder], capture_output=True, text=True, errors="replace")
    written = Path(watched.stdout.splitlines()[-1]) if watched.returncode == 0 else None
    return written, one_line(watched.stderr.strip().removeprefix("wsrl-kit: error: "))
