"""Images of a MuJoCo model without a display, by EGL or OSMesa.

OpenGL is loaded for the first image (at MuJoCo's import if MUJOCO_GL is set). Not `mujoco.Renderer`: it takes GLFW
unless MUJOCO_GL is set, keeps its context in the thread that drew last, frees it without making it current, and is 1.7
times as slow, reading each image back by itself.
"""

import atexit
import ctypes
import os
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from wsrl_kit.errors import ExperimentError

_PLATFORM_DEVICE = 0x313F
"""EGL_PLATFORM_DEVICE_EXT: a graphics device without a screen."""


@runtime_checkable
class Context(Protocol):
    """An OpenGL context of MuJoCo."""

    def make_current(self) -> None:
        """Use this context in the calling thread."""

    def free(self) -> None:
        """May be called again."""


def create_context(width: int, height: int) -> Context:
    """A context for images of at most `width` by `height` pixels, current in the calling thread.

    MUJOCO_GL ("egl", "osmesa", "glfw") decides if set; else Linux takes EGL, or OSMesa without an EGL device.

    Raises:
        ExperimentError: no OpenGL library works; names packages.
    """
    try:
        if (backend := _backend()) == "egl":
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.gl_context import GLContext
        context: Context = GLContext(width, height)
        context.make_current()
    except Exception as error:  # PyOpenGL has no common error for missing and broken libraries
        raise missing(error) from error
    return context


def release_context() -> None:
    """Lets another thread use the context; only EGL insists on that."""
    if _backend() == "egl":
        from mujoco import egl
        from mujoco.egl import egl_ext

        egl_ext.eglMakeCurrent(egl.EGL_DISPLAY, egl_ext.EGL_NO_SURFACE, egl_ext.EGL_NO_SURFACE, egl_ext.EGL_NO_CONTEXT)


def missing(error: Exception) -> ExperimentError:
    """The error for an unusable library; names packages that bring one."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    wish = os.environ.get("MUJOCO_GL")
    tried = f"MUJOCO_GL={wish} does not give" if wish else "neither EGL nor OSMesa gives"
    return ExperimentError(
        f"drawing camera images needs OpenGL, which {tried} here ({reason}): leave MUJOCO_GL unset and install OSMesa "
        "or EGL (Debian, Ubuntu: `apt-get install libosmesa6`, or `apt-get install libegl1 libopengl0 libgl1-mesa-dri`)"
    )


@cache
def _backend() -> str:
    if wish := os.environ.get("MUJOCO_GL", "").lower().strip():
        return wish
    if not sys.platform.startswith("linux"):
        return "glfw"
    return "egl" if _egl_has_device() else "osmesa"


def _egl_has_device() -> bool:
    """Whether EGL can use a graphics device, perhaps in software.

    By ctypes: PyOpenGL stays bound to the first library that it tries.
    """
    library = _loaded("libEGL.so.1")
    if library is None or not (_loaded("libOpenGL.so.0") or _loaded("libGL.so.1")):
        return False
    library.eglGetProcAddress.restype = ctypes.c_void_p
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_address = library.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not address or not display_address:
        return False
    devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int()
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(address)
    if not query(len(devices), ctypes.byref(devices), ctypes.byref(count)):
        return False
    signature = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)
    get_display = signature(display_address)
    library.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    displays = (get_display(_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
    return any(display and library.eglInitialize(display, None, None) for display in displays)


def _loaded(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


try:
    import mujoco as mujoco
except Exception as error:
    if "MUJOCO_GL" not in os.environ:
        raise
    raise missing(error) from error


_MOST_GEOMS = 200


class Cameras:
    """Draws square images by several cameras of one model; any thread may draw, one at a time.

    Args:
        size: height and width, pixels.
        samples: colours that are averaged for a pixel, for smooth edges; 0: one.

    Raises:
        ExperimentError: no OpenGL library works.
    """

    def __init__(self, model: mujoco.MjModel, names: Sequence[str], size: int, samples: int = 0) -> None:
        self._model = model
        # Of the frame buffer that `MjrContext` makes below.
        model.vis.quality.offsamples = samples
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
        model.vis.global_.offheight = max(model.vis.global_.offheight, size * len(names))
        self._scene = mujoco.MjvScene(model, maxgeom=_MOST_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = model.vis.quality.shadowsize > 0
        self._options = mujoco.MjvOption()
        # Hide marks and zones of sensors.
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
        # OpenGL without a context crashes, so free before MuJoCo ends EGL at exit; weakref's own hook may come later.
        self.close.atexit = False
        atexit.register(self.close)

    def draw(self, data: mujoco.MjData) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """An RGB image per camera, top row first."""
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
