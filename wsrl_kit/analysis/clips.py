"""Clips of a run: what its policy did before warmup, at the switch, at the bottom of the dip and at the end.

A page shows one moment: a success beside a failure, each with its picture above force, Q and actions. Pages follow one
another in an MP4; a PNG shows their ends, one below the other. Episodes come from the run's traces, which are played
again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.spatial.transform import Rotation

from wsrl_kit.analysis.metrics import arm_label, finite_curve, measure_of, switch_dip
from wsrl_kit.analysis.plots import NEUTRAL, SERIES_COLOURS, draw_grid
from wsrl_kit.config.config import ROBOT
from wsrl_kit.envs.insertion import InsertionEnv
from wsrl_kit.envs.insertion_model import HOLE_DEPTH, PEG_LENGTH, PEG_WIDTH
from wsrl_kit.envs.playback import Playback, control_rate, make_visible, play_again
from wsrl_kit.errors import ExperimentError, ParameterError, RunError
from wsrl_kit.files import written_whole
from wsrl_kit.runs.run import RunRecord, read_run
from wsrl_kit.runs.traces import Trace, find_traces, read_traces
from wsrl_kit.text import for_figure

CLIP, STILLS = "videos/clip.mp4", "videos/clip.png"
"""Where a run keeps its clip, and its still pictures."""
MOST_PICTURES = 50
"""Of one episode: a longer one is shown faster."""
PAGE_SECONDS = 1.0
"""For which the end of a page stays."""
CONTACT_FORCE = 1.0
"""N, from which on there is contact."""
MOST_ACTIONS = 8
"""Beyond this number of entries an action's norm is drawn."""
_WIDTH, _HEIGHT, _DPI = 9.6, 8.4, 100
"""Of a page, inches; an even number of pixels, as MP4 needs."""
_ENCODER = {"crf": "23", "preset": "veryfast"}
_PEG_COLOUR, _HOLE_COLOUR = SERIES_COLOURS[1], SERIES_COLOURS[0]


@dataclass(frozen=True)
class Moment:
    """One evaluation worth a page."""

    title: str
    traces: Path


@dataclass(frozen=True)
class Episode:
    """An episode of a page: what was recorded, and what playing it again gave."""

    trace: Trace
    playback: Playback


@dataclass(frozen=True)
class Clip:
    """A written clip.

    Attributes:
        remarks: what is missing or different in it, a sentence each.
    """

    path: Path
    moments: list[Moment]
    remarks: list[str]


def write_clip(folder: Path, path: Path | None = None) -> Clip:
    """Writes the clip of a warmup or fine-tuning run; the run may still be going on.

    Args:
        folder: of the run.
        path: ends in .mp4 or .png; None: `CLIP` in the run's folder, or `STILLS` where MP4 can't be written.

    Raises:
        ParameterError: `path` has another ending.
        RunError: no such run, or one without traces; damaged; or the clip can't be written.
        ExperimentError: the task can't be shown or played again, or MP4 can't be written here.
    """
    remarks: list[str] = []
    if path is None:
        path = folder / CLIP
        try:
            _check_codec()
        except ExperimentError as error:
            path = folder / STILLS
            remarks.append(str(error))
    if path.suffix not in (".mp4", ".png"):
        raise ParameterError(f"--out must end in .mp4 or .png, found {path}")
    record = read_run(folder)
    shown = moments(record)
    pages = {moment: read_traces(moment.traces) for moment in shown}
    if path.suffix == ".mp4":
        _check_codec()
    exp_name, options = record.parameters.get("exp_name"), record.parameters.get("environment_options", {})
    if not isinstance(exp_name, str) or not isinstance(options, dict):
        raise RunError(
            f"{folder / 'run.json'} must name the task, found exp_name {exp_name!r} with options {options!r}"
        )
    longest = max(len(trace) for traces in pages.values() for trace in traces)
    stride = -(-longest // MOST_PICTURES)
    with closing(make_visible(exp_name, options)) as environment:
        rate = control_rate(environment)
        names = getattr(environment.unwrapped, "action_names", ())
        clearance = environment.unwrapped.options.clearance if isinstance(environment.unwrapped, InsertionEnv) else 0.0
        episodes = {
            moment: [Episode(trace, play_again(environment, exp_name, trace, stride)) for trace in traces]
            for moment, traces in pages.items()
        }
    drawn = [_Page(moment.title, episodes[moment], stride, rate, names, clearance) for moment in shown]
    if path.suffix == ".mp4":
        _write_mp4(path, _frames(drawn, rate), rate)
    else:
        with written_whole(path, RunError) as temporary:
            image.imsave(temporary, np.concatenate([page.frame(page.length - 1) for page in drawn]), format="png")
    played = [episode.playback for each in episodes.values() for episode in each]
    remarks += [f"drawn from poses: {playback.trouble}" for playback in played if playback.trouble][:1]
    if not all(playback.is_exact for playback in played):
        remarks.append("an episode ended in another state than recorded: this processor or MuJoCo rounds otherwise")
    return Clip(path, shown, remarks)


def moments(record: RunRecord) -> list[Moment]:
    """The moments of a run that have traces, in the order of time.

    Raises:
        RunError: there are none.
    """
    found = find_traces(record.folder)
    if record.kind not in ("warmup", "finetune"):
        raise RunError(
            f"{record.folder} holds a run of kind {record.kind}: expected the folder of a warmup or fine-tuning"
        )
    if not found and record.parameters.get("exp_name") == ROBOT:
        raise RunError(f"{record.folder} is a real robot's run, which is never played again: there is no clip of it")
    if not found:
        raise RunError(
            f"{record.folder} holds no traces of episodes to show: each evaluation writes some, so the run is from an "
            "earlier version, had evaluation_episodes 0, or has not come to its first evaluation"
        )
    end = "At the end" if record.status == "finished" else "So far"
    titles: dict[Path, list[str]] = {}
    if record.kind == "warmup":
        _add(titles, found.get(("warmup", 0)), "Before warmup")
        _add(titles, list(found.values())[-1], f"{end} of warmup" if end == "At the end" else end)
    else:
        checkpoint = record.parameters.get("checkpoint_path")
        if isinstance(checkpoint, str):
            _add(titles, find_traces(Path(checkpoint).parent).get(("warmup", 0)), "Before warmup")
        _add(titles, found.get(("online", 0)), "At the switch" if checkpoint else "Before learning")
        measure = measure_of([record])
        steps, values = finite_curve(record, measure.metric)
        if len(steps) and (dip := switch_dip(steps, values)).depth > 0:
            _add(titles, found.get(("online", int(dip.lowest_step))), "At the bottom of the dip")
        _add(titles, list(found.values())[-1], end)
    steps_of = {path: step for (_, step), path in found.items()}
    return [Moment(_title(record, titles[path], path, steps_of.get(path, 0)), path) for path in titles]


def _add(titles: dict[Path, list[str]], path: Path | None, title: str) -> None:
    if path is not None:
        titles.setdefault(path, []).append(title)


def _title(record: RunRecord, titles: list[str], path: Path, step: int) -> str:
    """Such as `At the switch: environment step 0, success 0.80`."""
    phase, unit = ("online", "environment") if path.stem.startswith("online") else ("warmup", "gradient")
    measure = measure_of([record])
    curve = record.curve(measure.metric, phase)
    at = np.flatnonzero((curve.environment_step if phase == "online" else curve.gradient_step) == step)
    known = len(at) > 0 and path.is_relative_to(record.folder)
    value = f", {measure.name} {curve.value[at[-1]]:.2f}" if known else ""
    name = f"{arm_label(record.arm)}, seed {record.seed}. " if record.arm else ""
    heading = titles[0] + "".join(f", {title[0].lower()}{title[1:]}" for title in titles[1:])
    return f"{name}{heading}: {unit} step {step:,}{value}"


class _Page:
    """A figure of one moment, of which only pictures and marks of the time are drawn anew for each frame.

    Attributes:
        length: number of frames.
    """

    def __init__(
        self,
        title: str,
        episodes: Sequence[Episode],
        stride: int,
        rate: float,
        action_names: Sequence[str],
        clearance: float,
    ) -> None:
        self._stride, self._clearance = stride, clearance
        self._episodes = episodes
        self._figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        speed = f" ({stride} times faster than the robot)" if stride > 1 else ""
        self._figure.suptitle(for_figure(title), fontsize=12, y=0.985)
        self._shows: list[Callable[[int], None]] = []
        self._panels: dict[int, Axes] = {}
        margins = {"left": 0.08, "right": 0.985, "top": 0.91, "bottom": 0.06, "hspace": 0.16, "wspace": 0.14}
        grid = self._figure.add_gridspec(4, 2, height_ratios=(5.2, 1, 1, 1.3), **margins)
        for column, episode in enumerate(episodes):
            self._shows.append(self._draw_episode(grid, column, episode, rate, speed, action_names))
        if len(episodes) < 2:
            ax = self._figure.add_subplot(grid[:, 1])
            ax.set_axis_off()
            ax.text(0.5, 0.6, _absent(episodes), ha="center", va="center", color=NEUTRAL)
        self.length = 1 + max(-(-len(episode.trace) // stride) for episode in episodes)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def frame(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """One frame; an episode that has ended shows its end."""
        self._canvas.restore_region(self._background)
        for episode, show in zip(self._episodes, self._shows, strict=True):
            show(min(number * self._stride, len(episode.trace)))
        for ax in self._figure.axes:
            for artist in ax.get_children():
                if artist.get_animated():
                    ax.draw_artist(artist)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_episode(
        self, grid: Any, column: int, episode: Episode, rate: float, speed: str, action_names: Sequence[str]
    ) -> Callable[[int], None]:
        """Draws what stays; returns what moves the rest to a step."""
        trace, playback = episode.trace, episode.playback
        if playback.pictures and not playback.trouble:
            ax, show_scene = _draw_pictures(self._figure, grid[0, column], playback, self._stride)
        else:
            ax, show_scene = _draw_poses(self._figure, grid[0, column], playback, self._clearance)
        ax.set_title(f"{_outcome(trace)}, {len(trace) / rate:.1f} s{speed}", fontsize=10, loc="left")
        steps = np.arange(1, len(trace) + 1)
        panels: list[Axes] = []

        def panel(row: int, label: str) -> Axes:
            # Both columns have the same limits, so that heights compare.
            ax = self._figure.add_subplot(grid[row, column], sharey=self._panels.get(row))
            self._panels[row] = ax
            draw_grid(ax)
            ax.tick_params(labelsize=8, labelbottom=row == 3)
            if column == 0:
                ax.set_ylabel(label, fontsize=8)
            panels.append(ax)
            return ax

        force = panel(1, "Force (N)")
        touched = contact(playback)
        if playback.forces is None:
            force.text(0.5, 0.5, "the task reports no force", transform=force.transAxes, ha="center", color=NEUTRAL)
        else:
            force.plot(steps, playback.forces, color=SERIES_COLOURS[0], linewidth=1.3)
        panel(2, "Q").plot(steps - 1, trace.values, color=SERIES_COLOURS[2], linewidth=1.3)
        actions = panel(3, "Action")
        draw_actions(actions, trace.actions, action_names)
        if column == 0:
            actions.legend(
                fontsize=7, ncols=len(actions.lines), frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.97),
                borderpad=0.0,
            )  # fmt: skip
        actions.set_xlabel("Step", fontsize=8)
        actions.xaxis.set_major_locator(MaxNLocator(integer=True))
        for ax in panels:
            ax.set_xlim(0, len(trace))
            if touched is not None:
                ax.axvline(touched, color=NEUTRAL, linestyle=":", linewidth=1.2)
        cursors = [ax.axvline(0, color="black", linewidth=1.2, animated=True) for ax in panels]
        if touched is not None:
            force.annotate(
                "contact", (touched, 1.0), xycoords=("data", "axes fraction"), xytext=(3, -2),
                textcoords="offset points", va="top", size=8, color=NEUTRAL,
            )  # fmt: skip

        def show(step: int) -> None:
            show_scene(step)
            for cursor in cursors:
                cursor.set_xdata([step, step])

        return show


def _draw_pictures(
    figure: Figure, place: SubplotSpec, playback: Playback, stride: int
) -> tuple[Axes, Callable[[int], None]]:
    """An episode's first picture; returns its axes, and what shows the picture of a step."""
    ax = figure.add_subplot(place)
    ax.set_axis_off()
    pictures = playback.pictures
    shown = ax.imshow(pictures[0], animated=True)
    return ax, lambda step: shown.set_data(pictures[min(-(-step // stride), len(pictures) - 1)])


def _draw_poses(
    figure: Figure, place: SubplotSpec, playback: Playback, clearance: float
) -> tuple[Axes, Callable[[int], None]]:
    """Hole and way of the peg from the side and from above, where no OpenGL works; like `_draw_pictures`."""
    assert playback.poses is not None and playback.hole is not None
    poses = playback.poses
    parts = place.subgridspec(2, 1, height_ratios=(1.3, 1), hspace=0.3)
    side, top = figure.add_subplot(parts[0]), figure.add_subplot(parts[1])
    x, y = (1000.0 * playback.hole[:2]).tolist()
    half, wall, depth = 500.0 * (PEG_WIDTH + clearance), 30.0, 1000.0 * HOLE_DEPTH
    for left in (x - half - wall, x + half):
        side.fill_between([left, left + wall], -depth, 0.0, color=_HOLE_COLOUR, alpha=0.5, linewidth=0)
    top.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, facecolor="none", edgecolor=_HOLE_COLOUR))
    width = PEG_WIDTH / 2
    views = (
        (side, "z (mm), from the side", (-35.0, 100.0), [0, 2], (0.0, PEG_LENGTH)),
        (top, "y (mm), from above", (-40.0, 40.0), [0, 1], (-width, width)),
    )
    pegs = []
    for ax, label, limits, plane, (low, high) in views:
        ax.plot(*1000.0 * poses[:, plane].T, color=NEUTRAL, linewidth=0.8)
        ax.set(xlim=(-60.0, 60.0), ylim=limits, aspect="equal")
        ax.set_ylabel(label, fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        outline = np.zeros((4, 3))
        outline[:, plane] = [(-width, low), (width, low), (width, high), (-width, high)]
        peg = Polygon([(0.0, 0.0)] * 4, facecolor=_PEG_COLOUR, alpha=0.8, edgecolor="black", animated=True)
        ax.add_patch(peg)
        pegs.append((peg, plane, outline))

    def show(step: int) -> None:
        turned = Rotation.from_euler("xyz", poses[step, 3:].astype(float))
        for peg, plane, outline in pegs:
            peg.set_xy(1000.0 * (poses[step, :3] + turned.apply(outline))[:, plane])

    return side, show


def contact(playback: Playback) -> int | None:
    """The step of the first contact; None: there is none, or no force is known."""
    if playback.forces is None:
        return None
    touching = np.flatnonzero(playback.forces >= CONTACT_FORCE)
    return int(touching[0]) + 1 if len(touching) else None


def draw_actions(ax: Axes, actions: Float[np.ndarray, "steps action"], names: Sequence[str]) -> None:
    """Each entry of the action; of many entries the norm."""
    count = actions.shape[1]
    if count > MOST_ACTIONS:
        actions, names = np.linalg.norm(actions, axis=1, keepdims=True), ["norm"]
    elif len(names) != count:
        names = [str(index) for index in range(count)]
    for index, name in enumerate(names):
        # Rotations of a robot's six entries, dashed, share the colours of its translations.
        group, colour = divmod(index, 3)
        style, width = (("-", 1.2), ("--", 0.6), (":", 0.6))[group]
        ax.step(
            np.arange(len(actions)), actions[:, index], style, where="post", color=SERIES_COLOURS[colour],
            linewidth=width, label=name,
        )  # fmt: skip


def _outcome(trace: Trace) -> str:
    if np.isnan(trace.success):
        return f"Return {trace.total_reward:.4g}"
    return "Success" if trace.success else "Failure"


def _absent(episodes: Sequence[Episode]) -> str:
    if np.isnan(episodes[0].trace.success):
        return "one episode was recorded"
    other = "failure" if episodes[0].trace.success else "success"
    return f"no {other} was recorded at this moment"


def _frames(pages: Sequence[_Page], rate: float) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    for page in pages:
        for number in range(page.length):
            yield (frame := page.frame(number))
        for _ in range(round(rate * PAGE_SECONDS)):
            yield frame


def _check_codec() -> None:
    """Raises ExperimentError where H.264 can't be written."""
    try:
        import av

        av.codec.Codec("libx264", "w")
    except (ImportError, ValueError) as error:  # av's error of an unknown codec is a ValueError
        raise ExperimentError(
            "writing MP4 needs PyAV with the encoder libx264, as `pip install 'wsrl-kit[video]'` installs it; an --out "
            "that ends in .png gives still pictures without it"
        ) from error


def _write_mp4(path: Path, frames: Iterator[UInt8[np.ndarray, "height width 3"]], rate: float) -> None:
    """H.264 with 4:2:0 colours, which every browser plays."""
    from fractions import Fraction

    import av

    with (
        written_whole(path, RunError) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options=_ENCODER)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = round(_WIDTH * _DPI), round(_HEIGHT * _DPI)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
