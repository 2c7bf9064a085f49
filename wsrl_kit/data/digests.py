"""Digests of input files, so that a run never resumes with other files."""

import contextlib
from typing import Any

from wsrl_kit.data.labels import has_labels, labels_path
from wsrl_kit.data.sources import expand
from wsrl_kit.errors import DataError
from wsrl_kit.files import digest
from wsrl_kit.parameters import names_of


def input_digests(config: Any, kind: str) -> dict[str, str]:
    """A digest per parameter of `config` that names input files of this kind of run; missing files have none.

    Labels of episodes count, where there are any.
    """
    found = {}
    for name in names_of(type(config), input_of=kind):
        with contextlib.suppress(DataError, OSError):
            if (paths := getattr(config, name)) is not None:
                files = [file for each in expand(paths).values() for file in each]
                found[name] = digest([*files, *(labels_path(file) for file in files if has_labels(file))])
    return found
