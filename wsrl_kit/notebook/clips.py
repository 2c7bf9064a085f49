"""A run's clip in a notebook."""

from pathlib import Path

from IPython.display import Image, Video

from wsrl_kit.analysis.clips import write_clip
from wsrl_kit.errors import WSRLKitError


def run_clip(folder: Path) -> Video | Image | None:
    """A run's clip, playable in JupyterLab and in the notebook's HTML; still pictures where MP4 can't be written.

    Prints a sentence where there is nothing to show: a notebook must not fail for a clip.
    """
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
