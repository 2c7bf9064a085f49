import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import nbformat
import pytest

from slow_cases import one_fast
from tiny_notebooks import CONFIG, FINISH, write_notebook
from waiting import wait_for
from wsrl_kit.cli import main
from wsrl_kit.errors import ParameterError
from wsrl_kit.notebook.parameters import check_values, read_notebook
from wsrl_kit.runs.run import Run

COMMAND = [str(Path(sys.executable).parent / "wsrl-kit"), "run"]
SLOW = """\
import os
import time

pathlib = __import__("pathlib")
pathlib.Path(session.output_dir, "kernel").write_text(str(os.getpid()))
try:
    for _step in range(600):
        print("step", _step, flush=True)
        time.sleep(0.1)
finally:
    print("closing")
"""


def run(*arguments: str | Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_leaves_the_executed_notebook_and_its_html(tmp_path: Path) -> None:
    show = "import os, sys\nprint(sys.prefix, os.getcwd(), os.environ['OMP_NUM_THREADS'].isdigit())"
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, show, FINISH)
    done = run(notebook, "-p", "hidden_sizes", "[3, 4]", "-p", "seed", "7", "--out", "out", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{sys.prefix} {tmp_path} True" in done.stdout
    assert json.loads((tmp_path / "out/run.json").read_text()) == {"status": "finished", "sizes": [3, 4], "seed": 7}
    executed = nbformat.read(tmp_path / "out/job.ipynb", as_version=4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    assert "<html" in (tmp_path / "out/job.html").read_text()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("sead", "3", "there is no parameter named sead: did you mean seed?"),
        ("seed", "three", "seed must be an int, found 'three'"),
        ("seed", "-1", "seed must be an int in [0, 4294967295], found -1"),
        ("hidden_sizes", "[8, 0]", "hidden_sizes must be a list[int], every number >= 1, found [8, 0]"),
        ("hidden_sizes", "8", "hidden_sizes must be a list[int], found '8'"),
    ],
)
def test_a_wrong_parameter_executes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: str, sentence: str
) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", "open('executed', 'w').close()", CONFIG)
    assert main(["run", str(notebook), "-p", name, value, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"wsrl-kit: error: {sentence}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["job.ipynb"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("import os", "job.ipynb: the cell tagged `parameters` must hold only literals, found `import os`"),
        ("rate: float = 2 * 3", "job.ipynb: the cell tagged `parameters` must hold only literals, malformed node"),
        ("rate: Decimal = 2", "job.ipynb: the cell tagged `parameters` must hold only literals, name 'Decimal'"),
    ],
)
def test_a_parameters_cell_holds_literals(tmp_path: Path, parameters: str, sentence: str) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", parameters=parameters)
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        read_notebook(notebook)


def test_what_is_no_notebook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    with pytest.raises(ParameterError, match="half.ipynb must be a Jupyter notebook, but it is damaged"):
        read_notebook(tmp_path / "half.ipynb")
    with pytest.raises(ParameterError, match="none.ipynb must be a Jupyter notebook, but No such file"):
        read_notebook(tmp_path / "none.ipynb")


def test_a_notebook_that_papermill_cannot_load_leaves_no_kernel_behind(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH)
    notebook.write_text(json.dumps(json.loads(notebook.read_text()) | {"nbformat": 9}))
    done = run(notebook, "--out", "out", folder=tmp_path)
    assert done.returncode == 1
    # A kernel that is left behind says on the same stream that its sockets are gone.
    assert re.fullmatch(r"wsrl-kit: error: job\.ipynb could not be executed: .* version 9\n", done.stderr)


def test_an_error_of_ours_is_one_sentence(tmp_path: Path) -> None:
    body = "from wsrl_kit.errors import DataError\nraise DataError('demos.pkl is missing')"
    done = run(write_notebook(tmp_path / "job.ipynb", body), "--out", "out", folder=tmp_path)
    assert done.returncode == 1
    # A loaded machine may have more to say before it, but neither where the error came from nor the sentence twice.
    assert done.stderr.splitlines()[-1] == "wsrl-kit: error: demos.pkl is missing"
    assert done.stderr.count("demos.pkl is missing") == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/job.ipynb").exists()


@pytest.mark.slow
def test_a_refusal_leaves_the_notebook_of_the_run_that_is_there(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH)
    assert run(notebook, "--out", "out", folder=tmp_path).returncode == 0
    before = (tmp_path / "out/job.ipynb").read_bytes()
    refusing = "from wsrl_kit.errors import RunError\nraise RunError('out holds a run with other parameters')"
    done = run(write_notebook(tmp_path / "job.ipynb", CONFIG, refusing), "--out", "out", folder=tmp_path)
    assert done.returncode == 1 and "other parameters" in done.stderr
    assert (tmp_path / "out/job.ipynb").read_bytes() == before
    failing = write_notebook(tmp_path / "job.ipynb", CONFIG, "1 / 0")
    assert "see out/job.ipynb" in run(failing, "--out", "out", folder=tmp_path).stderr
    assert (tmp_path / "out/job.ipynb").read_bytes() != before


@pytest.mark.slow
def test_any_other_error_shows_where_it_came_from(tmp_path: Path) -> None:
    done = run(write_notebook(tmp_path / "job.ipynb", "1 / 0"), "--out", "out", folder=tmp_path)
    assert done.returncode == 1
    assert "out/job.ipynb" in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "\x1b" not in done.stderr


@pytest.mark.slow
def test_a_wrong_parameter_that_only_the_notebook_finds_has_its_status(tmp_path: Path) -> None:
    body = "from wsrl_kit.errors import ParameterError\nraise ParameterError('steps must be even')"
    done = run(write_notebook(tmp_path / "job.ipynb", body), "--out", "out", folder=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "wsrl-kit: error: steps must be even")


def test_none_stands_for_the_value_of_a_preset(tmp_path: Path) -> None:
    parameters = 'preset: str = "sac"\nhidden_sizes: "list[int] | None" = [3]\nbatch_size: int = 8\n'
    notebook = read_notebook(write_notebook(tmp_path / "job.ipynb", CONFIG, parameters=parameters))
    assert check_values(notebook, {"hidden_sizes": "None"}) == {"hidden_sizes": None}
    with pytest.raises(ParameterError, match="batch_size must be an int, found 'None'"):
        check_values(notebook, {"batch_size": "None"})


def test_more_is_for_what_the_notebook_does_not_list(tmp_path: Path) -> None:
    parameters = 'seed: int = 3\nmore: dict = {"batch_size": 8, "discount": 0.5}\n'
    notebook = read_notebook(write_notebook(tmp_path / "job.ipynb", CONFIG, parameters=parameters))
    assert (notebook.values["batch_size"], notebook.values["seed"]) == (8, 3)
    assert check_values(notebook, {"batch_size": "16"}) == {"batch_size": 16}
    for more, sentence in (
        ("{'seed': 1}", "seed must be set once, found it in `more` and as a variable"),
        ("{'sead': 1}", "there is no parameter named sead: did you mean seed?"),
        ("{'discount': 2}", r"discount must be a float in \[0, 1\], found 2"),
    ):
        with pytest.raises(ParameterError, match=f"^{sentence}"):
            check_values(notebook, {"more": more})


def test_a_notebook_of_another_version_is_refused(tmp_path: Path) -> None:
    old = CONFIG.replace("AgentSession", "GoneConfig")
    with pytest.raises(ParameterError, match=r"job.ipynb was made for another version of the kit: .*GoneConfig"):
        read_notebook(write_notebook(tmp_path / "job.ipynb", old))


def test_a_folder_that_another_process_writes_to_is_left_alone(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH)
    with closing(Run.open(tmp_path / "out", kind="warmup", arm="", seed=0, parameters={})):
        done = run(notebook, "--out", "out", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"wsrl-kit: error: out is being written to by process {os.getpid()} on ")
    assert not (tmp_path / "out/job.ipynb").exists()


@pytest.mark.slow
def test_a_killed_kernel_is_no_success(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH, "import os\nos.kill(os.getpid(), 9)")
    done = run(notebook, "--out", "out", folder=tmp_path)
    assert done.returncode == 1
    assert "wsrl-kit: error: the kernel died" in done.stderr


def test_success_needs_a_finished_run(tmp_path: Path) -> None:
    write = """open(output_dir + "/run.json", "w").write('{"status": "stopped"}')"""
    done = run(write_notebook(tmp_path / "job.ipynb", write), "--out", "out", folder=tmp_path)
    assert done.returncode == 1
    assert "the notebook ended without a finished run: out/run.json says 'stopped'" in done.stderr


@pytest.mark.parametrize("number", one_fast([signal.SIGTERM, signal.SIGINT]))
def test_a_signal_ends_the_kernel_and_keeps_what_was_done(tmp_path: Path, number: signal.Signals) -> None:
    write_notebook(tmp_path / "job.ipynb", CONFIG, SLOW, FINISH)
    process = subprocess.Popen([*COMMAND, "job.ipynb", "--out", "out"], cwd=tmp_path, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "step 0\n"  # text arrives while the notebook runs
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert not alive(int((tmp_path / "out/kernel").read_text()))
    assert "closing" in (tmp_path / "out/job.ipynb").read_text()
    assert not (tmp_path / "out/run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("has_kernel", [False, True])
def test_a_signal_before_the_first_cell_is_one_line_and_leaves_the_run_that_is_there(
    tmp_path: Path, has_kernel: bool
) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH)
    assert run(notebook, "--out", "out", folder=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    process = subprocess.Popen([*COMMAND, "job.ipynb", "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task")
    if has_kernel:
        wait_for(lambda: any((task / "children").read_text() for task in children.iterdir()))
    else:
        wait_for(lambda: not (tmp_path / "out/job.ipynb").exists())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert said == "wsrl-kit: stopped by SIGINT; the same command with --out out continues\n"
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before


def test_a_killed_runner_takes_its_kernel_along(tmp_path: Path) -> None:
    write_notebook(tmp_path / "job.ipynb", CONFIG, SLOW, FINISH)
    process = subprocess.Popen([*COMMAND, "job.ipynb", "--out", "out"], cwd=tmp_path, stdout=subprocess.PIPE)
    wait_for((tmp_path / "out/kernel").exists)
    process.kill()
    process.communicate()
    kernel = int((tmp_path / "out/kernel").read_text())
    deadline = time.monotonic() + 20
    while alive(kernel) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(kernel)


def test_plain_papermill_works_too(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH)
    papermill = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar"]
    arguments = [notebook, tmp_path / "out.ipynb", "-p", "seed", "5", "-p", "output_dir", tmp_path]
    arguments += ["-p", "hidden_sizes", "[8, 9]"]
    arguments += ["-p", "batch_size", "32"]  # not listed by the notebook
    subprocess.run([*papermill, *map(str, arguments)], check=True, capture_output=True, timeout=60)
    assert json.loads((tmp_path / "run.json").read_text()) == {"status": "finished", "sizes": [8, 9], "seed": 5}
    assert "batch_size" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.slow
def test_plain_papermill_refuses_an_unknown_parameter(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "job.ipynb", CONFIG, FINISH)
    papermill = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar"]
    arguments = [*papermill, str(notebook), str(tmp_path / "out.ipynb"), "-p", "sead", "5"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "did you mean seed?" in done.stderr
    # What a reader of the notebook sees is the sentence, and not where in the kit it comes from.
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    (error,) = (output for cell in cells for output in cell.get("outputs", []) if output.output_type == "error")
    assert error.ename == "ParameterError"
    assert error.traceback == ["ParameterError: there is no parameter named sead: did you mean seed?"]
