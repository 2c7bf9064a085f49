"""Options of a robot; the defaults fit the simulated one."""

from dataclasses import dataclass
from math import pi
from typing import Any

from wsrl_kit.errors import ParameterError
from wsrl_kit.parameters import parameter, validate
from wsrl_kit.robot.poses import SafetyBox

Pose = tuple[float, float, float, float, float, float]
"""Tool in the robot's base frame: x, y, z, m; Euler angles xyz, rad."""

CLIPS = [f"clip_{sign}{axis}" for sign in ("", "neg_") for axis in "xyz"]
COMPLIANCE = {
    "translational_stiffness": 2000.0,
    "translational_damping": 89.0,
    "translational_Ki": 0.0,
    "rotational_stiffness": 150.0,
    "rotational_damping": 7.0,
    "rotational_Ki": 0.0,
    **{f"translational_{clip}": 0.008 for clip in CLIPS},
    **{f"rotational_{clip}": 0.1 for clip in CLIPS},
}
"""HIL-SERL's, while a policy acts; the simulated robot starts with them."""
PRECISION = COMPLIANCE | {
    "rotational_stiffness": 250.0,
    "rotational_damping": 9.0,
    **{f"translational_{clip}": 0.1 for clip in CLIPS},
}
"""During a reset: stiff enough to overcome friction."""


@dataclass(frozen=True)
class RobotOptions:
    """Options of `hirol_robot`; raises ParameterError."""

    robot_url: str = parameter("http://127.0.0.1:5000", "address of the robot server")
    convention: str = parameter(
        "kit", "meaning of states and actions: the kit's simulation's, or HIL-SERL's", choices=("kit", "hil_serl")
    )
    gripper: bool = parameter(False, "a seventh action closes (below -0.5) and opens (above 0.5) the gripper")
    grasp_penalty: float = parameter(
        -0.02, "reported at each step that opens or closes the gripper; learned with gripper 'single'", maximum=0.0
    )
    # Limits of workspace, speed and force: docs/safety.md.
    abs_pose_limit_low: Pose = parameter(
        (0.46, -0.04, 0.12, pi - 0.2, -0.2, -0.2), "lower limits of every commanded pose"
    )
    abs_pose_limit_high: Pose = parameter(
        (0.54, 0.04, 0.21, pi + 0.2, 0.2, 0.2), "upper limits of every commanded pose"
    )
    sanity_margin: tuple[float, float] = parameter(
        (0.05, 0.5), "m and rad outside the limits from which a measured pose counts as lost contact", minimum=0.0
    )
    action_scale: tuple[float, float] = parameter(
        (0.01, 0.06), "m and rad that an action of 1 moves; times control_frequency, the largest speed", minimum=0.0
    )
    reset_speed: tuple[float, float] = parameter(
        (0.1, 0.5), "largest speed on the way to an episode's start, m/s and rad/s", minimum=0.001
    )
    force_limit: float | None = parameter(
        None, "measured force above which the robot holds and the episode fails, N; None: no limit", minimum=0.0
    )
    compliance_param: dict[str, float] = parameter(
        COMPLIANCE, "compliance parameters while a policy acts; stiffness times clip limits the force"
    )
    precision_param: dict[str, float] = parameter(PRECISION, "compliance parameters while the robot is reset")
    reset_pose: Pose = parameter((0.5, 0.0, 0.19, pi, 0.0, 0.0), "mean pose in which an episode begins")
    random_xy_range: float = parameter(0.02, "half range of x and y at reset, m", minimum=0.0)
    random_z_range: float = parameter(0.01, "half range of z at reset, m", minimum=0.0)
    random_rz_range: float = parameter(0.05, "half range of the last Euler angle at reset, rad", minimum=0.0)
    reset_lift: float = parameter(
        0.01, "height over reset_pose to which the tool rises before it moves, m", minimum=0.0
    )
    joint_reset_period: int = parameter(0, "episodes from one joint reset to the next; 0: never", minimum=0)
    reset_joint_target: list[float] | None = parameter(
        None, "angle of each joint after a joint reset, rad; None: the server's own, unchecked"
    )
    target_pose: Pose | None = parameter(
        None, "pose that is a success; None: a simulated server or a classifier decides"
    )
    reward_threshold: Pose = parameter(
        (0.01, 0.01, 0.01, 0.2, 0.2, 0.2),
        "distance from target_pose, per coordinate, within which a pose is a success",
        minimum=0.0,
    )
    reconnect_seconds: float = parameter(60.0, "how long training waits for a lost robot, s", minimum=0.0)
    max_episode_steps: int = parameter(100, "time limit, control steps", minimum=1)
    control_frequency: float = parameter(10.0, "control steps per second", minimum=0.1, maximum=1000.0)
    deadline: float = parameter(1.0, "time in which the server must answer, s", minimum=0.001)
    retries: int = parameter(2, "further attempts of a call that is safe to repeat", minimum=0)
    cameras: dict[str, dict[str, Any]] = parameter(
        {}, "cameras of a real robot: settings by name (robot/cameras.py); a simulated robot reports its own"
    )
    image_size: int = parameter(128, "height and width of the cameras' images, pixels", minimum=8)

    def __post_init__(self) -> None:
        validate(self)
        low, high = self.abs_pose_limit_low, self.abs_pose_limit_high
        if any(lower > upper for lower, upper in zip(low, high, strict=True)):
            raise ParameterError(f"abs_pose_limit_low must not be above abs_pose_limit_high, found {low} and {high}")
        if max(abs(low[4]), abs(high[4])) > 1.5 or any(high[axis] - low[axis] > 2 * pi for axis in (3, 5)):
            raise ParameterError(
                f"abs_pose_limit_low and abs_pose_limit_high must span at most a turn, and the fifth lie within "
                f"[-1.5, 1.5], where Euler angles mean one rotation each, found {low} and {high}"
            )
        if self.reset_joint_target is not None and not self.joint_reset_period:
            raise ParameterError("reset_joint_target needs a joint_reset_period of at least 1, found 0")
        reset_pose = SafetyBox(low, high).unwind(self.reset_pose)
        if any(not lower <= at <= upper for lower, at, upper in zip(low, reset_pose, high, strict=True)):
            raise ParameterError(f"reset_pose must lie within {low} and {high}, found {self.reset_pose}")
        # A roll of -pi means the same as pi: store the angles that lie in the box.
        object.__setattr__(self, "reset_pose", tuple(reset_pose.tolist()))
