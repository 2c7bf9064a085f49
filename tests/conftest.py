"""What several test modules share."""

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import matplotlib
import pytest
from packaging.version import Version

from array_checks import check_arrays

# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything imports the kit.
check_arrays(Path(__file__).parents[1] / "wsrl_kit")
# Most of a tiny run is compilation. Programs are shared between this process and those that tests start, and forgotten
# at the end. Set before anything imports JAX.
if "PYTEST_XDIST_WORKER" not in os.environ:
    PROGRAMS = tempfile.mkdtemp(prefix="wsrl-kit-programs-")
    atexit.register(shutil.rmtree, PROGRAMS, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Programs run briefly here: compiling them without optimization and without XLA's newer code generator takes less than
# half of the time, and compiling each in one part a tenth less again. Flags of the user's own come last and win. A flag
# that XLA does not know ends the process.
COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if Version(version("jaxlib")) < Version("0.11"):
    COMPILE_FAST += " --xla_cpu_use_fusion_emitters=false"
if COMPILE_FAST not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{COMPILE_FAST} {os.environ.get('XLA_FLAGS', '')}".strip()
# No test looks at the pixels of a figure that was written; drawing them takes a third of a figure's time.
matplotlib.rcParams["savefig.dpi"] = 20
# As in `wsrl_kit.notebook.headless`, for the tests that read notebooks themselves: 3 s of import.
sys.modules.setdefault("rfc3987_syntax", None)  # None: can't be imported

MAPS, MOST_MAPS = Path("/proc/self/maps"), 15_000
"""The memory maps of this process, and from how many on compiled programs are forgotten; Linux allows 65,530."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-inputs", type=int, default=100, help="damaged files to read, of all formats together")
    parser.addoption("--fuzz-seed", type=int, default=0, help="decides which damaged files these are")


def pytest_configure(config: pytest.Config) -> None:
    # A killed process may leave half a program behind, which is then compiled again.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache:UserWarning")


def pytest_collection_finish() -> None:
    """Takes imported modules out of garbage collection, which else walks them all again and again."""
    gc.freeze()


def pytest_runtest_teardown() -> None:
    """Forgets compiled programs where they have become many: about 0.1 GB per 1,000 maps, which is given back."""
    if "jax" in sys.modules and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        sys.modules["jax"].clear_caches()
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def opengl() -> None:
    """For tests that draw: skips them, with the reason, where no OpenGL library works."""
    from wsrl_kit.envs.rendering import create_context
    from wsrl_kit.errors import ExperimentError

    try:
        create_context(8, 8).free()
    except ExperimentError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with demos.pkl, suboptimal.pkl and random.pkl, recorded on the simulated robot."""
    from training_samples import collect_sources

    return collect_sources(tmp_path_factory.mktemp("sources"))
