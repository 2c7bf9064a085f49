"""Presets: published methods as parameters, and what a user's own values do to them."""

import dataclasses
from pathlib import Path

import pytest

from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.config.presets import PRESETS
from wsrl_kit.errors import ParameterError
from wsrl_kit.notebook.parameters import check_values, from_notebook, read_notebook
from wsrl_kit.parameters import build

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
STAGES = ["01_offline_warmup.ipynb", "02_robot_finetune.ipynb"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_config(name: str) -> None:
    config = WSRLConfig.of_preset(name)
    assert {key: getattr(config, key) for key in PRESETS[name]} == PRESETS[name]


def test_the_kits_preset_is_its_defaults() -> None:
    assert WSRLConfig.of_preset("kit") == WSRLConfig()


def test_wsrl_is_the_published_protocol() -> None:
    config = WSRLConfig.of_preset("wsrl")
    assert (config.critic_ensemble_size, config.critic_subset_size, config.update_to_data_ratio) == (10, 2, 4)
    assert (config.frozen_rollout_steps, config.retention_ratio, config.initial_offline_ratio) == (5_000, 0.0, 0.0)
    assert (config.conservative_loss, config.conservative_online_weight) == ("calql", 0.0)
    rates = (config.actor_learning_rate, config.critic_learning_rate, config.temperature_learning_rate)
    assert rates == (1e-4, 3e-4, 1e-4)
    assert (config.discount, config.target_update_rate, config.backup_entropy, config.layer_norm) == (
        0.99,
        0.005,
        False,
        True,
    )


def test_published_methods_state_their_initial_weights_and_temperature() -> None:
    names = ("initialisation", "output_scale", "temperature_parameterisation", "initial_temperature")
    stated = {
        name: (*(values[parameter] for parameter in names), values.get("last_hidden_scale"))
        for name, values in PRESETS.items()
        if name not in ("kit", "advised", "small")
    }
    assert stated == {
        "sac": ("xavier", 1.0, "exponential", 1.0, None),
        "redq": ("xavier", 1.0, "exponential", 1.0, None),
        "rlpd": ("xavier", 1.0, "exponential", 1.0, None),
        "wsrl": ("orthogonal", 2**0.5, "softplus", 1.0, 0.01),
        "calql": ("orthogonal", 0.01, "exponential", 1.0, None),
        "hil_serl": ("xavier", 1.0, "softplus", 0.01, None),
    }


def test_rlpd_samples_symmetrically_and_redq_knows_no_data() -> None:
    rlpd, redq = WSRLConfig.of_preset("rlpd"), WSRLConfig.of_preset("redq")
    assert (rlpd.initial_offline_ratio, rlpd.min_offline_ratio, rlpd.offline_ratio_schedule) == (0.5, 0.5, "constant")
    assert rlpd.update_to_data_ratio == redq.update_to_data_ratio == 20
    assert (rlpd.layer_norm, redq.layer_norm) == (True, False)
    assert redq.retention_ratio == 0.0


def test_a_value_that_is_given_wins_over_the_preset_even_if_it_is_the_default() -> None:
    assert WSRLConfig().discount == 0.97
    assert WSRLConfig.of_preset("wsrl", discount=0.97).discount == 0.97
    values = {"preset": "wsrl", "discount": 0.97, "batch_size": None, "critic_ensemble_size": None}
    config = build(WSRLConfig, values)
    assert (config.discount, config.batch_size, config.critic_ensemble_size) == (0.97, 256, 10)


@pytest.mark.parametrize("notebook", STAGES)
def test_a_notebook_takes_from_the_preset_what_its_cell_leaves_at_none(notebook: str) -> None:
    described = read_notebook(NOTEBOOKS / notebook)
    for name in PRESETS:
        values = described.defaults | {"preset": name, "offline_data_path": None}
        assert build(WSRLConfig, values) == WSRLConfig.of_preset(name)
    given = {"preset": "wsrl", "discount": 0.5, "more": {"batch_size": 32}}
    own = from_notebook({**described.defaults} | given, WSRLConfig, *described.classes[1:])[0]
    assert (own.discount, own.critic_ensemble_size, own.batch_size) == (0.5, 10, 32)


@pytest.mark.parametrize("notebook", STAGES)
def test_no_parameter_of_a_preset_is_fixed_by_a_notebook(notebook: str) -> None:
    defaults = read_notebook(NOTEBOOKS / notebook).defaults
    governed = set().union(*PRESETS.values())
    assert {name: defaults[name] for name in governed & set(defaults)} == dict.fromkeys(governed & set(defaults))


@pytest.mark.parametrize("notebook", STAGES)
def test_an_unknown_preset_is_refused_with_the_nearest(notebook: str) -> None:
    described = read_notebook(NOTEBOOKS / notebook)
    with pytest.raises(ParameterError, match="found 'rlpdd': did you mean 'rlpd'"):
        check_values(described, {"preset": "rlpdd"})
    known = "sac, redq, rlpd, wsrl, calql, hil_serl, kit, advised, small"
    with pytest.raises(ParameterError, match=f"found 'x': known are {known}"):
        WSRLConfig.of_preset("x")
    with pytest.raises(ParameterError, match="no parameter named discout: did you mean discount"):
        WSRLConfig.of_preset("rlpd", discout=0.9)


def test_every_parameter_of_a_run_can_be_chosen_in_the_notebook_of_its_stage() -> None:
    offered = set().union(*(read_notebook(NOTEBOOKS / notebook).fields for notebook in STAGES))
    assert {field.name for field in dataclasses.fields(WSRLConfig)} <= offered


def test_ablations_are_of_the_small_preset() -> None:
    config = build(WSRLConfig, read_notebook(NOTEBOOKS / "03_ablation_warmup.ipynb").defaults)
    assert config == WSRLConfig.of_preset(
        "small", offline_data_path="runs/data", warmup_steps=3_000, online_steps=2_000
    )
