"""The parameters of a run: names and defaults that users know, and a sentence for every bad value."""

import dataclasses
import re
from typing import Any

import pytest

from wsrl_kit import parameters
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import ParameterError


def test_defaults_are_those_that_users_know() -> None:
    config = WSRLConfig()
    known = {
        "exp_name": "hirol_fixed_gripper",
        "offline_data_path": None,
        "demo_path": None,
        "checkpoint_path": None,
        "warmup_steps": 50_000,
        "initial_offline_ratio": 1.0,
        "offline_decay_rate": 0.999,
        "min_offline_ratio": 0.5,
        "demo_weight": 2.0,
        "success_weight_bonus": 1.5,
        "retention_ratio": 0.2,
        "use_prioritized_replay": True,
        "priority_alpha": 0.6,
        "initial_priority_beta": 0.4,
        "final_priority_beta": 1.0,
    }
    assert {name: getattr(config, name) for name in known} == known


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("initial_offline_ratio", 1.5, "initial_offline_ratio must be a float in [0, 1], found 1.5"),
        ("initial_offline_ratio", -0.1, "initial_offline_ratio must be a float in [0, 1], found -0.1"),
        ("min_offline_ratio", 2.0, "min_offline_ratio must be a float in [0, 1], found 2.0"),
        ("offline_decay_rate", 1.001, "offline_decay_rate must be a float in [0, 1], found 1.001"),
        ("retention_ratio", -0.2, "retention_ratio must be a float in [0, 1], found -0.2"),
        ("priority_alpha", 1.1, "priority_alpha must be a float in [0, 1], found 1.1"),
        ("initial_priority_beta", float("nan"), "initial_priority_beta must be a float in [0, 1], found nan"),
        ("warmup_steps", 0, "warmup_steps must be an int >= 1, found 0"),
        ("online_steps", 0, "online_steps must be an int >= 1, found 0"),
        ("batch_size", 0, "batch_size must be an int >= 1, found 0"),
        ("update_to_data_ratio", 0, "update_to_data_ratio must be an int >= 1, found 0"),
        ("replay_capacity", 0, "replay_capacity must be an int >= 1, found 0"),
        ("hidden_sizes", [256, 0], "hidden_sizes must be a list[int], every number >= 1, found [256, 0]"),
        ("discount", 1.01, "discount must be a float in [0, 1], found 1.01"),
        ("dropout_rate", 0.95, "dropout_rate must be a float in [0, 0.9], found 0.95"),
        ("critic_learning_rate", -1e-3, "critic_learning_rate must be a float >= 0, found -0.001"),
        ("initial_temperature", 0.0, "initial_temperature must be a float >= 1e-08, found 0.0"),
        ("seed", 2**32, "seed must be an int in [0, 4294967295], found 4294967296"),
        ("human", "robot", "human must be one of 'none', 'scripted', 'person', found 'robot'"),
        ("retention_unit", "step", "retention_unit must be one of 'transition', 'trajectory', found 'step'"),
        ("critic_subset_size", 3, "critic_subset_size must be at most critic_ensemble_size (2), found 3"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(ParameterError, match=f"^{re.escape(sentence)}$"):
        WSRLConfig(**{name: value})


def test_a_subset_as_large_as_the_ensemble_is_allowed() -> None:
    assert WSRLConfig(critic_ensemble_size=10, critic_subset_size=10).critic_subset_size == 10


def test_a_floor_above_the_initial_ratio_is_allowed() -> None:
    assert WSRLConfig(initial_offline_ratio=0.0, min_offline_ratio=0.5).min_offline_ratio == 0.5


def test_every_parameter_is_explained_and_shown() -> None:
    text = str(parameters.table(WSRLConfig(discount=0.9)))
    for field in dataclasses.fields(WSRLConfig):
        assert field.metadata["help"]
        assert field.name in text


def test_a_config_is_fixed_and_its_defaults_are_its_own() -> None:
    config = WSRLConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.discount = 0.5  # type: ignore[misc]
    config.hidden_sizes.append(1)
    assert WSRLConfig().hidden_sizes == [256, 256]
