"""Steps on their way to a learner elsewhere: nothing is lost, each frame is kept once, and no file is trusted."""

import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training_samples import settings
from wsrl_kit.agent.transition import Transition
from wsrl_kit.envs.human import INTERVENTION
from wsrl_kit.envs.make import make
from wsrl_kit.robot.takeover import CONFIRMED
from wsrl_kit.training import start as agents
from wsrl_kit.training.episode import EnvironmentStep
from wsrl_kit.training.spool import Spool, decoded, encoded

CONFIG = settings(exp_name="Pendulum-v1", environment_options={})
STATIC, _ = agents.create(CONFIG, make("Pendulum-v1", {}), None)


def episode(count: int, horizon: int = 2, ends: bool = True, **info: Any) -> list[EnvironmentStep]:
    """Steps with images of noise, which nothing compresses; each shows `horizon` of them."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count + horizon, 64, 64, 3), np.uint8)
    states = generator.normal(size=(count + 1, 3)).astype(np.float32)
    steps = []
    for at in range(count):
        shown, following = ({"wrist": images[at + late : at + late + horizon]} for late in (0, 1))
        numbers = (np.float32(1), np.float32(1), np.float32(-np.inf))
        action, reward = np.full(1, at, np.float32), np.asarray(np.float32(at))
        row = Transition(states[at], action, reward, states[at + 1], *numbers, cloned=np.float32(0))  # type: ignore[arg-type]
        is_last = ends and at == count - 1
        stored = (row, shown, following)
        steps.append(
            EnvironmentStep(
                action, False, float(at), reward, False, is_last, info, None, states[at + 1], following, stored
            )
        )
    return steps


def test_a_step_is_read_as_it_was_and_no_frame_is_recorded_twice() -> None:
    human = np.array([0.5], np.float32)
    taken = episode(5, success=True, contact_force=np.float64(2.5), unknown=object(), **{INTERVENTION: human})
    records = [encoded(step, continues=at > 0) for at, step in enumerate(taken)]
    shown: dict[str, np.ndarray] = {}
    for record, step in zip(records, taken, strict=True):
        found = decoded(record, shown, STATIC)
        assert found is not None
        shown = found.stored[2]
        assert found.info.keys() == {"success", "contact_force", INTERVENTION}
        assert (found.info["success"], found.info["contact_force"]) == (True, 2.5)
        assert (found.truncated, found.task_reward, found.reward) == (step.truncated, step.task_reward, step.reward)
        for name in ("observation", "action", "next_observation", "reward", "mask", "cloned", "monte_carlo_return"):
            np.testing.assert_array_equal(getattr(found.stored[0], name), getattr(step.stored[0], name))
        for side in (1, 2):
            np.testing.assert_array_equal(found.stored[side]["wrist"], step.stored[side]["wrist"])
    frame = 64 * 64 * 3
    assert 7 * frame < sum(map(len, records)) < 7.5 * frame


def test_a_confirmed_step_keeps_what_the_next_classifier_learns_from() -> None:
    (step,) = episode(1, **{CONFIRMED: False})
    seen = {"state": np.zeros(3, np.float32), "wrist": np.ones((8, 8, 3), np.uint8)}
    found = decoded(encoded(step._replace(before=seen, observation=seen), False), {}, STATIC)
    assert found is not None and found.info[CONFIRMED] is False
    for observation in (found.before, found.observation):
        np.testing.assert_array_equal(observation["wrist"], seen["wrist"])


def test_steps_wait_on_disk_until_they_are_cut(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 7)
    for step in episode(3):
        spool.append(step)
    spool.append(None)
    assert (spool.first, spool.end, spool.counts()) == (7, 11, (3, 2))
    spool.cut(9)
    assert sorted(path.name for path in tmp_path.glob("*.record")) == ["0000000009.record", "0000000010.record"]
    # Opened again by a process that knows a checkpoint of the first eleven.
    reopened = Spool(tmp_path, 11)
    assert (reopened.end, reopened.counts()) == (11, (0, 0))
    reopened.close()
    assert not tmp_path.exists()


def test_an_episode_that_a_process_did_not_end_is_cut(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    for step in episode(4, ends=False):
        spool.append(step)
    reopened = Spool(tmp_path, 0)
    assert (reopened.end, reopened.counts()) == (5, (4, 1))
    assert decoded(reopened.read(4), {}, STATIC) is None
    assert Spool(tmp_path, 0).end == 5


TOO_LARGE = zlib.compress(bytes(2**27 + 1))


@pytest.mark.parametrize("content", [b"", b"damaged", zlib.compress(pickle.dumps(print)), TOO_LARGE])
def test_a_damaged_record_ends_the_spool_and_runs_nothing(tmp_path: Path, content: bytes) -> None:
    spool = Spool(tmp_path, 0)
    for step in episode(4):
        spool.append(step)
    (tmp_path / "0000000002.record").write_bytes(content)
    reopened = Spool(tmp_path, 0)
    # Two steps, and the cut of their episode.
    assert (reopened.end, reopened.counts()) == (3, (2, 1))
    assert not (tmp_path / "0000000003.record").exists()
