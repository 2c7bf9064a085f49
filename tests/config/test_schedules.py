"""Schedules against their formulas, on the host and traced."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsrl_kit.agent.state import learning_rate_schedule
from wsrl_kit.config import schedules
from wsrl_kit.config.config import WSRLConfig


def offline_ratio(**changed: object) -> np.ndarray:
    return schedules.run_schedules(WSRLConfig(**changed))["offline ratio"]


def test_the_default_offline_ratio_is_the_seed_design() -> None:
    ratio = offline_ratio()
    count = np.arange(10_000)
    np.testing.assert_allclose(ratio, np.maximum(0.5, 0.999**count), rtol=1e-4)
    assert ratio[0] == 1.0
    assert ratio[-1] == 0.5
    assert ratio.dtype == np.float32


def test_the_floor_holds_from_the_start_where_the_ratio_begins_below_it() -> None:
    for kind in ("exponential", "linear", "constant"):
        ratio = offline_ratio(
            offline_ratio_schedule=kind, initial_offline_ratio=0.2, min_offline_ratio=0.5, online_steps=50
        )
        np.testing.assert_array_equal(ratio, np.full(50, 0.5, np.float32))


@pytest.mark.parametrize(("rate", "expected"), [(0.0, [1, 0, 0]), (0.5, [1, 0.5, 0.25]), (1.0, [1, 1, 1])])
def test_the_exponential_ratio_at_the_ends_of_its_rate(rate: float, expected: list[float]) -> None:
    ratio = offline_ratio(offline_decay_rate=rate, min_offline_ratio=0.0, online_steps=3)
    np.testing.assert_allclose(ratio, expected)


def test_the_linear_and_the_constant_offline_ratio() -> None:
    linear = offline_ratio(
        offline_ratio_schedule="linear", offline_decay_steps=4, min_offline_ratio=0.2, online_steps=7
    )
    np.testing.assert_allclose(linear, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2], rtol=1e-6)
    constant = offline_ratio(offline_ratio_schedule="constant", initial_offline_ratio=0.7, online_steps=3)
    np.testing.assert_allclose(constant, [0.7] * 3)


def test_beta_rises_linearly_over_the_online_steps() -> None:
    beta = schedules.run_schedules(WSRLConfig(online_steps=100, use_prioritized_replay=True))["PER beta"]
    np.testing.assert_allclose(beta, 0.4 + 0.6 * np.arange(100) / 100, rtol=1e-5)
    assert schedules.priority_beta(0.4, 1.0, 100)(1000) == 1.0


def test_uniform_replay_has_no_beta() -> None:
    assert "PER beta" not in schedules.run_schedules(WSRLConfig(online_steps=100, use_prioritized_replay=False))


def test_behavior_cloning_stays_or_fades_from_its_weight_in_warmup_and_only_after_one() -> None:
    given = {"behavior_cloning_weight": 8.0, "behavior_cloning_online_weight": 2.0, "behavior_cloning_fade_steps": 3}
    weight = schedules.run_schedules(WSRLConfig(checkpoint_path="warmup.npz", online_steps=5, **given))
    np.testing.assert_allclose(weight["behavior-cloning weight"], [8.0, 6.0, 4.0, 2.0, 2.0], rtol=1e-6)
    assert "behavior-cloning weight" not in schedules.run_schedules(WSRLConfig(online_steps=5, **given))
    at_once = given | {"behavior_cloning_fade_steps": 0}
    weight = schedules.run_schedules(WSRLConfig(checkpoint_path="warmup.npz", online_steps=2, **at_once))
    np.testing.assert_array_equal(weight["behavior-cloning weight"], [2.0, 2.0])
    held = {"behavior_cloning_weight": 8.0, "checkpoint_path": "warmup.npz", "online_steps": 3}
    for changes, expected in (({}, [8, 8, 8]), ({"behavior_cloning_fade_steps": 2}, [8, 4, 0])):
        weight = schedules.run_schedules(WSRLConfig(**held | changes))
        np.testing.assert_allclose(weight["behavior-cloning weight"], expected, rtol=1e-6)
    for off in ({"behavior_cloning_online_weight": 0.0}, {"behavior_cloning_weight": 0.0}):
        assert "behavior-cloning weight" not in schedules.run_schedules(WSRLConfig(**held | off))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1, 1]),
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [0, 0.5, 1, 0.5 + 0.25 * np.sqrt(2), 0.5, 0.5 - 0.25 * np.sqrt(2), 0, 0]),
    ],
)
def test_learning_rates_rise_and_then_take_their_shape(kind: str, expected: list[float]) -> None:
    schedule = learning_rate_schedule(kind, 2.0, warmup_steps=2, decay_steps=6)
    np.testing.assert_allclose(schedules.evaluate(schedule, 8), 2.0 * np.array(expected), atol=1e-6)


def test_a_learning_rate_without_a_rise_starts_at_its_peak() -> None:
    for kind in ("constant", "linear", "cosine"):
        assert learning_rate_schedule(kind, 0.5, 0, 10)(0) == 0.5


def test_a_schedule_is_traced_and_compiles_once() -> None:
    schedule = schedules.exponential_with_floor(1.0, 0.9, 0.1)
    traced = jax.jit(schedule)
    for count in range(5):
        assert float(traced(jnp.int32(count))) == pytest.approx(0.9**count, rel=1e-5)
    assert traced._cache_size() == 1


def test_the_learning_rate_of_a_run_goes_on_after_the_warmup_and_ends_at_zero() -> None:
    run = {"learning_rate_schedule": "linear", "warmup_steps": 40, "online_steps": 40, "update_to_data_ratio": 4}
    share = schedules.run_schedules(WSRLConfig(**run, checkpoint_path="w.npz"))["learning rate / peak"]
    np.testing.assert_allclose(share, 1 - (40 + 4 * np.arange(40)) / 200, rtol=1e-5)
    assert schedules.run_schedules(WSRLConfig(**run))["learning rate / peak"][0] == 1.0


def test_the_offline_share_counts_whole_examples_of_real_batches() -> None:
    config = WSRLConfig(
        online_steps=40,
        batch_size=10,
        offline_decay_rate=0.9,
        min_offline_ratio=0.15,
        frozen_rollout_steps=5,
        demo_path="x",
    )
    counts = [int(10 * max(0.15, 0.9**step) + 1e-3) for step in range(40)]
    assert schedules.offline_share(config, 7, 9) == pytest.approx(np.mean(counts[7:16]) / 10)
    assert schedules.offline_share(config, 0, 40) == pytest.approx(np.mean(counts[5:]) / 10)
    assert np.isnan(schedules.offline_share(config, 0, 5))
    assert schedules.offline_share(replace(config, demo_path=None), 0, 40) == 0
