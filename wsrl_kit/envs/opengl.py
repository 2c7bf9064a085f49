"""OpenGL without a display, for drawing what cameras see: EGL or OSMesa, whichever works on this machine.

The library is loaded when the first picture is drawn, so that everything without pictures runs on machines without it.
"""

import ctypes
import os
import sys
from functools import cache
from typing import Any, Protocol, runtime_checkable

from wsrl_kit.errors import ExperimentError

_PLATFORM_DEVICE = 0x313F
"""EGL_PLATFORM_DEVICE_EXT of EGL_EXT_platform_device: a display that is a graphics device without a screen."""


@runtime_checkable
class Context(Protocol):
    """One of MuJoCo's OpenGL contexts."""

    def make_current(self) -> None:
        """Direct the calling thread's OpenGL at this context."""

    def free(self) -> None:
        """Give back what the context holds; it may be called again."""


def create_context(width: int, height: int) -> Context:
    """A context for pictures of at most `width` by `height` pixels, current in the calling thread.

    MUJOCO_GL in the process environment decides where it is set ("egl", "osmesa", "glfw"). Otherwise Linux takes EGL,
    which uses a graphics card where there is one, and OSMesa where EGL has no device that works; other systems take
    what MuJoCo does.

    Raises:
        ExperimentError: no OpenGL library works; names the packages that bring one.
    """
    try:
        context = _context_class()(width, height)
        context.make_current()
    except Exception as error:  # PyOpenGL fails in as many ways as a library can be missing or half there
        raise missing(error) from error
    return context


def release_context() -> None:
    """Free the calling thread of its context, so that another thread can draw with it.

    EGL refuses a context that is current elsewhere, as when a notebook resets an environment and a background thread
    trains on it; the other libraries do not mind.
    """
    if _backend() == "egl":
        from mujoco import egl
        from mujoco.egl import egl_ext

        egl_ext.eglMakeCurrent(egl.EGL_DISPLAY, egl_ext.EGL_NO_SURFACE, egl_ext.EGL_NO_SURFACE, egl_ext.EGL_NO_CONTEXT)


def missing(error: Exception) -> ExperimentError:
    """The error for a library that could not be used, with the packages that bring one."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    wish = os.environ.get("MUJOCO_GL")
    tried = f"MUJOCO_GL={wish} does not give" if wish else "neither EGL nor OSMesa gives"
    return ExperimentError(
        f"drawing camera images needs OpenGL, which {tried} here ({reason}): leave MUJOCO_GL unset and install OSMesa "
        "or EGL (Debian, Ubuntu: `apt-get install libosmesa6`, or `apt-get install libegl1 libopengl0 libgl1-mesa-dri`)"
    )


@cache
def _backend() -> str:
    wish = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wish:
        return wish
    if not sys.platform.startswith("linux"):
        return "glfw"
    return "egl" if _egl_has_device() else "osmesa"


def _context_class() -> Any:
    backend = _backend()
    if backend == "egl":
        from mujoco.egl import GLContext
    elif backend == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.gl_context import GLContext
    return GLContext


def _egl_has_device() -> bool:
    """Whether EGL is there and can use a graphics device, be it Mesa's in software.

    Asked through ctypes, since PyOpenGL, by which MuJoCo asks, is bound for the life of the process to the first
    library that it is told to use, found or not.
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
