"""Published methods as parameters of `WSRLConfig`, each value with its source; others keep the kit's defaults.

The data are the user's to give (`demo_path`: none for sac, redq and wsrl; all of it for rlpd and calql; the
demonstrations for hil_serl).

Sources, by letter:
    [S]  SAC, Haarnoja et al. 2018, arXiv 1812.05905, appendix; [s] its code, rail-berkeley/softlearning
    [R]  REDQ, Chen et al. 2021, arXiv 2101.05982, appendix; [r] its code, redq/algos/core.py and redq_sac.py
    [P]  RLPD, Ball et al. 2023, arXiv 2302.02948; [p] its code, configs/ and the README's command for Adroit
    [Q]  Cal-QL, Nakamoto et al. 2023, arXiv 2303.05479; [q] its code, scripts/run_adroit.sh and defaults
    [W]  WSRL, Zhou et al. 2024, arXiv 2412.07762; [w] its code, experiments/configs and scripts for Adroit
    [h]  HIL-SERL, Luo et al. 2024, arXiv 2410.21845: its code, utils/launcher.py and experiments/config.py

Initial weights and the temperature's parameterisation are from the code:
    [s] softlearning/models/feedforward.py (Keras's defaults), algorithms/sac.py
    [p] rlpd/networks/mlp.py, rlpd/agents/sac/temperature.py
    [q] JaxCQL/model.py with orthogonal_init of conservative_sac_main.py, conservative_sac.py
    [w] wsrl/common/initialization.py, networks/mlp.py, networks/actor_critic_nets.py, networks/lagrange.py
    [h] serl_launcher/common/common.py (default_init), networks/lagrange.py

Departures of every preset from their code:
    - standard deviations are clipped to [1e-5, 5] (HIL-SERL's; WSRL: [1e-5, 10]; REDQ, RLPD, Cal-QL: the logarithm to
    [-20, 2]; SAC's code: a softplus, not clipped);
    - one output layer gives the actor's mean and standard deviation, as in SAC and Cal-QL (others: one each); Cal-QL
    also learns a factor and an offset of the log standard deviation, which start at 1 and -1;
    - the temperature's loss is linear in the temperature (REDQ and Cal-QL: in its logarithm);
    - actor and critics have the same hidden layers (RLPD: LayerNorm in the critics only; WSRL and Cal-QL on Adroit: 512
    units, three layers in the critics, two in the actor);
    - the actor's step takes the examples of all critic updates since the last (as WSRL; RLPD and REDQ: the last batch);
    the temperature's step takes that step's actions (WSRL's code: others, at the next observations);
    - a network that is not updated rests (`official_update_order`: the authors' way, see `authors_order`);
    - CQL's term covers all critics (WSRL's code: a random two); its multiplier steps once per actor step;
    - examples are drawn in strata, and a time limit bootstraps (HIL-SERL's code: it does not);
    - with cameras: the critics' loss alone trains the encoder (HIL-SERL: the actor's trains its state part too);
    spatial features are dropped in the actor's loss alone (also where next actions are drawn); crops differ between
    cameras and are the same for all frames of a stack (HIL-SERL: the reverse).
"""

from difflib import get_close_matches
from typing import Any

from wsrl_kit.errors import ParameterError

UNWEIGHTED: dict[str, Any] = {
    # None of the papers weighs or prioritizes examples, or clones behavior beside its own losses.
    "demo_weight": 1.0,
    "source_weights": {},
    "success_weight_bonus": 1.0,
    "quality_weighting": False,
    "behavior_cloning_weight": 0.0,
    "use_prioritized_replay": False,
}

SAC: dict[str, Any] = UNWEIGHTED | {
    "batch_size": 256,  # [S]
    "hidden_sizes": [256, 256],  # [S]
    "activation": "relu",  # [S]
    "layer_norm": False,  # [S] has none
    "initialisation": "xavier",  # [s]; [r] and [p] keep it
    "output_scale": 1.0,  # [s], [r], [p]: Xavier's rule for every layer
    "discount": 0.99,  # [S]
    "target_update_rate": 0.005,  # [S]
    "actor_learning_rate": 3e-4,  # [S]
    "critic_learning_rate": 3e-4,  # [S]
    "temperature_learning_rate": 3e-4,  # [S]
    "target_entropy_per_dimension": -1.0,  # [S]
    "temperature_parameterisation": "exponential",  # [s]; [r], [p] and [q] keep it
    "initial_temperature": 1.0,  # [s]; all but [h] keep it
    "backup_entropy": True,  # [S], equation 3
    "critic_ensemble_size": 2,  # [S]
    "critic_subset_size": 2,  # [S]
    "actor_value": "minimum",  # [S]; [q] and [w] keep it
    "update_to_data_ratio": 1,  # [S], gradient steps
    "replay_capacity": 1_000_000,  # [S]
    "random_steps": 5_000,  # [R]; [S] does not say
    "retention_ratio": 0.0,  # no offline data
}

REDQ: dict[str, Any] = SAC | {
    "critic_ensemble_size": 10,  # [R]
    "critic_subset_size": 2,  # [R]
    "actor_value": "mean",  # [R], algorithm 1
    "update_to_data_ratio": 20,  # [R]
}

RLPD: dict[str, Any] = REDQ | {
    "hidden_sizes": [256, 256, 256],  # [p] for Adroit
    "layer_norm": True,  # [P], section 4.2
    "target_entropy_per_dimension": -0.5,  # [p]
    "backup_entropy": False,  # [p] for Adroit
    "offline_ratio_schedule": "constant",  # [P], section 4.1: symmetric sampling
    "initial_offline_ratio": 0.5,  # [P]
    "min_offline_ratio": 0.5,  # [P]
    "retention_ratio": 1.0,  # all of the data
}

CALQL: dict[str, Any] = SAC | {
    "initialisation": "orthogonal",  # [q]
    "output_scale": 0.01,  # [q]
    "warmup_steps": 20_000,  # [q]: 20 epochs of 1,000 updates
    "conservative_loss": "calql",  # [Q]
    "conservative_weight": 1.0,  # [q] cql_min_q_weight
    "conservative_online_weight": 1.0,  # [q]: the same online
    "cql_actions": 10,  # [q], as CQL, arXiv 2006.04779, appendix F
    "cql_temperature": 1.0,  # [q]
    "cql_max_target_backup": True,  # [q]
    "cql_target_gap": None,  # [q]: a fixed weight for Adroit (antmaze: weight 5, gap 0.8)
    "reward_scale": 10.0,  # [q]
    "reward_bias": -5.0,  # [q]: rewards of -5 and +5, here from 0 and 1 (antmaze's; Adroit's -1 and 0 take +5)
    "actor_learning_rate": 1e-4,  # [q]
    "temperature_learning_rate": 1e-4,  # [q]
    "backup_entropy": False,  # [q]
    "offline_ratio_schedule": "constant",  # [q] mixing_ratio
    "initial_offline_ratio": 0.5,  # [q]
    "min_offline_ratio": 0.5,  # [q]
    "retention_ratio": 1.0,  # all of the data
    "random_steps": 0,  # it starts from its warmup
}

WSRL: dict[str, Any] = CALQL | {
    "conservative_online_weight": 0.0,  # [W], section 5: plain SAC online
    "max_target_backup_online": True,  # [w] finetune.py ends the term alone: use_cql_loss
    "critic_ensemble_size": 10,  # [W]
    "critic_subset_size": 2,  # [W]
    "layer_norm": True,  # [W], in both networks
    "shared_critic_output": True,  # [w] Critic in networks/actor_critic_nets.py
    "output_scale": 2**0.5,  # [w]: orthogonal_init's for every layer but the last hidden one
    "last_hidden_scale": 0.01,  # [w] kernel_scale_final for Adroit
    "temperature_parameterisation": "softplus",  # [w]
    "update_to_data_ratio": 4,  # [W]
    "frozen_rollout_steps": 5_000,  # [W], [w] warmup_steps
    "initial_offline_ratio": 0.0,  # [W]: no offline data is kept
    "min_offline_ratio": 0.0,  # [W]
    "retention_ratio": 0.0,  # [W]
}

HIL_SERL: dict[str, Any] = UNWEIGHTED | {
    "batch_size": 256,  # [h]
    "hidden_sizes": [256, 256],  # [h]
    "activation": "tanh",  # [h]
    "layer_norm": True,  # [h]
    "initialisation": "xavier",  # [h]
    "output_scale": 1.0,  # [h] Xavier's rule for every layer
    "discount": 0.97,  # [h]
    "target_update_rate": 0.005,  # [h]
    "actor_learning_rate": 3e-4,  # [h]
    "critic_learning_rate": 3e-4,  # [h]
    "temperature_learning_rate": 3e-4,  # [h]
    "target_entropy_per_dimension": -0.5,  # [h]
    "temperature_parameterisation": "softplus",  # [h]
    "initial_temperature": 1e-2,  # [h]
    "backup_entropy": False,  # [h]
    "critic_ensemble_size": 2,  # [h]
    "critic_subset_size": 2,  # [h]: all of them
    "shared_critic_output": True,  # [h] Critic in networks/actor_critic_nets.py
    "actor_value": "mean",  # [h]
    "update_to_data_ratio": 2,  # [h] cta_ratio
    "replay_capacity": 200_000,  # [h]
    "offline_ratio_schedule": "constant",  # [h]: half demonstrations, half online
    "initial_offline_ratio": 0.5,  # [h]
    "min_offline_ratio": 0.5,  # [h]
    "retention_ratio": 1.0,  # [h]: all demonstrations
    "frozen_rollout_steps": 100,  # [h] training_starts
    "random_steps": 0,  # [h]
    "encoder": "resnet10_frozen",  # [h], where there are cameras
    "augmentation_padding": 4,  # [h]
}

SMALL: dict[str, Any] = {
    # The kit's own, for ablations on one core a run: half the width and batch, short intervals.
    "batch_size": 128,
    "hidden_sizes": [128, 128],
    "target_update_rate": 0.01,
    "frozen_rollout_steps": 500,
    "random_steps": 100,
    "evaluation_interval": 200,
    "warmup_evaluation_interval": 1_000,
    "log_interval": 50,
}

PRESETS: dict[str, dict[str, Any]] = {
    "sac": SAC,
    "redq": REDQ,
    "rlpd": RLPD,
    "wsrl": WSRL,
    "calql": CALQL,
    "hil_serl": HIL_SERL,
    "kit": {},
    "advised": {"follow_advice": True},
    "small": SMALL,
}
"""Parameters that differ from the kit's defaults or are stated by the source."""


def preset(name: str) -> dict[str, Any]:
    """The parameters of a preset.

    Raises:
        ParameterError: there is no such preset.
    """
    if name not in PRESETS:
        nearest = get_close_matches(str(name), PRESETS, n=1)
        suggestion = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(PRESETS)}"
        raise ParameterError(f"preset must be the name of a preset, found {name!r}: {suggestion}")
    return dict(PRESETS[name])
