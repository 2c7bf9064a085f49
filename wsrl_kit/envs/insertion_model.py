"""MJCF of a Franka Panda that holds a square peg over a square hole.

World frame: the nominal hole's mouth, z up, x away from the robot's base. Kinematics and limits: Franka Control
Interface documentation (Denavit-Hartenberg parameters in Craig's convention); links are capsules of about the real
masses. No gravity, since the robot compensates it: the force sensor reads zero in free space. One robot and five walls
are not searched for islands of contacts nor by a tree of boxes, which takes 7 % of a step and changes no result.

The hand's cameras look at the peg's tip 90 degrees apart, so that each shows the other's depth. An outside camera looks
at the hole, for people. Visual geoms have no mass and touch nothing.
"""

from math import cos, pi, sin

PEG_WIDTH, PEG_LENGTH = 0.020, 0.050
"""m."""
HOLE_DEPTH = 0.030
"""m."""
PHYSICS_STEP = 0.004
"""s."""
CAMERAS = ("wrist_1", "wrist_2")
"""On the hand."""
OUTSIDE = "outside"
"""Beside the table; no policy sees its images."""
LARGEST_IMAGE = 256
"""Largest height and width, pixels."""
HOME = (0.0, 0.0467, 0.0, -2.3765, 0.0, 2.4232, pi / 4)
"""Joint positions, rad, with the peg's tip upright in the origin; inverse kinematics starts here."""

# HIL-SERL's compliance parameters: N/m and N s/m, N m/rad and N m s/rad.
_TRANSLATION_STIFFNESS, _TRANSLATION_DAMPING = 2000, 89
_ROTATION_STIFFNESS, _ROTATION_DAMPING = 150, 7
# Largest error of a spring, HIL-SERL's *_clip parameters: 8 mm and 0.1 rad give 16 N and 15 N m.
_TRANSLATION_CLIP, _ROTATION_CLIP = 0.008, 0.1

BASE_TO_HOLE = (0.5, 0.0, 0.15)
"""From the robot's base to the origin, m; both have the same axes."""
_FLANGE, _HAND_LENGTH = 0.107, 0.103
# Cameras and the point below the tip that they look at, in the peg's frame (z up, tip at -5 cm), m. The field of view,
# degrees, is the narrowest that shows the hole at every default reset; one of 128 pixels is then 0.8 mm at the tip.
_CAMERA_POSITIONS = ((0.08, 0.08, 0.05), (0.08, -0.08, 0.05))
_CAMERA_TARGET, _FIELD_OF_VIEW = (0.0, 0.0, -0.08), 39
# In the world frame. From the front the hand, 20 cm wide and 6 cm deep, hides neither peg nor hole.
_OUTSIDE_POSITION, _OUTSIDE_TARGET, _OUTSIDE_FIELD_OF_VIEW = (0.36, -0.13, 0.2), (0.0, 0.0, 0.02), 27
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
    """MJCF of the robot and a hole that is `clearance` metres wider than the peg.

    Site `tcp`: the peg's tip, axes along the world's when upright. Actuators 0 to 5: the impedance controller's springs
    on x, y, z (m) and rotation vector (rad), `ctrl` is the commanded pose; 6 to 11: its dampers. Sensors: `contact`
    (normal contact forces on the peg, N), `force` (N) and `torque` (N m) between peg and hand, in the peg's frame.
    """
    return f"""
<mujoco model="franka_insertion">
  <compiler angle="radian"/>
  <option timestep="{PHYSICS_STEP}" integrator="implicitfast" cone="elliptic" iterations="20" gravity="0 0 0">
    <flag island="disable" midphase="disable"/>
  </option>
  {_visuals()}
  <default>
    <joint armature="0.1" damping="1" axis="0 0 1"/>
    <geom contype="0" conaffinity="0" material="arm" solref="0.004 1" friction="0.3 0.005 0.0001"/>
  </default>
  <worldbody>
    <light pos="0.6 0.3 1.2" dir="-0.6 -0.3 -1.2" directional="true" diffuse="0.5 0.5 0.5" specular="0.1 0.1 0.1"/>
    <site name="hole_frame"/>
    {_camera(OUTSIDE, _OUTSIDE_POSITION, _OUTSIDE_TARGET, _OUTSIDE_FIELD_OF_VIEW)}
    {_hole(clearance)}
    <body name="base" pos="{-BASE_TO_HOLE[0]} {-BASE_TO_HOLE[1]} {-BASE_TO_HOLE[2]}">
      <geom type="cylinder" size="0.08" fromto="0 0 0 0 0 0.2"/>
      {_arm()}
    </body>
    <geom name="table" type="box" material="table" pos="0 0 -0.095" size="0.25 0.25 0.055"/>
    <geom name="floor" type="plane" material="floor" pos="0 0 -0.15" size="1.5 1.5 0.1"/>
  </worldbody>
  <actuator>{_impedance_controller()}</actuator>
  <sensor>
    <touch name="contact" site="peg_zone"/>
    <force name="force" site="wrist"/>
    <torque name="torque" site="wrist"/>
  </sensor>
</mujoco>"""


def _visuals() -> str:
    """Colours and light; smooth edges and shadows are slow without a graphics card.

    `znear` and `zfar` are multiples of the extent, 0.1 m: 1 cm to 5 m.
    """
    colours = {
        "peg": "0.85 0.35 0.1",
        "block": "0.25 0.4 0.65",
        "rim": "0.95 0.95 0.8",
        "dark": "0.02 0.02 0.02",
        "hand": "0.8 0.8 0.82",
        "arm": "0.9 0.9 0.9",
    }
    plain = "".join(f'<material name="{name}" rgba="{colour} 1" specular="0.1"/>' for name, colour in colours.items())
    return f"""
  <statistic extent="0.1"/>
  <visual>
    <global offwidth="{LARGEST_IMAGE}" offheight="{len(CAMERAS) * LARGEST_IMAGE}"/>
    <quality shadowsize="0" offsamples="0"/>
    <map znear="0.1" zfar="50"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
  </visual>
  <asset>
    {plain}
    <texture name="wood" type="2d" builtin="checker" rgb1="0.55 0.45 0.33" rgb2="0.6 0.5 0.38" width="64" height="64"/>
    <material name="table" texture="wood" texrepeat="12 12" specular="0"/>
    <material name="floor" rgba="0.35 0.37 0.38 1" specular="0"/>
  </asset>"""


def _hole(clearance: float) -> str:
    wall, half = 0.05, (PEG_WIDTH + clearance) / 2
    middle, height = half + wall / 2, HOLE_DEPTH / 2
    boxes = [(side * middle, 0.0, -height, wall / 2, half + wall, height) for side in (-1, 1)]
    boxes += [(0.0, side * middle, -height, half, wall / 2, height) for side in (-1, 1)]
    boxes += [(0.0, 0.0, -HOLE_DEPTH - 0.005, half + wall, half + wall, 0.005)]
    # Only geoms with a bit in common collide: contype 1 is the peg, conaffinity 1 the hole, and the arm has neither.
    geoms = "".join(
        f'<geom type="box" conaffinity="1" material="block" pos="{x} {y} {z}" size="{a} {b} {c}"/>'
        for x, y, z, a, b, c in boxes
    )
    return f'<body name="hole">{geoms}{_rim(half)}</body>'


def _rim(half: float) -> str:
    """A light frame around the mouth and a dark bottom: edges for the cameras."""
    width, thickness = 0.0015, 0.0001
    middle, whole = half + width, half + 2 * width
    strips = [(side * middle, 0.0, width, whole) for side in (-1, 1)]
    strips += [(0.0, side * middle, half, width) for side in (-1, 1)]
    geoms = "".join(
        f'<geom type="box" material="rim" mass="0" pos="{x} {y} {thickness}" size="{a} {b} {thickness}"/>'
        for x, y, a, b in strips
    )
    bottom = f'pos="0 0 {-HOLE_DEPTH + thickness}" size="{half} {half} {thickness}"'
    return f'{geoms}<geom type="box" material="dark" mass="0" {bottom}/>'


def _camera(name: str, position: tuple[float, ...], target: tuple[float, ...], field_of_view: float) -> str:
    """Upright in the frame of its body."""
    x, y, z = (here - there for here, there in zip(position, target, strict=True))
    # A camera looks along -z of its frame; x is to the right: up x back, up: back x right.
    right, up = (-y, x, 0.0), (-x * z, -y * z, x * x + y * y)
    axes, place = " ".join(map(str, right + up)), " ".join(map(str, position))
    return f'<camera name="{name}" pos="{place}" xyaxes="{axes}" fovy="{field_of_view}"/>'


def _arm() -> str:
    """The links from base to peg, nested from the last inwards."""
    cameras = "".join(
        _camera(name, position, _CAMERA_TARGET, _FIELD_OF_VIEW)
        for name, position in zip(CAMERAS, _CAMERA_POSITIONS, strict=True)
    )
    chain = f"""
      <body name="hand" pos="0 0 {_FLANGE}" euler="0 0 {-pi / 4}">
        <geom type="box" material="hand" size="0.03 0.1 {_HAND_LENGTH / 2}" pos="0 0 {_HAND_LENGTH / 2}" mass="0.73"/>
        <body name="peg" pos="0 0 {_HAND_LENGTH}" euler="{pi} 0 0">
          <geom type="box" contype="1" mass="0.1" material="peg"
            size="{PEG_WIDTH / 2} {PEG_WIDTH / 2} {PEG_LENGTH / 2}" pos="0 0 {-PEG_LENGTH / 2}"/>
          {cameras}
          <site name="wrist"/>
          <site name="peg_zone" type="box" size="0.02 0.02 0.05" pos="0 0 {-PEG_LENGTH / 2}"/>
          <site name="tcp" pos="0 0 {-PEG_LENGTH}"/>
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
    """Six springs with clipped force and six dampers without."""
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
