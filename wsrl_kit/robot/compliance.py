"""HIL-SERL's compliance parameters on the simulated robot's impedance controller."""

from collections.abc import Mapping
from typing import Any

from wsrl_kit.envs.simulator import mujoco
from wsrl_kit.parameters import check, unknown

_AXES = tuple(f"{sign}{axis}" for sign in ("", "neg_") for axis in "xyz")
LARGEST = {
    "translational_stiffness": 6000.0,
    "translational_damping": 400.0,
    "rotational_stiffness": 300.0,
    "rotational_damping": 30.0,
    "nullspace_stiffness": 100.0,
    "joint1_nullspace_stiffness": 100.0,
    "translational_Ki": 100.0,
    "rotational_Ki": 100.0,
    **{f"{kind}_clip_{axis}": 0.1 for kind in ("translational", "rotational") for axis in _AXES},
}
"""Largest value of every compliance parameter; the smallest is 0 (serl_franka_controllers, compliance_param.cfg)."""


def conformed(given: Mapping[str, Any]) -> dict[str, float]:
    """Parameters clamped to their ranges, as ROS's dynamic_reconfigure does it.

    Raises:
        ParameterError: there is no such parameter, or it is no finite number.
    """
    for name in given:
        if name not in LARGEST:
            raise unknown(name, list(LARGEST), "compliance parameter")
    return {name: min(max(check(name, value, float), 0.0), LARGEST[name]) for name, value in given.items()}


def apply(model: mujoco.MjModel, parameters: Mapping[str, float]) -> None:
    """Set the springs and dampers of `insertion_model` to those of the parameters that they have.

    Upstream clips the error, which is measured minus commanded position: `clip_x` limits the push towards -x, and
    `clip_neg_x` the one towards +x. The model has no integral term and no posture spring, so that `*_Ki` and
    `*nullspace_stiffness` change nothing; its rotational error is the rotation vector, of which upstream's is half.

    Args:
        model: changed in place.
        parameters: every one that `LARGEST` names, the `*_Ki` and `*nullspace_stiffness` apart.
    """
    for axis in range(6):
        kind, name = "translational" if axis < 3 else "rotational", "xyz"[axis % 3]
        stiffness = parameters[f"{kind}_stiffness"]
        model.actuator_gainprm[axis, 0] = stiffness
        model.actuator_biasprm[axis, 1] = -stiffness
        model.actuator_forcerange[axis] = (
            -stiffness * parameters[f"{kind}_clip_{name}"],
            stiffness * parameters[f"{kind}_clip_neg_{name}"],
        )
        model.actuator_biasprm[6 + axis, 2] = -parameters[f"{kind}_damping"]


def of(model: mujoco.MjModel) -> dict[str, float]:
    """The parameters that the model has now."""
    found = {}
    for axis in range(6):
        kind, name = "translational" if axis < 3 else "rotational", "xyz"[axis % 3]
        stiffness = float(model.actuator_gainprm[axis, 0])
        low, high = model.actuator_forcerange[axis]
        found[f"{kind}_stiffness"] = stiffness
        found[f"{kind}_damping"] = -float(model.actuator_biasprm[6 + axis, 2])
        found[f"{kind}_clip_{name}"] = -float(low) / stiffness
        found[f"{kind}_clip_neg_{name}"] = float(high) / stiffness
    return found
