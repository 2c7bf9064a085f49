"""Tasks of Gymnasium-Robotics, registered with Gymnasium when this module is imported."""

from types import SimpleNamespace

import gymnasium
import gymnasium_robotics
import mujoco
from gymnasium_robotics.utils import mujoco_utils

gymnasium.register_envs(gymnasium_robotics)

# From MuJoCo 3.12 on an enum member is not equal to a NumPy integer of its value when it stands on the left, as `in`
# puts it; gymnasium-robotics 1.4.2 looks a joint's type up by `in`, and fails. Plain integers are equal on both sides.
_joint_types = SimpleNamespace(**{name: int(value) for name, value in mujoco.mjtJoint.__members__.items()})
mujoco_utils.mujoco = SimpleNamespace(**{**vars(mujoco), "mjtJoint": _joint_types})
