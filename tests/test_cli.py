import subprocess
import sys
from pathlib import Path

import pytest

import wsrl_kit
from data_samples import trajectory
from tiny_notebooks import CONFIG, FINISH, write_notebook
from wsrl_kit.cli import NOTEBOOKS, main
from wsrl_kit.data.npz import write_npz


def test_help_and_doctor_do_not_wait_for_jax() -> None:
    modules = "sys, wsrl_kit.cli, wsrl_kit.notebook, wsrl_kit.data.doctor"
    code = f"import {modules}; sys.exit(bool({{'jax', 'papermill'}} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("run", "doctor", *NOTEBOOKS))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone whose notebooks are tiny, with the user in an empty folder of it."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "wsrl_kit").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(wsrl_kit, "__file__", str(tmp_path / "wsrl_kit/__init__.py"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_a_notebook_has_a_command_with_its_parameters_as_flags(clone: Path) -> None:
    write_notebook(clone / "notebooks/01_offline_warmup.ipynb", CONFIG, FINISH)
    code = (
        f"import sys, wsrl_kit, wsrl_kit.cli; wsrl_kit.__file__ = {wsrl_kit.__file__!r}; sys.exit(wsrl_kit.cli.main())"
    )
    flags = ["warmup", "--seed=3", "--hidden_sizes", "[4]", "--out=here"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Path("here/run.json").read_text() == '{"status": "finished", "sizes": [4], "seed": 3}'
    assert done.stdout.split() == ["here/01_offline_warmup.ipynb", "here/01_offline_warmup.html"]


def test_the_flags_are_explained(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notebook(clone / "notebooks/01_offline_warmup.ipynb", CONFIG, FINISH)
    with pytest.raises(SystemExit):
        main(["warmup", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--hidden_sizes VALUE widths of the hidden layers (default: [256, 256])" in shown


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--sead=3", "there is no parameter named sead: did you mean seed?"),
        ("--seed=-1", "seed must be an int in [0, 4294967295], found -1"),
        ("seed=1", "every parameter must be given as --name=value, found 'seed=1'"),
    ],
)
def test_a_wrong_flag_is_one_sentence(
    clone: Path, capsys: pytest.CaptureFixture[str], flag: str, sentence: str
) -> None:
    write_notebook(clone / "notebooks/02_robot_finetune.ipynb", CONFIG, FINISH)
    assert main(["finetune", flag]) == 2
    assert capsys.readouterr().err == f"wsrl-kit: error: {sentence}\n"
    assert not list(Path().iterdir())


def test_without_a_clone_the_notebooks_are_missed_by_name(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablation"]) == 1
    assert "03_ablation_warmup.ipynb does not exist: install wsrl-kit from a clone" in capsys.readouterr().err


def test_doctor_reports_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy, broken = tmp_path / "healthy.npz", tmp_path / "broken.npz"
    write_npz(healthy, [trajectory()])
    assert main(["doctor", str(healthy)]) == 0
    assert "healthy.npz" in capsys.readouterr().out
    broken.write_bytes(b"no data")
    assert main(["doctor", str(healthy), str(broken)]) == 1
    assert "broken.npz" in capsys.readouterr().out
