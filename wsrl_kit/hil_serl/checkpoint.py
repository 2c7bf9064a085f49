"""Export agents as HIL-SERL's checkpoints, and import HIL-SERL's checkpoints.

An agent with cameras becomes an agent of rail-berkeley/hil-serl's `create_pixels` (with a learned gripper, a hybrid one
for one arm or two). An agent that sees states alone becomes an agent of rail-berkeley/serl's `create_states`.
`agent` maps the arrays and says what is exact.
"""

import math
import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from flax import serialization, traverse_util

from wsrl_kit.agent import gripper, sac
from wsrl_kit.agent.sac import SACConfig
from wsrl_kit.agent.vision import RESNET_CHANNELS, PixelConfig
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.errors import CheckpointError, ParameterError
from wsrl_kit.files import check_size, reading, written_whole
from wsrl_kit.hil_serl import agent as hil_serl_agent
from wsrl_kit.hil_serl.agent import ENCODER, GRASP_OUTPUT, OUR_ENCODER, Arrays, Learned, trained_with
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.run import CHECKPOINT, find_runs
from wsrl_kit.training import start as agents

FOLDER = "hil_serl"
"""An export's folder in a run's folder."""

IMAGE_SIZE = 128
"""Height and width of HIL-SERL's camera images; its checkpoints do not tell them."""

CLASSES = {
    "fixed": "sac.SACAgent",
    "single": "sac_hybrid_single.SACAgentHybridSingleArm",
    "dual": "sac_hybrid_dual.SACAgentHybridDualArm",
}
"""In serl_launcher.agents.continuous, by `gripper`."""

GRIPPERS = {gripper.choices(setup): setup for setup in CLASSES}
"""`gripper` by the grasp critic's number of choices."""

ACTION_SIZES = {"single": 7, "dual": 14}
"""The action size that HIL-SERL's agents with learned grippers require."""

LEARNING_RATE = 3e-4
"""HIL-SERL's default; its next step computes the rate anew."""

MOMENTS = {"mu": "first_moment", "nu": "second_moment"}
"""Fields of `Learned` by the name of Adam's moment."""

ADAM = "opt_states/{}/inner_state/0/0"
"""The state of a network's Adam."""

MOST_ENTRIES = 10_000
"""Of a list in a msgpack file; flax's lists hold shapes and parts of arrays."""

SEPARATOR = "/"

DAMAGED = "is damaged or no checkpoint of HIL-SERL's"

Leaves = dict[str, Any]
"""Arrays and numbers by the path of their entry; `{}` for an empty entry."""


def export_all(root: Path) -> list[dict[str, str | int | float]]:
    """Exports every finished fine-tuning below `root` into `FOLDER` in its run's folder.

    Returns:
        A row per run: its arm and seed, and the export's folder or why HIL-SERL's agents can't hold the agent.
    """
    rows: list[dict[str, str | int | float]] = []
    for record in find_runs(root):
        if record.kind == "finetune" and record.status == "finished":
            target = record.folder / FOLDER
            try:
                export(record.folder / CHECKPOINT, target)
                outcome = str(target)
            except CheckpointError as error:
                outcome = str(error)
            rows.append({"run": f"{record.arm}, seed {record.seed}", "exported": outcome})
    return rows


def export(source: Path, folder: Path, cameras: Sequence[str] | None = None) -> str:
    """Writes the agent of a checkpoint for HIL-SERL's `--checkpoint_path folder`.

    Args:
        source: a warmup checkpoint, or the checkpoint.npz of a run's folder.
        folder: gets `checkpoint_<critic updates>`, and an empty dump in `buffer`, without which HIL-SERL's actor does
            not start beside a checkpoint.
        cameras: HIL-SERL's `image_keys`, in their order; None: sorted.

    Returns:
        The HIL-SERL call that creates an agent which restores the checkpoint.

    Raises:
        CheckpointError: HIL-SERL's agents can't hold it, or it can't be read or written.
    """
    agent = {name.removeprefix("agent/"): array for name, array in checkpoint.read(source, "agent/").items()}
    if "updates" not in agent:
        raise CheckpointError(f"{source} holds no agent: expected a warmup checkpoint or that of a run")
    _check_expressible(source, agent)
    found = hil_serl_agent.kit_cameras(agent)
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
        tree = traverse_util.unflatten_dict(_to_leaves(learned), sep=SEPARATOR)
        temporary.write_bytes(serialization.msgpack_serialize(tree))
    if cameras and not (folder / "buffer").exists():
        with written_whole(folder / "buffer" / "transitions_0.pkl", CheckpointError) as temporary:
            temporary.write_bytes(pickle.dumps([]))
    return _call(learned, cameras)


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
    if not (stray := hil_serl_agent.unsupported(agent)):
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
    setup = GRIPPERS[hil_serl_agent.gripper_choices(learned.parameters)]
    size = len(learned.parameters["modules_actor/Dense_0/bias"]) + gripper.COUNTS[setup]
    if size != ACTION_SIZES.get(setup, size):
        raise CheckpointError(
            f"{source} can't be exported: HIL-SERL's {CLASSES[setup].split('.')[1]} learns actions of "
            f"{ACTION_SIZES[setup]} entries, found {size}"
        )


def _call(learned: Learned, cameras: Sequence[str]) -> str:
    """The HIL-SERL call that creates an agent of these sizes."""
    parameters = learned.parameters
    pattern = re.compile("modules_actor/network/Dense_[0-9]+/bias")
    sizes = [len(array) for name, array in sorted(parameters.items()) if pattern.fullmatch(name)]
    critics = len(next(array for name, array in parameters.items() if name.startswith("modules_critic/network/")))
    network = f"{{'hidden_dims': {sizes}, 'activations': nn.tanh, 'use_layer_norm': True}}"
    images = f"encoder_type='resnet-pretrained', use_proprio=True, image_keys={tuple(cameras)}, " if cameras else ""
    setup = GRIPPERS[hil_serl_agent.gripper_choices(parameters)]
    grasp = "" if setup == gripper.FIXED else f"grasp_critic_network_kwargs={network}, "
    return (
        f"serl_launcher.agents.continuous.{CLASSES[setup]}.create_{'pixels' if cameras else 'states'}("
        f"{images}critic_ensemble_size={critics}, critic_network_kwargs={network}, {grasp}"
        f"policy_network_kwargs={network}, policy_kwargs={{"
        "'tanh_squash_distribution': True, 'std_parameterization': 'exp', 'std_min': 1e-5, 'std_max': 5})"
    )


def _to_leaves(learned: Learned) -> Leaves:
    """HIL-SERL's state: each optimizer holds moments of all parameters, 0 for the parameters of other networks.

    But each holds the critics' second moments of the encoder: from 0, the first steps of the optimizers that train the
    encoder in HIL-SERL alone would be several times as long as the critics'.
    """
    found: Leaves = {"step": learned.updates, "rng": np.array([0, learned.updates], np.uint32)}
    found |= {f"params/{name}": array for name, array in learned.parameters.items()}
    found |= {f"target_params/{name}": array for name, array in learned.target.items()}
    for network, steps_done in learned.steps.items():
        state, adam = f"opt_states/{network}", ADAM.format(network)
        steps = np.asarray(steps_done, np.int32)
        found |= {
            f"{state}/count": steps,
            f"{state}/hyperparams/learning_rate": np.asarray(LEARNING_RATE, np.float32),
            f"{state}/hyperparams_states/learning_rate/count": steps,
            f"{adam}/count": steps,
            f"{state}/inner_state/0/1": {},
        }
        for kind, field in MOMENTS.items():
            found |= {
                f"{adam}/{kind}/{name}": array
                if trained_with(name) == network or (kind == "nu" and name.startswith(ENCODER))
                else np.zeros_like(array)
                for name, array in getattr(learned, field).items()
            }
    # hil-serl's state has this field; serl's, for agents without cameras, does not.
    return found | ({"epsilon": 0.0} if hil_serl_agent.hil_serl_cameras(learned.parameters) else {})


def import_hil_serl(source: Path, target: Path, cameras: Sequence[str] | None = None) -> SACConfig:
    """Writes the agent of a HIL-SERL checkpoint as a warmup checkpoint, for fine-tuning's `checkpoint_path`.

    The warmup checkpoint has no probe batch: fine-tuning takes one from its own offline data. The file does not tell
    activations and image size: tanh, as in HIL-SERL's scripts, and 128x128.

    Args:
        source: a `checkpoint_<step>` file or folder, or a folder of several: the latest is imported.
        cameras: HIL-SERL's `image_keys`, in their order; required for three or more cameras, as the file does not tell
            their order.

    Raises:
        CheckpointError: not HIL-SERL's, damaged, or of an agent that this kit does not have; naming the entry.
    """
    leaves = _read(source)
    with reading(source, CheckpointError, DAMAGED):
        cameras = _camera_order(source, hil_serl_agent.hil_serl_cameras(_below(leaves, "params")), cameras)
        agent_config = _agent_config(source, leaves, cameras)
        shapes = jax.eval_shape(
            lambda: sac.create(
                agent_config,
                jax.random.key(0),
                jnp.zeros(agent_config.observation_size),
                jnp.ones(agent_config.observation_size),
            )
        )
        fresh = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in checkpoint.named_leaves(shapes)}
        fresh["observation_scale"] += 1.0
        learned = _from_leaves(source, leaves, hil_serl_agent.from_agent(fresh, cameras))
        # HIL-SERL has no CQL: the multiplier of its term and the multiplier's optimizer start at 0.
        agent = fresh | hil_serl_agent.to_agent(learned, cameras)
        agent = jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(agent[name]) for name in fresh])
    agents.save_warmup(target, agent_config, agent, agents.probe_zeros(agent_config, 0), {"imported_from": str(source)})
    return agent_config


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


def _agent_config(source: Path, leaves: Leaves, cameras: Sequence[str]) -> SACConfig:
    """The agent's config, from the sizes of the file's parameters."""

    def length(name: str) -> int:
        return len(np.atleast_1d(_entry(source, leaves, f"params/{name}")))

    hidden = "modules_actor/network/Dense_{}/bias"
    critic = f"modules_critic/network/{'VmapMLP_0/' if cameras else ''}Dense_0/bias"
    state = "modules_actor/encoder/Dense_0/kernel" if cameras else "modules_actor/network/Dense_0/kernel"
    layers = next(index for index in count() if f"params/{hidden.format(index)}" not in leaves)
    # Without cameras HIL-SERL has no grasp critic.
    choices = hil_serl_agent.gripper_choices(_below(leaves, "params")) if cameras else 1
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
        temperature_parameterisation="softplus",
    )
    pixels = PixelConfig(tuple(sorted(cameras)), IMAGE_SIZE, IMAGE_SIZE) if cameras else None
    action_size = length("modules_actor/Dense_0/bias") + gripper.COUNTS[setup]
    try:
        return sac.from_parameters(config, length(state), action_size, pixels)
    except ParameterError as error:
        raise CheckpointError(f"{source} is of no agent that this kit has: {error}") from error


def _from_leaves(source: Path, leaves: Leaves, expected: Learned) -> Learned:
    """What the agent of a checkpoint has learned.

    Args:
        expected: a fresh agent's, with the names and shapes to find.

    Raises:
        CheckpointError: an entry is missing, unknown, or of another shape.
    """
    if extra := set(_below(leaves, "params")) - set(expected.parameters):
        raise CheckpointError(f"{source} holds params/{min(extra)}, which this kit's agents do not have")

    def found(place: Callable[[str], str]) -> Arrays:
        return {name: _entry(source, leaves, place(name), array.shape) for name, array in expected.parameters.items()}

    def moments(kind: str) -> Arrays:
        return found(lambda name: f"{ADAM.format(trained_with(name))}/{kind}/{name}")

    return Learned(
        parameters=found(lambda name: f"params/{name}"),
        target=found(lambda name: f"target_params/{name}"),
        **{field: moments(kind) for kind, field in MOMENTS.items()},
        steps={network: int(_entry(source, leaves, f"{ADAM.format(network)}/count", ())) for network in expected.steps},
        updates=int(_entry(source, leaves, "step", ())),
    )


def _below(leaves: Leaves, prefix: str) -> Arrays:
    """The leaves below an entry, by the rest of their path."""
    start = f"{prefix}/"
    return {name.removeprefix(start): np.asarray(leaf) for name, leaf in leaves.items() if name.startswith(start)}


def _entry(source: Path, leaves: Leaves, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    if name not in leaves:
        raise CheckpointError(f"{source} has no {name}: expected a checkpoint of HIL-SERL's agents")
    found = np.asarray(leaves[name])
    if shape is not None and found.shape != shape:
        raise CheckpointError(
            f"{source} holds {name} as {list(found.shape)}, but the sizes of its other entries need {list(shape)}"
        )
    return found


def _read(source: Path) -> Leaves:
    """The leaves of a checkpoint in either of flax's formats, as NumPy arrays; empty entries are left out.

    Args:
        source: a msgpack file; a folder of orbax, which flax's `save_checkpoint` writes by default; or a folder of
            several checkpoints: the latest is read.

    Raises:
        CheckpointError: it is missing, damaged, or something else.
    """
    if not source.exists():
        raise CheckpointError(f"{source} does not exist: expected a checkpoint of HIL-SERL's")
    with reading(source, CheckpointError, DAMAGED):
        if source.is_file():
            tree = _read_msgpack(source)
        else:
            # Only for folders: orbax takes seconds to import.
            from flax.training import checkpoints

            latest = checkpoints.latest_checkpoint(source.absolute())
            chosen = source.absolute() if latest is None else Path(latest)
            tree = _read_msgpack(chosen) if chosen.is_file() else _read_orbax(chosen)
        leaves = traverse_util.flatten_dict(tree, sep=SEPARATOR)
        return {name: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf for name, leaf in leaves.items()}


def _read_msgpack(path: Path) -> Any:
    content = path.read_bytes()
    # msgpack allocates a list before it reads it: refuse lists that declare more entries than any of flax's.
    msgpack.unpackb(content, ext_hook=_check_array, max_array_len=MOST_ENTRIES, strict_map_key=False)
    return serialization.msgpack_restore(content)


def _check_array(_code: int, content: bytes) -> None:
    msgpack.unpackb(content, max_array_len=MOST_ENTRIES)


def _read_orbax(path: Path) -> Any:
    from flax.training import checkpoints
    from orbax.checkpoint import PyTreeCheckpointer

    if any(not entry.resolve().is_relative_to(path.resolve()) for entry in path.rglob("*")):
        raise ValueError("it holds links to other places")
    declared = jax.tree.leaves(PyTreeCheckpointer().metadata(path).item_metadata.tree)
    sizes = [math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in declared if hasattr(leaf, "shape")]
    check_size(sum(sizes), sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file()))
    with warnings.catch_warnings():
        # The arrays may come back to another kind of device on purpose.
        warnings.filterwarnings("ignore", "Sharding info not provided", UserWarning)
        return checkpoints.restore_checkpoint(path, None)
