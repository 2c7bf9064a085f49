"""Frames of many transitions, each stored once, and which of them every transition's observations show.

A frame is whatever one camera gives at one moment: an image, or the features that a frozen network makes of it. A
transition's observation shows the `horizon` frames up to its moment, oldest first, and its next observation the frames
up to the next moment; consecutive transitions thus share all frames but one. A transition is known by its row, the same
as in `storage`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int32, Integer, Shaped

HostStacks = dict[str, Shaped[np.ndarray, "..."]]
"""What observations show, by camera: (*batch, horizon, *frame)."""

DeviceStacks = dict[str, Shaped[Array, "..."]]
"""The same on a device."""


class FrameStore(NamedTuple):
    """All frames and the table of who shows what: NumPy arrays in host memory, or JAX's on a device.

    On the host, `frame_batches` gathers. `jax.device_put` of a store takes it to the device, where `gather` and
    `gather_mixed` here can be part of a compiled step.

    Attributes:
        frames: camera -> its frames.
        stacks: slots in `frames` of the observation's and of the next observation's frames, oldest first.
    """

    frames: dict[str, Shaped[Any, "slots ..."]]
    stacks: Int32[Any, "rows 2 horizon"]


def of_rows(
    frames: dict[str, Shaped[np.ndarray, "slots ..."]], newest: Integer[np.ndarray, " rows"], horizon: int
) -> FrameStore:
    """A store on the host over frames that are not copied; row i shows those up to frame `newest[i]`, then one more.

    Args:
        frames: camera -> frames in order of time, contiguous in memory.
        newest: index of the newest frame of each row's observation; its next observation's newest is the one after.
        horizon: frames in one observation.

    Raises:
        ValueError: an index out of range, or an array that is not contiguous and would be copied at every gather.
    """
    for camera, array in frames.items():
        if not array.flags.c_contiguous:
            raise ValueError(f"frames of {camera} must be contiguous in memory, found strides {array.strides}")
        if len(newest) and not (horizon - 1 <= newest.min() and newest.max() + 1 < len(array)):
            raise ValueError(
                f"newest frames must lie in [{horizon - 1}, {len(array) - 2}] for {camera} with {len(array)} frames "
                f"and horizon {horizon}, found [{newest.min()}, {newest.max()}]"
            )
    offsets = np.array([[0], [1]]) - np.arange(horizon)[::-1]
    return FrameStore(frames, (newest[:, None, None] + offsets).astype(np.int32))


def gather(store: FrameStore, row: Integer[Array, "*batch"]) -> tuple[DeviceStacks, DeviceStacks]:
    """What the given rows' observations and next observations show, from a store on the device. Pure.

    Args:
        row: rows that hold transitions: what others give is undefined.
    """
    slots = jnp.asarray(store.stacks).at[row].get(mode="promise_in_bounds")

    def taken(side: int) -> DeviceStacks:
        index = slots[..., side, :]
        # Checked indices take several times as long.
        return {
            camera: jnp.asarray(frames).at[index].get(mode="promise_in_bounds")
            for camera, frames in store.frames.items()
        }

    return taken(0), taken(1)


def gather_mixed(
    offline: FrameStore, online: FrameStore, row: Integer[Array, "*batch size"], offline_rows: Integer[Array, ""]
) -> tuple[DeviceStacks, DeviceStacks]:
    """`gather` for what `mixture.sample` gives: in each batch the first `offline_rows` rows are offline. Pure.

    Both stores must have rows.
    """
    is_offline = jnp.arange(row.shape[-1]) < offline_rows
    # Rows of the other side may lie past this one's end.
    offline_stacks, online_stacks = gather(offline, row * is_offline), gather(online, row * ~is_offline)

    def choose(offline: Array, online: Array) -> Array:
        return jnp.where(is_offline.reshape(-1, *([1] * (offline.ndim - row.ndim))), offline, online)

    return jax.tree.map(choose, offline_stacks, online_stacks)
