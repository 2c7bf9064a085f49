"""What every endpoint of the robot server does: HIL-SERL's names, inputs and answers, and a few of the kit's own.

The kit's own, which no real robot has:
    images: the cameras' pictures of now, as a NumPy `.npz` of one uint8 (height, width, 3) RGB array per camera.
    sim/status: what `SimulatedArm.truth` says; its answer is how a client knows that the robot is simulated.
    sim/reset: {"seed": n} or nothing; a new episode, with the arm above a hole drawn anew.
    sim/faults: the fields of `Faults` that are to differ from their defaults; {} ends all faults.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Float64

from wsrl_kit.envs.robot_contact import FARTHEST
from wsrl_kit.envs.rotations import euler_of, matrix_of_quaternion
from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import check
from wsrl_kit.robot.faults import Faults, faults_from
from wsrl_kit.robot.simulation import CLOSED, OPEN, SimulatedArm

Answer = Mapping[str, Any] | str | bytes
Endpoint = Callable[[Mapping[str, Any]], Answer]
"""From the fields of the request's JSON (none without a body) to a JSON object, a text, or bytes."""


def endpoints(arm: SimulatedArm, set_faults: Callable[[Faults], None]) -> dict[str, Endpoint]:
    """Every endpoint by its path without the leading slash; those that refuse their input raise ParameterError."""

    def one(key: str, name: str | None = None) -> Endpoint:
        return lambda _: {name or key: arm.state()[key]}

    def text(answer: str, action: Callable[..., object], *arguments: Any) -> Endpoint:
        def endpoint(_: Mapping[str, Any]) -> str:
            action(*arguments)
            return answer

        return endpoint

    def pose(given: Mapping[str, Any]) -> str:
        arm.command(_pose(given))
        return "Moved"

    def euler(_: Mapping[str, Any]) -> Mapping[str, Any]:
        pose = np.array(arm.state()["pose"])
        return {"pose": [*pose[:3].tolist(), *euler_of(matrix_of_quaternion(pose[3:])).tolist()]}

    def update_param(given: Mapping[str, Any]) -> str:
        arm.comply(given)
        return "Updated compliance parameters"

    def set_load(given: Mapping[str, Any]) -> str:
        # The model has no gravity, and so no load to compensate.
        check("mass", given.get("mass"), float, {"minimum": 0.0})
        check("F_x_center_load", given.get("F_x_center_load"), list[float])
        check("load_inertia", given.get("load_inertia"), list[float])
        return "Set Load"

    def move_gripper(given: Mapping[str, Any]) -> str:
        # Robotiq's scale: 0 is open, 255 closed.
        position = min(max(int(check("gripper_pos", given.get("gripper_pos"), float)), 0), 255)
        arm.move_gripper(1 - position / 255)
        return "Moved Gripper"

    def images(_: Mapping[str, Any]) -> bytes:
        buffer = BytesIO()
        np.savez(buffer, allow_pickle=False, **arm.images())
        return buffer.getvalue()

    def reset(given: Mapping[str, Any]) -> str:
        arm.new_episode(check("seed", given.get("seed"), int | None, {"minimum": 0}))
        return "Reset"

    def faults(given: Mapping[str, Any]) -> str:
        set_faults(faults_from(given))
        return "Set faults"

    return {
        "getstate": lambda _: arm.state(),
        "getpos": one("pose"),
        "getpos_euler": euler,
        "getvel": one("vel"),
        "getforce": one("force"),
        "gettorque": one("torque"),
        "getq": one("q"),
        "getdq": one("dq"),
        "getjacobian": one("jacobian"),
        "get_gripper": one("gripper_pos", "gripper"),
        "pose": pose,
        "update_param": update_param,
        "set_load": set_load,
        "move_gripper": move_gripper,
        "startimp": text("Started impedance", arm.start_controller),
        "stopimp": text("Stopped impedance", arm.stop_controller),
        "jointreset": text("Reset Joint", arm.new_episode),
        "clearerr": lambda _: "Clear",
        "activate_gripper": lambda _: "Activated",
        "reset_gripper": text("Reset", arm.move_gripper, OPEN),
        "open_gripper": text("Opened", arm.move_gripper, OPEN),
        "close_gripper": text("Closed", arm.move_gripper, CLOSED),
        "close_gripper_slow": text("Closed", arm.move_gripper, CLOSED),
        "images": images,
        "sim/status": lambda _: arm.truth(),
        "sim/reset": reset,
        "sim/faults": faults,
    }


def _pose(given: Mapping[str, Any]) -> Float64[np.ndarray, "7"]:
    numbers = check("arr", given.get("arr"), list[float])
    if len(numbers) != 7 or max(map(abs, numbers)) > FARTHEST or abs(np.linalg.norm(numbers[3:]) - 1) > 0.01:
        raise ParameterError(
            f"arr must be x, y, z and a quaternion, found {numbers} (x, y, z within {FARTHEST:g} m, the quaternion of "
            "length 1)"
        )
    return np.array(numbers)
