"""MuJoCo, with one sentence where it can't be imported for want of OpenGL.

With MUJOCO_GL set to a library, MuJoCo loads that as soon as it is imported, whether or not anything is ever drawn.
"""

import os

from wsrl_kit.envs.opengl import missing

try:
    import mujoco as mujoco
except Exception as error:
    if "MUJOCO_GL" not in os.environ:
        raise
    raise missing(error) from error
