"""The MuJoCo model of a Franka Panda that holds a square peg over a square hole, written out as MJCF text.

The world frame is the nominal hole frame: origin in the centre of the hole's mouth, z up, x away from the robot's base.
Kinematics, joint limits and torque limits are Franka's published ones (Franka Control Interface documentation: the
Denavit-Hartenberg parameters in Craig's convention, the limits in joint space); links are capsules of about the real
masses; no meshes. The robot compensates gravity, its own and its load's, so the model has none: the force sensor
between hand and peg then reads zero in free space, as one calibrated against gravity does.
"""

from math import cos, pi, sin

PEG_WIDTH = 0.020
"""Side of the square peg, m."""
HOLE_DEPTH = 0.030
"""Depth of the hole, m."""
PHYSICS_STEP = 0.004
"""Length of one physics step, s."""
HOME = (0.0, 0.0467, 0.0, -2.3765, 0.0, 2.4232, pi / 4)
"""Joint positions, rad, that hold the peg's tip upright in the origin; inverse kinematics starts here."""

# HIL-SERL's compliance parameters, translational in N/m and N s/m, rotational in N m/rad and N m s/rad.
_TRANSLATION_STIFFNESS, _TRANSLATION_DAMPING = 2000, 89
_ROTATION_STIFFNESS, _ROTATION_DAMPING = 150, 7
# A spring sees at most this error, as HIL-SERL's *_clip parameters do: 8 mm and 0.1 rad give 16 N and 15 N m.
_TRANSLATION_CLIP, _ROTATION_CLIP = 0.008, 0.1

_BASE_TO_HOLE = (0.5, 0.0, 0.15)
_FLANGE, _HAND_LENGTH, _PEG_LENGTH = 0.107, 0.103, 0.050
# Per link: alpha (rad), a (m), d (m), lower and upper joint limit (rad), torque limit (N m), mass (kg).
_LINKS = (
    (0, 0, 0.333, -2.8973, 2.8973, 87, 4.97),
    (-pi / 2, 0, 0, -1.7628, 1.7628, 87, 0.65),
    (pi / 2, 0, 0.316, -2.8973, 2.8973, 87, 3.23),
    (pi / 2, 0.0825, 0, -3.0718, -0.0698, 87, 3.59),
    (-pi / 2, -0.0825, 0.384, -2.8973, 2.8973, 12, 1.23),
    (pi / 2, 0, 0, -0.0175, 3.7525, 12, 1.67),
    (pi / 2, 0.088, 0, -2.8973, 2.8973, 12, 0.74),
)


def insertion_model(clearance: float) -> str:
    """MJCF of the robot and a hole that is `clearance` metres wider than the peg (the gap is half of it on each side).

    Sites: `tcp` (centre of the peg's tip, axes along the world's when the peg is upright). Actuators 0 to 5 are the
    springs of the impedance controller on x, y, z (m) and the rotation vector (rad) of the tip, their `ctrl` is the
    commanded pose; 6 to 11 the dampers. Sensors, in order: `contact` (sum of the normal contact forces on the peg, N),
    `force` (3, N) and `torque` (3, N m) that the peg passes on to the hand, in the peg's frame.
    """
    return f"""
<mujoco model="franka_insertion">
  <compiler angle="radian"/>
  <option timestep="{PHYSICS_STEP}" integrator="implicitfast" cone="elliptic" iterations="20" gravity="0 0 0"/>
  <default>
    <joint armature="0.1" damping="1" axis="0 0 1"/>
    <geom contype="0" conaffinity="0" solref="0.004 1" friction="0.3 0.005 0.0001"/>
  </default>
  <worldbody>
    <light pos="0 0 1.5"/>
    <site name="hole_frame"/>
    {_hole(clearance)}
    <body name="base" pos="{-_BASE_TO_HOLE[0]} {-_BASE_TO_HOLE[1]} {-_BASE_TO_HOLE[2]}">
      <geom type="cylinder" size="0.08" fromto="0 0 0 0 0 0.2"/>
      {_arm()}
    </body>
  </worldbody>
  <actuator>{_impedance_controller()}</actuator>
  <sensor>
    <touch name="contact" site="peg_zone"/>
    <force name="force" site="wrist"/>
    <torque name="torque" site="wrist"/>
  </sensor>
</mujoco>"""


def _hole(clearance: float) -> str:
    wall, half = 0.05, (PEG_WIDTH + clearance) / 2
    middle, height = half + wall / 2, HOLE_DEPTH / 2
    boxes = [(side * middle, 0.0, -height, wall / 2, half + wall, height) for side in (-1, 1)]
    boxes += [(0.0, side * middle, -height, half, wall / 2, height) for side in (-1, 1)]
    boxes += [(0.0, 0.0, -HOLE_DEPTH - 0.005, half + wall, half + wall, 0.005)]
    # Only geoms with a bit in common collide: contype 1 is the peg, conaffinity 1 the hole, and the arm has neither.
    geoms = "".join(
        f'<geom type="box" conaffinity="1" pos="{x} {y} {z}" size="{a} {b} {c}"/>' for x, y, z, a, b, c in boxes
    )
    return f'<body name="hole">{geoms}</body>'


def _arm() -> str:
    """The chain of links from the base to the peg, nested from the last link inwards."""
    chain = f"""
      <body name="hand" pos="0 0 {_FLANGE}" euler="0 0 {-pi / 4}">
        <geom type="box" size="0.03 0.1 {_HAND_LENGTH / 2}" pos="0 0 {_HAND_LENGTH / 2}" mass="0.73"/>
        <body name="peg" pos="0 0 {_HAND_LENGTH}" euler="{pi} 0 0">
          <geom type="box" contype="1" mass="0.1"
            size="{PEG_WIDTH / 2} {PEG_WIDTH / 2} {_PEG_LENGTH / 2}" pos="0 0 {-_PEG_LENGTH / 2}"/>
          <site name="wrist"/>
          <site name="peg_zone" type="box" size="0.02 0.02 0.05" pos="0 0 {-_PEG_LENGTH / 2}"/>
          <site name="tcp" pos="0 0 {-_PEG_LENGTH}"/>
        </body>
      </body>"""
    next_origin = (0.0, 0.0, _FLANGE)
    for number, (alpha, a, d, lower, upper, torque, mass) in reversed(list(enumerate(_LINKS, start=1))):
        end = " ".join(map(str, next_origin))
        shape = f'type="capsule" fromto="0 0 0 {end}"' if any(next_origin) else 'type="sphere"'
        next_origin = (a, -sin(alpha) * d, cos(alpha) * d)
        chain = f"""
      <body name="link{number}" pos="{" ".join(map(str, next_origin))}" euler="{alpha} 0 0">
        <joint name="joint{number}" range="{lower} {upper}" actuatorfrcrange="{-torque} {torque}"/>
        <geom {shape} size="0.05" mass="{mass}"/>{chain}
      </body>"""
    return chain


def _impedance_controller() -> str:
    """Six springs with clipped force and six dampers without: the clip of the error acts on the spring alone."""
    springs, dampers = "", ""
    for axis in range(6):
        translation = axis < 3
        stiffness = _TRANSLATION_STIFFNESS if translation else _ROTATION_STIFFNESS
        damping = _TRANSLATION_DAMPING if translation else _ROTATION_DAMPING
        limit = stiffness * (_TRANSLATION_CLIP if translation else _ROTATION_CLIP)
        gear = " ".join("1" if index == axis else "0" for index in range(6))
        where = f'site="tcp" refsite="hole_frame" gear="{gear}"'
        springs += f'<position {where} kp="{stiffness}" forcerange="{-limit} {limit}"/>'
        dampers += f'<velocity {where} kv="{damping}"/>'
    return springs + dampers
