"""The classifier of success: what it learns from, how it is judged, and what it decides."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camera_samples import NAME, SIZE, register
from data_samples import dataset as dataset_of
from data_samples import trajectory, upstream_rows, write_upstream
from training_samples import StopAt, same_checkpoint
from wsrl_kit.agent.vision import PixelConfig
from wsrl_kit.classifier import figures, model
from wsrl_kit.classifier.config import ClassifierConfig
from wsrl_kit.classifier.data import episodes_of_rows, hold_out, load_labelled, record_labelled
from wsrl_kit.classifier.model import Decision, Examples, RewardClassifier, rewarded
from wsrl_kit.classifier.reward import ClassifierReward
from wsrl_kit.classifier.train import (
    judged_folders,
    lookalikes,
    read_validation,
    retraining,
    retraining_figure,
    run_classifier,
)
from wsrl_kit.data.formats.hil_serl import write_hil_serl
from wsrl_kit.envs.insertion import SUCCESS_DEPTH
from wsrl_kit.envs.make import make
from wsrl_kit.envs.scripts import scripted_policy
from wsrl_kit.errors import CheckpointError, DataError, ExperimentError, ParameterError, Stopped
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.progress import Silent
from wsrl_kit.runs.run import Run, read_run

# Episodes that begin near the hole, with room for the steps after an insertion.
ROBOT = {"max_episode_steps": 40, "reset_height": 0.012, "difficulty": "easy"}


def toy(**changes: Any) -> ClassifierConfig:
    values = {"classifier_steps": 60, "batch_size": 32, "hidden_sizes": [16], "learning_rate": 3e-3}
    return ClassifierConfig(**(values | changes))


# The loss


def test_successes_and_failures_have_half_of_the_loss_each() -> None:
    config = RewardClassifier(state_size=1, hidden_sizes=(4,), dropout_rate=0.0, learning_rate=1e-3)
    state = model.create(config, jax.random.key(0), jnp.zeros(1), jnp.ones(1))
    examples = Examples(jnp.array([[2.0], [-1.0], [0.5], [0.1]]), jnp.array([1.0, 0.0, 0.0, 0.0]))
    probability, loss = (jax.jit(each, static_argnums=0) for each in (model.probability, model.loss))
    p = np.asarray(probability(config, state, examples), np.float64)
    expected = (-np.log(p[0]) - np.log(1 - p[1:]).mean()) / 2
    assert float(loss(config, state, examples)) == pytest.approx(expected, rel=1e-5)


# Data


def torn(lengths: list[int], successes: set[int], folder: Path, **options: Any) -> list[str]:
    """One recording in HIL-SERL's two files; `successes` are the numbers of its rows that went into the one."""
    rows = upstream_rows(lengths, infos=False, **options)
    kinds = [("success", [row for number, row in enumerate(rows) if number in successes])]
    kinds += [("failure", [row for number, row in enumerate(rows) if number not in successes])]
    return [str(write_upstream(folder / f"task_{kind}_images.pkl", found)) for kind, found in kinds]


def test_labels_come_from_the_names_of_the_files(tmp_path: Path) -> None:
    torn([4, 3], {3, 6}, tmp_path)
    (tmp_path / "notes.txt").write_text("passed over")
    dataset = load_labelled(str(tmp_path))
    assert sorted(dataset.rewards.tolist()) == [0.0] * 5 + [1.0] * 2
    assert dataset.source_names == ("failure", "success")


@pytest.mark.parametrize("cameras", [None, {"wrist": (6, 6, 3)}])
def test_episodes_torn_apart_by_their_labels_are_put_together_again(tmp_path: Path, cameras: Any) -> None:
    files = torn([4, 5, 3], {1, 2, 8, 11}, tmp_path, cameras=cameras, horizon=2 if cameras else 1)
    dataset = load_labelled(files)
    found = episodes_of_rows(dataset)
    rows = upstream_rows([4, 5, 3], cameras=cameras, horizon=2 if cameras else 1)
    state_of_row = [np.asarray(row["observations"]["state"], np.float32).reshape(-1) for row in rows]
    true = np.repeat([0, 1, 2], [4, 5, 3])
    origin = [
        next(number for number, state in enumerate(state_of_row) if np.array_equal(state, observation))
        for observation in dataset.observations
    ]
    assert sorted(origin) == list(range(12))
    assert (found[:, None] == found).tolist() == (true[origin][:, None] == true[origin]).tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_episode_is_both_learned_and_judged_from(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=4, max_size=12))
    episode = np.repeat(np.arange(len(lengths)), lengths)
    is_success = np.array(data.draw(st.lists(st.booleans(), min_size=len(episode), max_size=len(episode))))
    fraction, seed = data.draw(st.floats(0.05, 0.9)), data.draw(st.integers(0, 99))
    try:
        held_out = hold_out(is_success, episode, fraction, seed)
    except DataError:
        return
    assert not set(episode[held_out]) & set(episode[~held_out])
    for rows in (is_success, ~is_success):
        assert (rows & held_out).any() and (rows & ~held_out).any()
    np.testing.assert_array_equal(held_out, hold_out(is_success, episode, fraction, seed))


def test_the_share_held_out_is_that_of_episodes_with_and_without_success() -> None:
    episode = np.repeat(np.arange(30), 4)
    is_success = (np.arange(120) % 4 == 3) & (episode < 10)
    held_out = hold_out(is_success, episode, 0.2, seed=1)
    chosen = np.unique(episode[held_out])
    assert ((chosen < 10).sum(), (chosen >= 10).sum()) == (2, 4)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a_success.pkl"], "needs files with 'failure' in their names, found a_success.pkl"),
        (["a_success.pkl", "demos.pkl"], "the name of .*demos.pkl must have either 'success' or 'failure' in it"),
        (["success_failure.pkl"], "the name of .* must have either 'success' or 'failure' in it"),
        (["wide_failure.pkl", "a_success.pkl"], "source 'success' has observations of size 3, expected 5"),
        (["a_success.pkl", "b_failure.pkl"], "successes must come from at least two episodes, found 3 .* from 1"),
    ],
)
def test_data_that_do_not_make_a_classifier_are_one_sentence(tmp_path: Path, files: list[str], sentence: str) -> None:
    for number, name in enumerate(files):
        size = 5 if name.startswith("wide") else 3
        write_hil_serl(tmp_path / name, [trajectory(3, seed=number, observation_size=size)])
    with pytest.raises(DataError, match=sentence):
        run_classifier(toy(classifier_data=[str(tmp_path / name) for name in files]), tmp_path / "run", Silent())


def test_a_classifier_is_retrained_with_what_was_judged_and_compared_on_what_neither_saw(tmp_path: Path) -> None:
    data = torn([4] * 12, {3, 7, 11, 15, 19, 23}, tmp_path)
    first, folder = toy(classifier_data=data), tmp_path / "classifier"
    run_classifier(first, folder, Silent())
    parameters = {"reward_classifier": str(folder / "classifier.npz")}
    for name, paid in (("paid", parameters), ("unpaid", {})):
        judged = tmp_path / name / "judged"
        judged.mkdir(parents=True)
        Run.open(tmp_path / name, kind="finetune", arm="", seed=0, parameters=paid).finish({})
        for number in range(8):
            shown = trajectory(1, seed=50 + number, observation_size=3)
            write_hil_serl(judged / f"{number:08d}_failure.pkl", [shown])
    (tmp_path / "damaged" / "judged").mkdir(parents=True)
    (tmp_path / "damaged" / "run.json").write_text("{")
    assert judged_folders(folder) == [str(tmp_path / "paid" / "judged")]
    again, retrained = retraining(first, folder, judged_folders(folder))
    run_classifier(again, retrained, Silent())
    # A quarter of the judged is held out beside the validation episodes of before.
    before, after = read_validation(folder), read_validation(retrained)
    assert len(after.row) == len(before.row) + 2
    np.testing.assert_array_equal(after.row[: len(before.row)], before.row)
    false_positives, recall = retraining_figure(first, folder, again, retrained).axes
    labels = [text.get_text() for text in false_positives.get_legend().get_texts()]
    assert [label.partition(":")[0] for label in labels] == ["before", "after"]
    found = read_run(retrained).summary
    assert recall.lines[3].get_xydata() == pytest.approx(np.array([[found["threshold"], found["recall"]]]))
    # What is judged later is another retraining.
    write_hil_serl(tmp_path / "paid" / "judged" / "9_success.pkl", [trajectory(1, seed=9, observation_size=3)])
    assert retraining(first, folder, judged_folders(folder))[1] != retrained


# Thresholds


PROBABILITY = np.array([0.9, 0.8, 0.3, 0.7, 0.4, 0.2, 0.1, 0.05])
IS_SUCCESS = np.array([True, True, True, False, False, False, False, False])


def test_the_rates_at_a_threshold_are_those_counted_by_hand() -> None:
    rates = figures.sweep(PROBABILITY, IS_SUCCESS, np.array([0.1, 0.35, 0.7, 0.75, 0.95]))
    np.testing.assert_allclose(rates.precision, [3 / 7, 2 / 4, 2 / 3, 1.0, np.nan])
    np.testing.assert_allclose(rates.recall, [1.0, 2 / 3, 2 / 3, 2 / 3, 0.0])
    np.testing.assert_allclose(rates.false_positive_rate, [0.8, 0.4, 0.2, 0.0, 0.0])


@pytest.mark.parametrize(
    ("limit", "threshold"),
    # No false positive: (0.7, 0.8] keeps two of three successes. One of five: (0.4, 0.8], the same two. From two on all
    # three are kept, by (0.2, 0.3], (0.1, 0.3] and (0, 0.3].
    [(0.0, 0.75), (0.2, 0.6), (0.4, 0.25), (0.6, 0.2), (1.0, 0.15)],
)
def test_the_threshold_keeps_to_the_false_positives_allowed_and_loses_few_successes(
    limit: float, threshold: float
) -> None:
    rates = figures.sweep(PROBABILITY, IS_SUCCESS)
    place = figures.choose_threshold(rates, limit)
    assert rates.false_positive_rate[place] <= limit
    allowed = rates.false_positive_rate <= limit
    assert rates.recall[place] == rates.recall[allowed].max()
    assert rates.threshold[place] == pytest.approx(threshold, abs=0.011)


def test_where_no_threshold_is_strict_enough_the_fewest_false_positives_are_taken() -> None:
    rates = figures.sweep(np.array([0.999, 0.999, 0.5]), np.array([True, False, False]))
    place = figures.choose_threshold(rates, 0.1)
    assert rates.false_positive_rate[place] == 0.5 and rates.recall[place] == 1.0


# The wrapper


class Told(gymnasium.Env):
    """A task whose observations are the probabilities that it is told, and which ends where it is told."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, told: list[float], ends: dict[int, bool]) -> None:
        self._told, self._ends = told, ends

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._step = 0
        return np.array(self._told[:1], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        success = self._ends.get(self._step)
        observation = np.array(self._told[self._step : self._step + 1], np.float32)
        return observation, 7.0, success is not None, False, {"success": bool(success)}


def decided(told: list[float], ends: dict[int, bool] | None = None) -> list[tuple[float, bool, bool]]:
    """Reward, end and success after each step, with threshold 0.8, release 0.4, two in a row."""
    environment = ClassifierReward(Told(told, ends or {}), lambda seen: float(seen[0]), 0.8, 0.4, 2)
    environment.reset()
    steps = [environment.step(np.zeros(1, np.float32)) for _ in told[1:]]
    assert [round(step[4]["success_probability"], 3) for step in steps] == told[1:]
    return [(float(reward), terminated, info["success"]) for _, reward, terminated, _, info in steps]


OFF, ON = (0.0, False, False), (1.0, True, True)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([0.0, 0.9, 0.1, 0.9, 0.8], [OFF, OFF, OFF, ON]),  # one mistaken picture is none; two in a row are
        ([0.0, 0.9, 0.7, 0.9, 0.7], [OFF, OFF, OFF, OFF]),  # in between is not in a row
        ([0.0, 0.9, 0.9, 0.5, 0.4, 0.3, 0.5, 0.9, 0.9], [OFF, ON, ON, ON, OFF, OFF, OFF, ON]),  # off below 0.4 alone
        ([0.9, 0.9, 0.9, 0.5, 0.9, 0.3, 0.9, 0.9], [OFF, OFF, OFF, OFF, OFF, OFF, ON]),  # first it must look undone
    ],
)
def test_success_is_on_after_two_in_a_row_and_off_below_the_lower_threshold(told: list, expected: list) -> None:
    assert decided(told) == expected


def test_the_tasks_own_success_does_not_end_the_episode_and_its_failure_does() -> None:
    assert decided([0.0, 0.1, 0.1], {1: True}) == [OFF, OFF]
    assert decided([0.0, 0.1, 0.1], {1: False}) == [(0.0, True, False), OFF]


# Runs


@pytest.fixture(scope="module")
def robot_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state classifier, recorded and trained on the simulated robot."""
    folder = tmp_path_factory.mktemp("robot") / "run"
    run_classifier(robot(), folder, Silent())
    return folder


def robot(**changes: Any) -> ClassifierConfig:
    counts = {"demo_episodes": 24, "suboptimal_episodes": 8, "random_episodes": 2}
    learning = {"classifier_steps": 400, "batch_size": 64, "max_false_positive_rate": 0.03}
    return toy(**{"environment_options": ROBOT, "success_frames": 4} | counts | learning | changes)


@pytest.mark.slow
def test_recorded_successes_are_insertions_and_failures_are_not(robot_run: Path) -> None:
    dataset = load_labelled(str(robot_run))
    is_deep = dataset.next_observations[:, 6] < -SUCCESS_DEPTH
    np.testing.assert_array_equal(dataset.rewards > 0, is_deep)
    # Every success is seen four times, unless the time limit came before.
    inserted = len(np.unique(episodes_of_rows(dataset)[is_deep]))
    assert inserted >= 20 and 3 * inserted < is_deep.sum() <= 4 * inserted
    assert len(np.unique(episodes_of_rows(dataset))) == 34


def test_a_state_classifier_knows_insertions_of_episodes_that_it_has_not_seen(robot_run: Path) -> None:
    record = read_run(robot_run)
    assert record.status == "finished"
    assert record.summary["recall"] >= 0.7 and record.summary["false_positive_rate"] <= 0.05
    validation = read_validation(robot_run)
    assert len(validation.row) == record.summary["validation_successes"] + record.summary["validation_failures"]
    alike = lookalikes(robot(), robot_run, count=3)
    failures = validation.probability[~validation.is_success]
    np.testing.assert_allclose(alike.probability, np.sort(failures)[::-1][:3])
    assert alike.images == {} and alike.states.shape == (3, 19)


def test_the_same_seed_gives_the_same_classifier(tmp_path: Path) -> None:
    first, second, other = tmp_path / "first", tmp_path / "second", tmp_path / "other"
    few = robot(demo_episodes=6, suboptimal_episodes=2, classifier_steps=20)
    for config, folder in ((few, first), (few, second), (dataclasses.replace(few, seed=1), other)):
        run_classifier(config, folder, Silent())
    assert same_checkpoint(first / "classifier.npz", second / "classifier.npz")
    assert not same_checkpoint(first / "classifier.npz", other / "classifier.npz")
    assert (first / "validation.csv").read_bytes() == (second / "validation.csv").read_bytes()


def test_the_classifier_rewards_an_insertion_and_ends_the_episode(robot_run: Path) -> None:
    environment = rewarded(make("hirol_fixed_gripper", ROBOT), robot_run / "classifier.npz", "the robot")
    outcomes = []
    for episode in range(5):
        observation, _ = environment.reset(seed=100 + episode)
        policy = scripted_policy("expert", environment, np.random.default_rng(episode))
        rewards, deep, done = [], [], False
        while not done:
            observation, reward, terminated, truncated, info = environment.step(policy(observation))
            rewards.append(reward)
            deep.append(info["task_success"])
            assert info["success"] == terminated == bool(reward)
            done = terminated or truncated
        outcomes.append((sum(rewards), deep[-1]))
    assert sum(reward == 1.0 and inserted for reward, inserted in outcomes) >= 4
    environment.close()


def test_a_stopped_classifier_goes_on_to_the_same_bytes(robot_run: Path, tmp_path: Path) -> None:
    config, halves, whole = robot(classifier_data=str(robot_run)), tmp_path / "halves", tmp_path / "whole"
    with pytest.raises(Stopped, match=r"stopped at step \d+, saved"):
        run_classifier(config, halves, StopAt(5))
    assert read_run(halves).status == "stopped" and not (halves / "classifier.npz").exists()
    run_classifier(config, halves, Silent())
    run_classifier(config, whole, Silent())
    assert same_checkpoint(halves / "classifier.npz", whole / "classifier.npz")
    assert (halves / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_task_that_reports_no_success_is_refused() -> None:
    with pytest.raises(ExperimentError, match="recorded on tasks that report success"):
        record_labelled("Pendulum-v1", {}, {"random": 1}, 2, 0)


def spots(folder: Path) -> list[str]:
    """Success: a bright square on the left of the picture; elsewhere in failures. The state says nothing."""
    generator = np.random.default_rng(0)
    for name in ("success", "failure"):
        trajectories = []
        for number in range(8):
            made = trajectory(6, seed=number + 100 * (name == "success"), observation_size=2)
            frames = generator.integers(0, 60, (7, SIZE, SIZE, 3), dtype=np.uint8)
            column = 1 if name == "success" else SIZE // 2 + number % 4
            frames[:, SIZE // 3 : 2 * SIZE // 3, column : column + 3] = 250
            images = {camera: frames.copy() for camera in ("back", "front")}
            trajectories.append(dataclasses.replace(made, images=images))
        write_hil_serl(folder / f"{name}.pkl", trajectories)
    return [str(folder / "success.pkl"), str(folder / "failure.pkl")]


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    run_classifier(toy(classifier_data=spots(folder), augmentation_padding=1), folder / "run", Silent())
    return folder / "run"


@pytest.mark.slow
def test_an_image_classifier_learns_what_the_state_does_not_say(image_run: Path) -> None:
    summary = read_run(image_run).summary
    assert summary["recall"] >= 0.9 and summary["false_positive_rate"] == 0.0
    config = toy(classifier_data=[str(image_run.parent / f"{name}.pkl") for name in ("success", "failure")])
    assert {name: frames.shape for name, frames in lookalikes(config, image_run, 3).images.items()} == {
        "back": (3, SIZE, SIZE, 3),
        "front": (3, SIZE, SIZE, 3),
    }


@pytest.mark.slow
def test_an_image_classifier_decides_on_what_cameras_see(image_run: Path) -> None:
    register()
    with pytest.raises(CheckpointError, match="trained on camera back, but Pendulum-v1 has no cameras"):
        rewarded(make("Pendulum-v1"), image_run / "classifier.npz", "Pendulum-v1")
    environment = rewarded(make(NAME), image_run / "classifier.npz", NAME)
    environment.reset(seed=0)
    _, _, _, _, info = environment.step(np.ones(1, np.float32))
    assert 0.0 <= info["success_probability"] <= 1.0 and "task_success" in info


def write_untrained(path: Path, size: int = SIZE, horizon: int = 1, cameras: tuple[str, ...] = ("back",)) -> None:
    sight = PixelConfig(cameras, size, size, horizon, encoder="small", is_frozen=False, state_width=0)
    config = RewardClassifier(0, (8,), 0.0, 1e-3, sight)
    shapes = jax.eval_shape(partial(model.create, config), jax.random.key(0), jnp.zeros(0), jnp.zeros(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    model.save(path, config, state, Decision(0.5, 0.25, 1))


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({"size": 12}, r"trained on images \[1, 12, 12, 3\] of camera back, but .*Spot-v0 has \[1, 16, 16, 3\]"),
        ({"horizon": 2}, r"trained on images \[2, 16, 16, 3\] of camera back, but .* has \[1, 16, 16, 3\]"),
        ({"cameras": ("top",)}, "trained on camera top, but .*Spot-v0 has cameras back, front"),
    ],
)
def test_a_classifier_of_other_cameras_is_refused(made: dict, sentence: str, tmp_path: Path) -> None:
    register()
    write_untrained(tmp_path / "classifier.npz", **made)
    with pytest.raises(CheckpointError, match=sentence):
        rewarded(make(NAME), tmp_path / "classifier.npz", NAME)


def test_another_checkpoint_is_no_classifier(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "warmup.npz", {"agent": jnp.zeros(2)}, {"network": {}})
    with pytest.raises(CheckpointError, match="warmup.npz is another checkpoint: expected a reward classifier"):
        rewarded(make("Pendulum-v1"), tmp_path / "warmup.npz", "Pendulum-v1")


def test_a_classifier_of_another_state_is_refused(robot_run: Path) -> None:
    with pytest.raises(CheckpointError, match="states of size 19, but Pendulum-v1 has states of size 3"):
        rewarded(make("Pendulum-v1"), robot_run / "classifier.npz", "Pendulum-v1")


def test_weights_and_encoder_must_fit() -> None:
    with pytest.raises(ParameterError, match="'resnet10_frozen' needs encoder_weights"):
        ClassifierConfig(encoder="resnet10_frozen")
    with pytest.raises(ParameterError, match="must be 'resnet10' or 'resnet10_frozen', found 'small'"):
        ClassifierConfig(encoder_weights="resnet10_params.pkl")


def test_images_that_are_not_there_are_missed(tmp_path: Path) -> None:
    config = toy(classifier_data=torn([4, 3], {3, 6}, tmp_path), classifier_inputs="images")
    with pytest.raises(DataError, match="classifier_inputs 'images' needs data with images, found no cameras"):
        run_classifier(config, tmp_path / "run", Silent())


def test_episodes_that_share_nothing_stay_apart() -> None:
    data = dataset_of(trajectory(3, seed=1), trajectory(2, seed=2))
    assert episodes_of_rows(data).tolist() == [0, 0, 0, 1, 1]
