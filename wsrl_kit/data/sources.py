"""From a user's paths to one dataset of named sources."""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from wsrl_kit.data.conventions import AS_WRITTEN, Conventions, interpret
from wsrl_kit.data.dataset import Dataset
from wsrl_kit.data.formats.d4rl import read_hdf5
from wsrl_kit.data.formats.hdf5_file import open_hdf5
from wsrl_kit.data.formats.hil_serl import read_hil_serl
from wsrl_kit.data.formats.lerobot import read_lerobot
from wsrl_kit.data.formats.minari import read_minari
from wsrl_kit.data.formats.npz import read_npz
from wsrl_kit.data.formats.robomimic import demonstrations, read_robomimic
from wsrl_kit.data.labels import SUFFIX, labelled
from wsrl_kit.data.recording import (
    CameraChoice,
    Recording,
    join,
    repair_timeouts,
    to_dataset,
    value_problems,
    with_source,
)
from wsrl_kit.data.trajectory import Layout
from wsrl_kit.errors import DataError, NoTransitionsError
from wsrl_kit.files import reading, refuse_special
from wsrl_kit.parameters import user_path

# What a user may pass as offline_data_path or demo_path.
Paths = str | os.PathLike[str] | list[str] | dict[str, str | list[str]] | None

SOURCES = ("demos", "suboptimal", "random")

# Protocols 2 to 5 begin with their number; 0 and 1 with a container, or the name of something to call.
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\([ld]p\d|[]}]q|\(?c[\w.]+\n[A-Za-z_][\w.]*\n")

_MINARI_FILE = Path("data", "main_data.hdf5")
# Any of them: a folder that was copied by half is named as such.
_LEROBOT_FILES = ("info.json", "episodes", "episodes.jsonl")

# The folders that a HIL-SERL run dumps its transitions to -> the source that they are: what people demonstrated, and
# all that the robot did.
_DUMPS = {"demo_buffer": "demos", "buffer": "suboptimal"}

# From a path to what the file says.
Reader = Callable[[Path, CameraChoice], Recording]


def read_recording(
    path: str | os.PathLike[str], cameras: Sequence[str] | None = None, conventions: Conventions = AS_WRITTEN
) -> Recording:
    """Reads one file (or a Minari or LeRobot folder) without labels; its content decides the format.

    Raises:
        DataError: it is missing, empty, damaged, unsafe, of no known format, or lacks a camera.
    """
    path = Path(path)
    with reading(path, DataError):
        reader = _reader(path)
        if reader is None:
            raise DataError(
                f"{path} is in no known format, expected a HIL-SERL pickle, D4RL or robomimic hdf5, a Minari dataset, "
                "a LeRobotDataset or the kit's npz."
            )
        return interpret(reader(path, CameraChoice(cameras, conventions.camera_names, conventions.views)), conventions)


def read_labelled(path: Path, cameras: Sequence[str] | None = None, conventions: Conventions = AS_WRITTEN) -> Recording:
    """`read_recording`, as the labels beside the file have it.

    Raises:
        DataError: as `read_recording`, rewards are missing, or the labels are damaged or of other data.
    """
    return labelled(path, read_recording(path, cameras, conventions), conventions.missing_rewards)


def load_sources(
    paths: Paths,
    timeout_length: int | None = None,
    cameras: Sequence[str] | None = None,
    conventions: Conventions = AS_WRITTEN,
    inspect: Callable[[Path, Recording], object] | None = None,
) -> Dataset:
    """Reads all sources into one dataset.

    Args:
        paths: a file, a glob, a folder, a list of these, or a dict from source names to these. Files are in natural
            order (`transitions_2` before `transitions_10`). Without a dict, a file's source is its name without the
            last number, or `demos` if that is the same for all and not in `SOURCES`. In a HIL-SERL run's folder,
            `demo_buffer` is `demos` and `buffer` is `suboptimal`. Sources named per episode (`filtered_demos.pkl`)
            stay.
        timeout_length: in transitions; None: inferred (see `repair_timeouts`).
        cameras: None: all; (): none.
        inspect: called with every file and recording, before problems raise.

    Raises:
        DataError: no data, a bad file, another layout, a missing camera, NaN, infinity, or actions beyond 3.
    """
    parts = []
    first: tuple[Path, Layout] | None = None
    sources = expand(paths)
    with tqdm(total=sum(map(len, sources.values())), desc="reading", unit="file", leave=False, delay=1.0) as progress:
        for source, files in sources.items():
            recordings = []
            for file in files:
                progress.update()
                try:
                    recordings.append(_read_strictly(file, cameras, conventions, inspect))
                except NoTransitionsError:
                    # A run also dumps the demonstrations of a time in which nobody intervened.
                    if is_dump(file):
                        continue
                    raise
                first = first or (file, recordings[0].layout)
                if difference := recordings[-1].layout.difference(first[1]):
                    raise DataError(f"{file} {difference} as in {first[0]}.")
            if recordings:
                parts.append(with_source(repair_timeouts(join(recordings), timeout_length), source))
    if not parts:
        raise NoTransitionsError(f"The dumps in {paths} hold no transitions.")
    return to_dataset(join(parts))


def expand(paths: Paths) -> dict[str, list[Path]]:
    """The files of each source; `paths` as for `load_sources`.

    Raises:
        DataError: nothing was given or found.
    """
    if not paths:
        raise DataError("No offline data is given: expected a file, a glob, a folder, a list, or {source: files}.")
    if isinstance(paths, Mapping):
        return {source: _files(given, f"source {source!r}") for source, given in paths.items()}
    files = _files(paths, "the offline data")
    names = [_source_name(file) for file in files]
    if len(set(names)) == 1 and names[0] not in SOURCES:
        return {"demos": files}
    return {
        name: [file for file, own in zip(files, names, strict=True) if own == name] for name in dict.fromkeys(names)
    }


def _source_name(file: Path) -> str:
    if is_dump(file) and file.parent.name in _DUMPS:
        return _DUMPS[file.parent.name]
    return re.sub(r"[-_ ]*(v?\d+)?$", "", file.stem) or file.stem


def is_dump(file: Path) -> bool:
    """Whether a file is named like a dump of a HIL-SERL run; some are empty."""
    return re.fullmatch(r"transitions_\d+", file.stem) is not None


def _files(given: str | os.PathLike[str] | list[str], what: str) -> list[Path]:
    entries = given if isinstance(given, list) else [given]
    if not entries:
        raise DataError(f"The list of files for {what} is empty.")
    found: list[Path] = []
    for entry in entries:
        path = user_path(os.fspath(entry))
        with reading(path, DataError, "can't be read"):
            found += _expand_one(path)
    return list(dict.fromkeys(found))


def _expand_one(path: Path) -> list[Path]:
    if path.is_dir():
        if _folder_reader(path) is not None:
            return [path]
        dumps = [dump for folder in _DUMPS for dump in sorted((path / folder).glob("transitions_*.pkl"), key=_natural)]
        if dumps:
            return dumps
        # Other things lie in a folder too (notes, figures): they are told apart by content.
        inside = sorted((entry for entry in path.iterdir() if not entry.name.startswith(".")), key=_natural)
        files = [entry for entry in inside if not entry.name.endswith(SUFFIX) and _is_data(entry)]
        if not files:
            raise DataError(f"The folder {path} holds no data file of a known format.")
        return files
    if path.exists():
        # The data file of a Minari dataset stands for its folder, where the spaces are.
        is_minari = path.parts[-2:] == _MINARI_FILE.parts and path.with_name("metadata.json").exists()
        return [path.parent.parent if is_minari else path]
    if glob.has_magic(str(path)):
        found = (Path(match) for match in glob.glob(str(path), recursive=True))
        matches = sorted((match for match in found if not match.name.endswith(SUFFIX)), key=_natural)
        if not matches:
            raise DataError(f"No file matches {path}.")
        return [file for match in matches for file in _expand_one(match)]
    raise DataError(f"{path} does not exist.")


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Compares numbers in names as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _is_data(path: Path) -> bool:
    try:
        return _reader(path) is not None
    except DataError:
        # An empty or unreadable file is not passed over in silence: reading it says what is wrong.
        return path.is_file()


def _reader(path: Path) -> Reader | None:
    """None: unknown format."""
    if path.is_dir():
        return _folder_reader(path)
    refuse_special(path, DataError)
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from error
    if not head:
        raise DataError(f"{path} is empty.")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_hdf5
    if head.startswith(b"PK\x03\x04"):
        return read_npz
    if _PICKLE.match(head):
        return read_hil_serl
    return None


def _folder_reader(path: Path) -> Reader | None:
    """None: the folder is not one dataset."""
    if any((path / "meta" / name).exists() for name in _LEROBOT_FILES):
        return read_lerobot
    is_minari = (path / _MINARI_FILE).exists() or (path / _MINARI_FILE.with_name("metadata.json")).exists()
    return read_minari if is_minari else None


def _read_hdf5(path: Path, cameras: CameraChoice) -> Recording:
    with open_hdf5(path) as file:
        has_demos = bool(demonstrations(file))
        is_minari = file.find("observations") is None and file.find("episode_0") is not None
    if is_minari:
        if path.parts[-2:] != _MINARI_FILE.parts:
            raise DataError(f"{path} is the data file of a Minari dataset, expected it in its folder, {_MINARI_FILE}.")
        return read_minari(path.parent.parent, cameras)
    return (read_robomimic if has_demos else read_hdf5)(path, cameras)


def _read_strictly(
    path: Path,
    cameras: Sequence[str] | None,
    conventions: Conventions,
    inspect: Callable[[Path, Recording], object] | None,
) -> Recording:
    recording = read_labelled(path, cameras, conventions)
    if inspect is not None:
        inspect(path, recording)
    problems = [*recording.problems, *value_problems(recording)]
    if problems:
        raise DataError(f"{path}: {problems[0]}.")
    return recording
