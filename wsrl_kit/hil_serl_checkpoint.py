"""Checkpoints of HIL-SERL's agents, both ways: files, sizes, and what is refused.

An agent with cameras becomes one of rail-berkeley/hil-serl's `create_pixels` (with a learned gripper, that of its
agents for one arm or two), one that sees states alone one of rail-berkeley/serl's `create_states`. Which array is
which, and what is exact, is `hil_serl_agent`; the files' layout is `hil_serl_state`.
"""

import pickle
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from wsrl_kit import gripper, hil_serl_agent, hil_serl_state, sac
from wsrl_kit.config import WSRLConfig
from wsrl_kit.errors import CheckpointError, ParameterError
from wsrl_kit.hil_serl_agent import GRASP_OUTPUT, OUR_ENCODER, Arrays, Learned
from wsrl_kit.hil_serl_state import entry, group
from wsrl_kit.networks import flax_checkpoint
from wsrl_kit.networks.flax_checkpoint import Leaves
from wsrl_kit.networks.pixels import RESNET_CHANNELS
from wsrl_kit.pixels import PixelConfig
from wsrl_kit.reading import reading
from wsrl_kit.sac import SACConfig
from wsrl_kit.training import agent as agents
from wsrl_kit.training import checkpoint
from wsrl_kit.writing import written_whole

DAMAGED = "is damaged or no checkpoint of HIL-SERL's"

IMAGE_SIZE = 128
"""Height and width of HIL-SERL's camera images; its checkpoints do not tell them."""

CLASSES = {
    "fixed": "sac.SACAgent",
    "single": "sac_hybrid_single.SACAgentHybridSingleArm",
    "dual": "sac_hybrid_dual.SACAgentHybridDualArm",
}
"""Of serl_launcher.agents.continuous, by `gripper`."""

GRIPPERS = {gripper.choices(setup): setup for setup in CLASSES}
"""By the number of choices."""

ACTION_SIZES = {"single": 7, "dual": 14}
"""Of those that HIL-SERL's agents with learned grippers take, and no others."""


def export(source: Path, folder: Path, cameras: Sequence[str] | None = None) -> str:
    """Writes the agent of a checkpoint as one that HIL-SERL's `--checkpoint_path folder` goes on with.

    Args:
        source: a warmup checkpoint, or the checkpoint.npz of a run's folder.
        folder: made where it does not exist; gets `checkpoint_<critic updates>` and, for HIL-SERL's actor, which does
            not start beside a checkpoint without one, a dump of no transitions in `buffer`.
        cameras: HIL-SERL's `image_keys`, in their order; None: sorted.

    Returns:
        The call of HIL-SERL's that builds the agent which restores it.

    Raises:
        CheckpointError: HIL-SERL's agents can't hold it, or it can't be read or written.
    """
    agent = {name.removeprefix("agent/"): array for name, array in checkpoint.read(source, "agent/").items()}
    if "updates" not in agent:
        raise CheckpointError(f"{source} holds no agent: expected a warmup checkpoint or that of a run")
    _check_expressible(source, agent)
    found = hil_serl_agent.cameras_here(agent)
    if cameras is not None and sorted(cameras) != found:
        raise CheckpointError(f"{source} is of cameras {_listed(found)}, found {_listed(cameras)}")
    cameras = found if cameras is None else cameras
    learned = hil_serl_agent.from_agent(agent, cameras)
    _check_action_size(source, learned)
    target = folder / f"checkpoint_{learned.updates}"
    others = sorted(path.name for path in folder.glob("checkpoint_*") if path != target)
    if others:
        raise CheckpointError(f"{folder} holds {others[0]}, which HIL-SERL could restore instead of {target.name}")
    with written_whole(target, CheckpointError) as temporary:
        flax_checkpoint.write(temporary, hil_serl_state.to_leaves(learned))
    if cameras and not (folder / "buffer").exists():
        with written_whole(folder / "buffer" / "transitions_0.pkl", CheckpointError) as temporary:
            temporary.write_bytes(pickle.dumps([]))
    return _call(learned, cameras)


def import_hil_serl(source: Path, target: Path, cameras: Sequence[str] | None = None) -> SACConfig:
    """Writes the agent of HIL-SERL's checkpoint as a warmup checkpoint, for fine-tuning's `checkpoint_path`.

    It has no probe batch: fine-tuning takes one from its own offline data. Activations are tanh, as HIL-SERL's scripts
    build them, and images 128x128, since the file does not tell.

    Args:
        source: a `checkpoint_<step>`, or the folder with it, of which the latest is taken.
        cameras: HIL-SERL's `image_keys`, in their order; needed for three or more, whose order the file does not tell.

    Returns:
        Sizes of the agent.

    Raises:
        CheckpointError: not HIL-SERL's, damaged, or of an agent that this kit does not have; naming the entry.
    """
    leaves = _read(source)
    with reading(source, CheckpointError, DAMAGED):
        cameras = _camera_order(source, hil_serl_agent.cameras_there(group(leaves, "params")), cameras)
        static = _static(source, leaves, cameras)
        shapes = jax.eval_shape(
            lambda: sac.create(
                static, jax.random.key(0), jnp.zeros(static.observation_size), jnp.ones(static.observation_size)
            )
        )
        fresh = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in checkpoint.named_leaves(shapes)}
        fresh["observation_scale"] += 1.0
        learned = hil_serl_state.from_leaves(source, leaves, hil_serl_agent.from_agent(fresh, cameras))
        # What HIL-SERL knows nothing of, the multiplier of CQL's term, starts at 0 with its optimizer.
        agent = fresh | hil_serl_agent.to_agent(learned, cameras)
        agent = jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(agent[name]) for name in fresh])
    agents.save_warmup(target, static, agent, agents.probe_zeros(static, 0), {"imported_from": str(source)})
    return static


def _check_expressible(source: Path, agent: Arrays) -> None:
    if "actor/params/HiddenLayers_0/NormalisedTanh_0/scale" not in agent:
        raise CheckpointError(
            f"{source} can't be exported: HIL-SERL's scripts build networks of LayerNorm and tanh, expected layer_norm "
            "True and activation 'tanh', found others"
        )
    maps = [array.shape[2] for name, array in agent.items() if name.startswith(OUR_ENCODER) and array.ndim == 4]
    if maps and max(maps) > RESNET_CHANNELS[-1]:
        raise CheckpointError(
            f"{source} can't be exported: HIL-SERL's encoder takes one frame, found a stack of several"
        )
    if not (stray := hil_serl_agent.without_place(agent)):
        return
    has_cameras = any(name.startswith("critic/ensemble/") for name in agent)
    if any(name.startswith("grasp_critic/") for name in stray):
        expected, found = "cameras, which all of HIL-SERL's agents with learned grippers have", "none"
    elif any(name.startswith("critic/encoder/trunks/") for name in stray):
        expected, found = "encoder 'resnet10' or 'resnet10_frozen', the only one of HIL-SERL's", "another"
    elif all(name.startswith("critic/") for name in stray):
        expected, found = f"shared_critic_output {has_cameras}, as its critics' last layers are", f"{not has_cameras}"
    else:
        expected, found = "no parameters but those of HIL-SERL's agents", min(stray)
    raise CheckpointError(f"{source} can't be exported: expected {expected}, found {found}")


def _check_action_size(source: Path, learned: Learned) -> None:
    setup = GRIPPERS[hil_serl_agent.choices(learned.parameters)]
    size = len(learned.parameters["modules_actor/Dense_0/bias"]) + gripper.COUNTS[setup]
    if size != ACTION_SIZES.get(setup, size):
        raise CheckpointError(
            f"{source} can't be exported: HIL-SERL's {CLASSES[setup].split('.')[1]} learns actions of "
            f"{ACTION_SIZES[setup]} entries, found {size}"
        )


def _read(source: Path) -> Leaves:
    if not source.exists():
        raise CheckpointError(f"{source} does not exist: expected a checkpoint of HIL-SERL's")
    with reading(source, CheckpointError, DAMAGED):
        return flax_checkpoint.read(source)


def _camera_order(source: Path, found: Sequence[str], given: Sequence[str] | None) -> tuple[str, ...]:
    if given is None and len(found) < 3:
        return tuple(found)
    if given is None or sorted(given) != sorted(found) or list(given[:1]) != list(found[:1]):
        raise CheckpointError(
            f"{source} is of cameras {_listed(found)}, the first of them first, and does not tell the others' "
            f"order: expected HIL-SERL's image_keys, found {_listed(given or [])}"
        )
    return tuple(given)


def _listed(cameras: Sequence[str]) -> str:
    return ", ".join(cameras) or "none"


def _static(source: Path, leaves: Leaves, cameras: Sequence[str]) -> SACConfig:
    """The sizes that the file's parameters have."""

    def length(name: str) -> int:
        return len(np.atleast_1d(entry(source, leaves, f"params/{name}")))

    hidden = "modules_actor/network/Dense_{}/bias"
    critic = f"modules_critic/network/{'VmapMLP_0/' if cameras else ''}Dense_0/bias"
    state = "modules_actor/encoder/Dense_0/kernel" if cameras else "modules_actor/network/Dense_0/kernel"
    layers = next(index for index in count() if f"params/{hidden.format(index)}" not in leaves)
    # Without cameras upstream has no grasp critic.
    choices = hil_serl_agent.choices(group(leaves, "params")) if cameras else 1
    if choices not in GRIPPERS:
        raise CheckpointError(f"{source} holds params/{GRASP_OUTPUT}bias of {choices} choices: expected 3 or 9")
    setup = GRIPPERS[choices]
    config = WSRLConfig(
        gripper=setup,
        hidden_sizes=[length(hidden.format(index)) for index in range(max(layers, 1))],
        activation="tanh",
        layer_norm=True,
        critic_ensemble_size=length(critic),
        critic_subset_size=length(critic),
        shared_critic_output=bool(cameras),
    )
    pixels = PixelConfig(tuple(sorted(cameras)), IMAGE_SIZE, IMAGE_SIZE) if cameras else None
    action_size = length("modules_actor/Dense_0/bias") + gripper.COUNTS[setup]
    try:
        return sac.from_parameters(config, length(state), action_size, pixels)
    except ParameterError as error:
        raise CheckpointError(f"{source} is of no agent that this kit has: {error}") from error


def _call(learned: Learned, cameras: Sequence[str]) -> str:
    parameters = learned.parameters
    pattern = re.compile("modules_actor/network/Dense_[0-9]+/bias")
    sizes = [len(array) for name, array in sorted(parameters.items()) if pattern.fullmatch(name)]
    critics = len(next(array for name, array in parameters.items() if name.startswith("modules_critic/network/")))
    network = f"{{'hidden_dims': {sizes}, 'activations': nn.tanh, 'use_layer_norm': True}}"
    images = f"encoder_type='resnet-pretrained', use_proprio=True, image_keys={tuple(cameras)}, " if cameras else ""
    setup = GRIPPERS[hil_serl_agent.choices(parameters)]
    grasp = "" if setup == gripper.FIXED else f"grasp_critic_network_kwargs={network}, "
    return (
        f"serl_launcher.agents.continuous.{CLASSES[setup]}.create_{'pixels' if cameras else 'states'}("
        f"{images}critic_ensemble_size={critics}, critic_network_kwargs={network}, {grasp}"
        f"policy_network_kwargs={network}, policy_kwargs={{"
        "'tanh_squash_distribution': True, 'std_parameterization': 'exp', 'std_min': 1e-5, 'std_max': 5})"
    )
