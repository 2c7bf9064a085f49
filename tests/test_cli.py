import re
import subprocess
import sys
from pathlib import Path

import pytest

import wsrl_kit
from data_samples import trajectory
from file_writers import write_npz
from tiny_notebooks import CONFIG, FINISH, write_notebook
from wsrl_kit.cli import main
from wsrl_kit.notebook.parameters import read_notebook
from wsrl_kit.notebook.templates import COMMANDS, copy_templates, template_folder

ROOT = Path(__file__).parents[1]


def test_help_and_doctor_wait_neither_for_jax_nor_for_figures_nor_for_jupyter() -> None:
    code = (
        "import sys, wsrl_kit.data.doctor\n"
        "from wsrl_kit.notebook.parameters import check_values, read_notebook\n"
        "from wsrl_kit.notebook.templates import COMMANDS, template_folder\n"
        "from wsrl_kit.cli import main\n"
        "for file, _ in COMMANDS.values():\n"
        "    read_notebook(template_folder() / file).values\n"
        "sys.exit(bool({'jax', 'matplotlib', 'papermill', 'nbformat', 'distributed'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("run", "lab", "doctor", *COMMANDS))


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
    files = [f"here/{name}" for name in ("01_offline_warmup.html", "01_offline_warmup.ipynb", "run.json")]
    assert done.stdout.splitlines() == ["writing 01_offline_warmup.html", "", *files]


def test_the_flags_are_explained(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notebook(clone / "notebooks/01_offline_warmup.ipynb", CONFIG, FINISH)
    with pytest.raises(SystemExit):
        main(["warmup", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--hidden_sizes VALUE widths of the hidden layers of actor and critics (default: [256, 256])" in shown
    # What the notebook lists comes first, then every other parameter of its classes, in groups.
    places = [shown.index(text) for text in ("The parameters of 01", "--offline_data_path", "Networks:", "--gripper")]
    assert places == sorted(places)
    assert "--gripper {fixed,single,dual} grippers" in shown
    assert "--layer_norm {True,False} LayerNorm" in shown
    assert "--live {True,False} show widgets" in shown


def test_every_parameter_of_every_command_has_a_flag_and_a_help_that_is_one_of_its_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command, (file, _) in COMMANDS.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        fields = read_notebook(template_folder() / file).fields
        assert all(f"  --{name} " in shown for name in fields.keys() - {"output_dir", "runs"})
        assert "--more" not in shown
        assert len({field.metadata["help"] for field in fields.values()}) == len(fields)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--sead=3", "there is no parameter named sead: did you mean seed?"),
        ("--seed=-1", "seed must be an int in [0, 4294967295], found -1"),
        ("--discount=2", "discount must be a float in [0, 1], found 2.0"),
        ("--zzzz=1", "there is no parameter named zzzz: no known name is like it"),
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["finetune", "--retention_ratio=0.3"],
            "02_robot_finetune.ipynb has no parameter named retention_ratio: wsrl-kit warmup, ablation, tuning, "
            "ablate-replay, regularisers and hil-serl have it",
        ),
        (
            ["classifier", "--robot_url=x"],
            "07_reward_classifier.ipynb has no parameter named robot_url: wsrl-kit collect, finetune and hil-serl have",
        ),
        (["hil-serl", "--arms=['x']"], "there is no arm named x: known are hil_serl, no_demos, no_interventions, no_w"),
        (["warmup", "--offline_data_path=nowhere"], "offline_data_path: nowhere does not exist."),
        (["finetune", "--checkpoint_path=no.npz"], "checkpoint_path: no.npz does not exist."),
    ],
)
def test_what_belongs_elsewhere_or_is_missing_is_found_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    assert capsys.readouterr().err.startswith(f"wsrl-kit: error: {sentence}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_every_command_in_the_documentation_has_the_flags_that_it_is_given(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for command, arguments in re.findall(r"^wsrl-kit ([\w-]+) (.*)$", text, re.MULTILINE):
        if command in COMMANDS:
            names = {*read_notebook(template_folder() / COMMANDS[command][0]).names, "out"}
            assert {*re.findall(r"(?<=--)\w+", arguments)} <= names, arguments


def test_every_test_that_the_safety_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "safety.md").read_text())
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*/test_*.py"))
    assert len(named) > 20 and [name for name in named if f"def {name}(" not in tests] == []


def lab(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """`wsrl-kit lab`, which ends at once since JupyterLab is asked for its version."""
    command = [sys.executable, "-c", "from wsrl_kit.cli import main; raise SystemExit(main())", "lab", *arguments]
    return subprocess.run([*command, "--version"], cwd=folder, capture_output=True, text=True, timeout=120)


def test_lab_opens_copies_and_keeps_them(tmp_path: Path) -> None:
    first = lab(folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "lab: copied: 00_collect_data.ipynb, 01_offline_warmup.ipynb, " in first.stdout
    assert f"Relative paths in them begin at {tmp_path}." in first.stdout
    assert first.stdout.splitlines()[-1][0].isdigit()  # of JupyterLab
    copies = tmp_path / "lab"
    assert (copies / "90_report.ipynb").read_bytes() == (template_folder() / "90_report.ipynb").read_bytes()


def test_lab_says_which_copies_are_from_another_version(clone: Path) -> None:
    template = clone / "notebooks/01_offline_warmup.ipynb"
    template.write_text("old")
    (clone / "notebooks/90_report.ipynb").write_text("report")
    assert copy_templates(Path("copies"), Path())["new"] == [template.name, "90_report.ipynb"]
    template.write_text("new")
    copies = copy_templates(Path("copies"), Path())
    assert copies == {"new": [], "kept": ["90_report.ipynb"], "outdated": [template.name]}
    assert Path("copies", template.name).read_text() == "old"
    Path("copies", template.name).rename("copies/mine.ipynb")
    assert copy_templates(Path("copies"), Path())["new"] == [template.name]
    assert Path("copies", template.name).read_text() == "new"
    # A notebook of the user's own that only has the name of a template is theirs.
    Path("others").mkdir()
    Path("others", template.name).write_text("other")
    assert copy_templates(Path("others"), Path())["outdated"] == [template.name]
    assert Path("others", template.name).read_text() == "other"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["../notebooks"], "../notebooks holds the notebooks that commands execute: name another folder for copies"),
        (["../notebooks/mine"], "../notebooks/mine holds the notebooks that commands execute: name another"),
        (["file"], "file must be a folder that can be written, but File exists"),
        (["--port", "9000"], "the folder must come before JupyterLab's own arguments, found --port first"),
    ],
)
def test_lab_refuses_in_one_sentence(
    clone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    Path("file").touch()
    assert main(["lab", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"wsrl-kit: error: {sentence}")
    assert list(clone.rglob("*.ipynb")) == []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder, with another as the current one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def test_every_command_takes_paths_from_home(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(home / "demos.npz", [trajectory()])
    assert main(["doctor", "~/demos.npz"]) == 0
    for arguments in (
        ["run", "~/none.ipynb"],
        ["export-hil-serl", "~/none", "~/x"],
        ["import-hil-serl", "~/none", "x"],
    ):
        assert main(arguments) in (1, 2)
        assert f"{home}/none" in capsys.readouterr().err
    assert main(["lab", "~/demos.npz"]) == 2
    assert f"{home}/demos.npz must be a folder" in capsys.readouterr().err
    assert main(["doctor", "~nobody-has-this-name/demos.npz"]) == 2
    assert "found '~nobody-has-this-name/demos.npz': ~nobody-has-this-name is nobody's" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--out=~/run"], ["--out", "~/run"], ["-p", "output_dir", "~/run"]])
def test_a_run_goes_to_the_users_home(home: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run").write_text("in the way")
    notebook = write_notebook(home / "job.ipynb", CONFIG, FINISH)
    assert main(["run", str(notebook), *given]) == 1
    assert f"the output folder {home}/run can't be made" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_doctor_reports_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy, broken = tmp_path / "healthy.npz", tmp_path / "broken.npz"
    write_npz(healthy, [trajectory()])
    assert main(["doctor", str(healthy)]) == 0
    assert "healthy.npz" in capsys.readouterr().out
    broken.write_bytes(b"no data")
    assert main(["doctor", str(healthy), str(broken)]) == 1
    assert "broken.npz" in capsys.readouterr().out
