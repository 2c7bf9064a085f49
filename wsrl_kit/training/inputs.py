"""The files that a run reads, and a digest of each, so that a run never goes on with others."""

import functools
import hashlib
from pathlib import Path

from wsrl_kit.config import WSRLConfig
from wsrl_kit.data.files import expand
from wsrl_kit.errors import DataError

INPUTS = {
    "warmup": ("offline_data_path", "encoder_weights"),
    "finetune": ("demo_path", "checkpoint_path", "reward_classifier", "encoder_weights"),
    "ablation": ("offline_data_path", "encoder_weights"),
}
"""By kind of run, the parameters that name files whose content decides what comes out."""


def input_digests(config: WSRLConfig, kind: str) -> dict[str, str]:
    """A digest of the files behind each parameter that names some.

    Files that are not there have none: whoever reads them says so.
    """
    found = {}
    for name in INPUTS[kind]:
        paths = getattr(config, name)
        if paths is not None:
            try:
                files = [file for files in expand(paths).values() for file in files]
                found[name] = digest(files)
            except (DataError, OSError):
                continue
    return found


def digest(paths: list[Path]) -> str:
    """A digest of the content of files, and of all files in folders, in the order given."""
    whole = hashlib.blake2b(digest_size=16)
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat()
            whole.update(_of_file(file, status.st_size, status.st_mtime_ns))
    return whole.hexdigest()


@functools.lru_cache(maxsize=1024)
def _of_file(path: Path, size: int, modified: int) -> bytes:
    """Digest of one file, read again where size or time of change say that it is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
