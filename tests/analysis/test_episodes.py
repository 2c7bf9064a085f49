"""Episodes of offline data as a table and as figures."""

import csv
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from data_samples import trajectory
from wsrl_kit.analysis.episodes import episode_figure, episode_table, read_episodes, read_files
from wsrl_kit.cli import main
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.data.labels import Label, write_labels
from wsrl_kit.data.sources import load_sources
from wsrl_kit.data.weights import episode_quality, weigh

WEIGHTS = {"demos": 2.0, "random": 0.5}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    cameras = {"wrist": (8, 8, 3), "side": (6, 4, 3)}
    write_hil_serl(tmp_path / "demos.pkl", [trajectory(n, seed=n, cameras=cameras, horizon=2) for n in (3, 4, 5)])
    other = [trajectory(6, seed=n, success=False, terminated=False, cameras=cameras, horizon=2) for n in range(2)]
    write_hil_serl(tmp_path / "random.pkl", other)
    return tmp_path


def test_the_table_says_what_training_makes_of_the_labels(data: Path) -> None:
    write_labels(data / "demos.pkl", {0: Label("exclude"), 2: Label("failure", 4)}, 3)
    table = episode_table(read_files(str(data)), WEIGHTS)
    assert table["episode"].tolist() == [0, 1, 2, 0, 1]
    assert table["label"].tolist() == ["exclude", "", "failure", "", ""]
    assert table["length"].tolist() == [3, 4, 4, 6, 6]
    assert table[["quality", "weight"]].loc[0].isna().all()
    used = weigh(load_sources(str(data)), WEIGHTS)
    kept = table.drop(0)
    np.testing.assert_allclose(kept["quality"], episode_quality(used))
    np.testing.assert_allclose(kept["weight"], used.weight[used.episode_starts])
    np.testing.assert_array_equal(kept["success"], used.episode_success)


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_a_figure_shows_what_every_camera_saw_at_the_step(data: Path) -> None:
    table = episode_table(read_files(str(data)), WEIGHTS)
    episode = read_episodes(data / "demos.pkl").trajectories()[1]
    figure = episode_figure(episode, 4, table, 1)
    for found, camera in zip(pictures(figure), ("side", "wrist"), strict=True):
        np.testing.assert_array_equal(found, episode.images[camera][-1])
    assert "demos, demos.pkl, episode 1, step 4 of 4: success, return 1, quality" in figure.get_suptitle()
    figure.canvas.draw()


def test_a_state_of_hil_serls_insertion_is_drawn_by_its_parts(tmp_path: Path) -> None:
    write_hil_serl(tmp_path / "demos.pkl", [trajectory(3, observation_size=19)])
    table = episode_table(read_files(str(tmp_path)), WEIGHTS)
    (episode,) = read_episodes(tmp_path / "demos.pkl").trajectories()
    axes = {ax.get_title(loc="left"): ax for ax in episode_figure(episode, 0, table, 0).axes}
    np.testing.assert_array_equal(axes["Force (N)"].lines[2].get_ydata(), episode.observations[:, 3])
    assert {"Position (m)", "Action", "Reward", "Return"} < axes.keys()


def test_the_command_writes_the_table_and_a_figure_of_each_source(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["browse", str(data), "--out", str(out)]) == 0
    assert "demos: 3 episodes\nrandom: 2 episodes" in capsys.readouterr().out
    with (out / "episodes.csv").open() as file:
        assert [row["episode"] for row in csv.DictReader(file)] == ["0", "1", "2", "0", "1"]
    assert {path.name for path in (out / "figures").iterdir()} == {"demos.png", "random.png"}
    (data / "demos.pkl.labels.json").write_text("{")
    assert main(["browse", str(data), "--out", str(out)]) == 1
    assert "must hold labels of episodes, found a damaged file" in capsys.readouterr().err
