"""Checks of array shapes against their annotations while tests run, in the functions and dataclasses that have any.

jaxtyping's own import hook checks every function of a module, which takes a fifth of the time of all tests.
"""

import ast
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_ARRAY = r"\b(?:Bool|U?Int\d*|Float\d*|Shaped|Num|PRNGKeyArray)\b"
_ALIAS = re.compile(rf"^(\w+) = .*{_ARRAY}\[", re.MULTILINE)
_CHECK = "__import__('jaxtyping').jaxtyped(typechecker=__import__('beartype').beartype)"


def check_arrays(package: Path) -> None:
    """Has the modules of a package checked that are imported from now on."""
    sources = {path: path.read_text() for path in package.rglob("*.py")}
    aliases = {name for source in sources.values() for name in _ALIAS.findall(source)}
    arrays = re.compile("|".join([_ARRAY, *(rf"\b{name}\b" for name in sorted(aliases))]))
    names = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in sources}
    sys.meta_path.insert(0, _Finder({name for name, path in names.items() if arrays.search(sources[path])}, arrays))


class _Finder:
    def __init__(self, modules: set[str], arrays: re.Pattern[str]) -> None:
        self._modules = modules
        self._arrays = arrays

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self._modules else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._arrays)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, arrays: re.Pattern[str]) -> None:
        super().__init__(name, path)
        self._arrays = arrays

    def path_stats(self, path: str) -> Any:
        raise OSError("compiled code is neither read nor written: it is without the checks")

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:
        tree = ast.parse(data)
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(args=arguments):
                    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                    every += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
                    annotations = [each.annotation for each in every] + [node.returns]
                case ast.ClassDef():
                    annotations = [each.annotation for each in node.body if isinstance(each, ast.AnnAssign)]
                case _:
                    continue
            if any(each is not None and self._arrays.search(ast.unparse(each)) for each in annotations):
                check = ast.copy_location(ast.parse(_CHECK, mode="eval").body, node)
                # First around a function, so that `jax.custom_vjp` and others see it checked; last around a dataclass.
                place = 0 if isinstance(node, ast.ClassDef) else len(node.decorator_list)
                node.decorator_list.insert(place, check)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True, optimize=_optimize)
