"""What the cameras of a MuJoCo model see, as uint8 pictures."""

import atexit
import weakref
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.envs.opengl import Context, create_context, missing, release_context
from wsrl_kit.envs.simulator import mujoco

_MOST_GEOMS = 200


class Cameras:
    """Draws square pictures by several cameras of one model, all in one go.

    A context of OpenGL and the buffers are made once and belong to this object; any thread may draw, one at a time.
    The model's own quality settings hold (`offsamples`, `shadowsize`): in software they cost more than all the rest.

    Args:
        model: the model whose cameras these are.
        names: of the cameras.
        size: height and width of each picture, pixels; at most the model's `offwidth`, and all cameras together at most
            its `offheight`.

    Raises:
        ExperimentError: there is no OpenGL library that works.
    """

    def __init__(self, model: mujoco.MjModel, names: Sequence[str], size: int) -> None:
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=_MOST_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = model.vis.quality.shadowsize > 0
        self._options = mujoco.MjvOption()
        # Marks and zones of sensors, which no camera sees.
        self._options.sitegroup[:] = False
        self._context = create_context(size, size * len(names))
        try:
            self._target = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        except mujoco.FatalError as error:
            raise missing(error) from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._target)
        release_context()
        self._views = {}
        for row, name in enumerate(names):
            camera = mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
            self._views[name] = (camera, mujoco.MjrRect(0, row * size, size, size))
        self._all = mujoco.MjrRect(0, 0, size, size * len(names))
        self._pixels = np.empty((len(names), size, size, 3), np.uint8)
        self.close = weakref.finalize(self, _free, self._context, self._target)
        # At the interpreter's end objects die in no order, and OpenGL without a context crashes; weakref's own hook may
        # come after the one by which MuJoCo ends EGL.
        self.close.atexit = False
        atexit.register(self.close)

    def draw(self, data: mujoco.MjData) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """A new RGB picture of each camera, top row first, of the model in the state of `data`."""
        self._context.make_current()
        for camera, place in self._views.values():
            mujoco.mjv_updateScene(
                self._model, data, self._options, None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
            )
            mujoco.mjr_render(place, self._scene, self._target)
        mujoco.mjr_readPixels(self._pixels.reshape(-1, *self._pixels.shape[2:]), None, self._all, self._target)
        release_context()
        # OpenGL's first row is the lowest.
        return {name: pixels[::-1].copy() for name, pixels in zip(self._views, self._pixels, strict=True)}


def _free(context: Context, target: mujoco.MjrContext) -> None:
    context.make_current()
    target.free()
    context.free()
