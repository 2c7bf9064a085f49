"""Map an agent's arrays to the arrays of HIL-SERL's agents and back.

Both agents compute the same functions. What differs:
    - HIL-SERL's networks see raw states, ours normalised states; an export folds the normalisation into a layer.
    - HIL-SERL's actor has one last layer for the mean and one for the log standard deviation; ours has one for both.
    - HIL-SERL's temperature is the softplus of a parameter, ours by default the exponential; an import keeps softplus.
    - HIL-SERL's target copies every parameter, but only critics and encoder are used; ours copies only these.

Training goes on from the same point, but not on the same path: Adam's steps depend on the form of the parameters.
Gradients by one form's parameters are linear in the other form's gradients. So Adam's first moments are converted
exactly, and second moments too, except for a kernel with a normalisation whose center is not 0: there the gradients of
kernel and bias count as uncorrelated, as they are for inputs of mean 0.

Two of HIL-SERL's optimizers train the encoder and ours do not: the grasp critic's, and the actor's for the encoder of
the state. An import drops their moments of the encoder; an export writes 0 and the critics' second moments. The random
key is not converted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wsrl_kit.agent.vision import SHARED_TRUNK

Layer = tuple[Float[np.ndarray, "*ensemble input output"], Float[np.ndarray, "*ensemble output"]]
"""Kernel and bias, or the moments of the gradients by them."""


def unnormalised(
    kernel: Float[np.ndarray, "*ensemble input output"],
    bias: Float[np.ndarray, "*ensemble output"],
    center: Float[np.ndarray, " state"],
    scale: Float[np.ndarray, " state"],
) -> Layer:
    """The layer on raw states that equals the given layer on `(state - center) / scale`.

    Args:
        kernel: the state's entries are its first inputs.
    """
    rows = kernel[..., : len(scale), :] / scale[:, None]
    rest = kernel[..., len(scale) :, :]
    return np.concatenate([rows.astype(np.float32), rest], axis=-2), (bias - center @ rows).astype(np.float32)


def unnormalised_moment(
    kernel: Float[np.ndarray, "*ensemble input output"],
    bias: Float[np.ndarray, "*ensemble output"],
    power: int,
    center: Float[np.ndarray, " state"],
    scale: Float[np.ndarray, " state"],
) -> Layer:
    """Moments of the gradients by `unnormalised`'s layer: its kernel's is `scale * kernel's + center * bias's`.

    Args:
        kernel, bias: moments of the gradients by the given layer.
        power: 1 for first, 2 for second moments.
    """
    rows = scale[:, None] ** power * kernel[..., : len(scale), :] + center[:, None] ** power * bias[..., None, :]
    rest = kernel[..., len(scale) :, :]
    return np.concatenate([rows.astype(np.float32), rest], axis=-2), bias


Arrays = dict[str, np.ndarray]
"""Parameters, or a moment of each, by name."""

OPTIMIZERS = {
    "actor": "actor_optimizer",
    "critic": "critic_optimizer",
    "temperature": "temperature_optimizer",
    "grasp_critic": "grasp/optimizer",
}
"""Our optimizers by the networks of HIL-SERL's agents; only agents with learned grippers have a grasp critic."""

OUR_TEMPERATURE, TEMPERATURE = "temperature_parameter/softplus", "modules_temperature/lagrange"
EXPONENTIAL = "temperature_parameter/exponential"
OUR_ENCODER, ENCODER = "critic/encoder/maps/params/", "modules_actor/encoder/"
OUR_TRUNK, OUR_TRAINED_TRUNK = (f"{place}/{SHARED_TRUNK}/params/" for place in ("trunk", "critic/encoder/trunks"))
TRUNK = "/pretrained_encoder/"
OUR_NORM, NORM = "NormalisedTanh_", "LayerNorm_"
GRASP_OUTPUT = "modules_grasp_critic/Dense_0/"

STATE_NAMES = {
    "actor/params/HiddenLayers_0/": "modules_actor/network/",
    "critic/params/VmapCritic_0/HiddenLayers_0/": "modules_critic/network/",
    "critic/params/VmapCritic_0/Dense_0/": "modules_critic/Dense_0/",
    OUR_TEMPERATURE: TEMPERATURE,
}
"""Prefixes of our names, and of the names in SERL's agents that see states alone (`create_states`)."""

PIXEL_NAMES = {
    "actor/params/HiddenLayers_0/": "modules_actor/network/",
    "critic/ensemble/params/VmapHiddenLayers_0/": "modules_critic/network/VmapMLP_0/",
    "critic/ensemble/params/shared_output/": "modules_critic/Dense_0/",
    "grasp_critic/params/HiddenLayers_0/": "modules_grasp_critic/network/",
    "grasp_critic/params/Dense_0/": GRASP_OUTPUT,
    OUR_ENCODER: ENCODER,
    OUR_TEMPERATURE: TEMPERATURE,
}
"""Prefixes of our names, and of the names in HIL-SERL's agents with cameras (`create_pixels`)."""

OUR_OUTPUT = "actor/params/Dense_0/"
OUTPUTS = ("modules_actor/Dense_0/", "modules_actor/Dense_1/")
"""The actor's last layers, for the mean and the log standard deviation: the halves of our one."""

PARAMETER_PLACES = {
    "actor/": "actor/",
    "critic/": "critic/",
    "grasp_critic/": "grasp/critic/",
    "trunk/": "trunk/",
    OUR_TEMPERATURE: OUR_TEMPERATURE,
}
"""Prefixes of parameters, and of their places in a `SACState`."""

TARGET_PLACES = {"critic/": "target_critic/", "grasp_critic/": "grasp/target/"}

FIELDS = {
    *("actor", "critic", "target_critic", "grasp", "trunk", "temperature_parameter", "updates"),
    *("actor_optimizer", "critic_optimizer", "temperature_optimizer"),
    *("observation_center", "observation_scale"),
    # An agent without CQL needs no multiplier.
    *("log_multiplier", "multiplier_optimizer"),
}
"""Fields of a `SACState` that HIL-SERL's agents hold too, or do not need."""


@dataclass(frozen=True)
class Learned:
    """What an agent has learned, by HIL-SERL's parameter names.

    Attributes:
        parameters: all that are learned, and the images' trunk.
        target: a copy of every parameter; HIL-SERL uses critics (the grasp critic too) and encoder.
        first_moment, second_moment: Adam's, in the optimizer of the network that trains the parameter; 0 for the trunk.
        steps: steps of each network's optimizer.
        updates: critic updates.
    """

    parameters: Arrays
    target: Arrays
    first_moment: Arrays
    second_moment: Arrays
    steps: dict[str, int]
    updates: int


def from_agent(agent: Arrays, cameras: Sequence[str]) -> Learned:
    """What an agent has learned.

    Args:
        agent: the arrays of a `SACState` by a checkpoint's names; none is `unsupported`.
        cameras: HIL-SERL's `image_keys`, in their order; ours are sorted.
    """
    agent = agent if OUR_TEMPERATURE in agent else _with_softplus(agent)
    center, scale = (agent[f"observation_{part}"].astype(np.float64) for part in ("center", "scale"))
    here = _at(agent, PARAMETER_PLACES)
    parameters = _hil_serl_parameters(here, cameras, center, scale)

    def moment(kind: str, power: int) -> Arrays:
        found = _hil_serl_names(_at(agent, _moment_places(kind)), cameras)
        # HIL-SERL never trains the trunk, but a momentum that is not 0 would move it.
        found = {name: np.zeros_like(array) if TRUNK in name else found[name] for name, array in parameters.items()}
        for layer in _first_layers(found):
            found |= _layer(layer, *unnormalised_moment(*_parts(found, layer), power, center, scale))
        return found

    return Learned(
        parameters=parameters,
        target=_hil_serl_parameters(here | _at(agent, TARGET_PLACES), cameras, center, scale),
        first_moment=moment("mu", 1),
        second_moment=moment("nu", 2),
        steps={
            network: int(agent[f"{optimizer}/0/count"])
            for network, optimizer in OPTIMIZERS.items()
            if f"{optimizer}/0/count" in agent
        },
        updates=int(agent["updates"]),
    )


def to_agent(learned: Learned, cameras: Sequence[str]) -> Arrays:
    """The arrays of a `SACState` that `from_agent` maps to `learned`, with softplus; CQL's multiplier is left out.

    Args:
        cameras: HIL-SERL's `image_keys`, in their order.
    """
    agent = _placed(_kit_names(learned.parameters, cameras), PARAMETER_PLACES)
    agent |= _placed(_kit_names(learned.target, cameras), TARGET_PLACES)
    for kind, moment in (("mu", learned.first_moment), ("nu", learned.second_moment)):
        agent |= _placed(_kit_names(moment, cameras), _moment_places(kind))
    for network, steps in learned.steps.items():
        # Part 1 counts the steps of the learning rate's schedule.
        for part in (0, 1):
            agent[f"{OPTIMIZERS[network]}/{part}/count"] = np.asarray(steps, np.int32)
    size = state_size(learned.parameters)
    return agent | {
        "updates": np.asarray(learned.updates, np.int32),
        "observation_center": np.zeros(size, np.float32),
        "observation_scale": np.ones(size, np.float32),
    }


def unsupported(agent: Arrays) -> list[str]:
    """Names of an agent's arrays that HIL-SERL's agents can't hold."""
    starts = (OUR_OUTPUT, *_names(kit_cameras(agent)))
    unknown = [name for name in agent if name.split("/")[0] not in FIELDS]
    return unknown + [name for name in _at(agent, PARAMETER_PLACES) if not name.startswith(starts)]


def kit_cameras(agent: Arrays) -> list[str]:
    """The cameras of our agent, sorted; [] for none."""
    return sorted(_cameras(agent, OUR_ENCODER))


def hil_serl_cameras(parameters: Arrays) -> list[str]:
    """The cameras of HIL-SERL's agent: the first of its `image_keys`, which holds the trunk, then the others sorted."""
    found = _cameras(parameters, ENCODER)
    return sorted(
        found, key=lambda camera: (f"{ENCODER}encoder_{camera}{TRUNK}conv_init/kernel" not in parameters, camera)
    )


def gripper_choices(parameters: Arrays) -> int:
    """Choices of HIL-SERL's grasp critic; 1: no learned gripper."""
    return len(parameters.get(f"{GRASP_OUTPUT}bias", [0]))


def state_size(parameters: Arrays) -> int:
    """Length of the flat state."""
    return len(parameters[f"{_first_layers(parameters)[0]}kernel"])


def trained_with(parameter: str) -> str:
    """The network whose optimizer trains a HIL-SERL parameter in our agent.

    In HIL-SERL the grasp critic's optimizer trains the encoder too, and the actor's the encoder of the state: it stops
    the gradient of images only.
    """
    return "critic" if parameter.startswith(ENCODER) else parameter.split("/")[0].removeprefix("modules_")


def _names(cameras: Sequence[str]) -> dict[str, str]:
    """Prefixes of our and HIL-SERL's names; our trained and our frozen trunk have one place in HIL-SERL."""
    if not cameras:
        return STATE_NAMES
    return PIXEL_NAMES | dict.fromkeys((OUR_TRAINED_TRUNK, OUR_TRUNK), f"{ENCODER}encoder_{cameras[0]}{TRUNK}")


def _cameras(parameters: Arrays, encoder: str) -> set[str]:
    start = f"{encoder}encoder_"
    return {name.removeprefix(start).split("/")[0] for name in parameters if name.startswith(start)}


def _moment_places(kind: str) -> dict[str, str]:
    places = {f"{network}/": f"{OPTIMIZERS[network]}/0/{kind}/" for network in ("actor", "critic", "grasp_critic")}
    return places | {OUR_TEMPERATURE: f"{OPTIMIZERS['temperature']}/0/{kind}/softplus"}


def _with_softplus(agent: Arrays) -> Arrays:
    """The agent with the parameter, and its moments, at which softplus is the temperature."""
    temperature = np.exp(float(agent[EXPONENTIAL]))
    # log(exp(temperature) - 1), in a form that does not overflow; and the ratio of the gradients.
    parameter, slope = temperature + np.log(-np.expm1(-temperature)), -np.expm1(-temperature) / temperature
    optimizer = f"{OPTIMIZERS['temperature']}/0"
    moments = {
        f"{optimizer}/{kind}/softplus": np.asarray(agent[f"{optimizer}/{kind}/exponential"] * slope**power, np.float32)
        for kind, power in (("mu", 1), ("nu", 2))
    }
    return agent | {OUR_TEMPERATURE: np.asarray(parameter, np.float32)} | moments


def _at(agent: Arrays, places: Mapping[str, str]) -> Arrays:
    """The arrays at these places of a `SACState`, by parameter name."""
    return {
        parameter + name.removeprefix(place): array
        for parameter, place in places.items()
        for name, array in agent.items()
        if name.startswith(place)
    }


def _placed(arrays: Arrays, places: Mapping[str, str]) -> Arrays:
    return _at(arrays, {place: parameter for parameter, place in places.items()})


def _hil_serl_names(here: Arrays, cameras: Sequence[str]) -> Arrays:
    names = _names(cameras)
    there: Arrays = {}
    for name, array in here.items():
        if name.startswith(OUR_OUTPUT):
            halves = np.split(array, 2, axis=-1)
            there |= {
                output + name.removeprefix(OUR_OUTPUT): half for output, half in zip(OUTPUTS, halves, strict=True)
            }
        else:
            there[_renamed(name, names).replace(OUR_NORM, NORM)] = array
    return _reordered(there, sorted(cameras), cameras)


def _kit_names(there: Arrays, cameras: Sequence[str]) -> Arrays:
    names = {there: here for here, there in _names(cameras).items()}
    here: Arrays = {}
    for name, array in _reordered(there, cameras, sorted(cameras)).items():
        if name.startswith(OUTPUTS[0]):
            part = name.removeprefix(OUTPUTS[0])
            here[OUR_OUTPUT + part] = np.concatenate([array, there[OUTPUTS[1] + part]], axis=-1)
        elif not name.startswith(OUTPUTS[1]):
            renamed = _renamed(name, names)
            here[renamed.replace(NORM, OUR_NORM) if "HiddenLayers_0" in renamed else renamed] = array
    return here


def _renamed(name: str, names: Mapping[str, str]) -> str:
    # A trunk lies within the encoder of a camera, so the longest prefix is right.
    start = max((start for start in names if name.startswith(start)), key=len)
    return names[start] + name.removeprefix(start)


def _hil_serl_parameters(
    here: Arrays, cameras: Sequence[str], center: Float[np.ndarray, " state"], scale: Float[np.ndarray, " state"]
) -> Arrays:
    there = _hil_serl_names(here, cameras)
    for layer in _first_layers(there):
        there |= _layer(layer, *unnormalised(*_parts(there, layer), center, scale))
    return there


def _first_layers(there: Arrays) -> tuple[str, ...]:
    """The layers whose first inputs are the state."""
    if f"{ENCODER}Dense_0/kernel" in there:
        return (f"{ENCODER}Dense_0/",)
    return ("modules_actor/network/Dense_0/", "modules_critic/network/Dense_0/")


def _parts(there: Arrays, layer: str) -> tuple[np.ndarray, np.ndarray]:
    return there[f"{layer}kernel"], there[f"{layer}bias"]


def _layer(layer: str, kernel: np.ndarray, bias: np.ndarray) -> Arrays:
    return {f"{layer}kernel": kernel, f"{layer}bias": bias}


def _reordered(there: Arrays, cameras: Sequence[str], wanted: Sequence[str]) -> Arrays:
    """The parameters for another order of the cameras: rows of the networks' first kernels move."""
    if list(cameras) == list(wanted):
        return there
    width = len(there[f"{ENCODER}encoder_{cameras[0]}/Dense_0/bias"])
    blocks = [np.arange(width) + width * cameras.index(camera) for camera in wanted]
    reordered = dict(there)
    for layer in ("modules_actor/network/", "modules_critic/network/VmapMLP_0/", "modules_grasp_critic/network/"):
        if (kernel := there.get(f"{layer}Dense_0/kernel")) is not None:
            rows = np.concatenate([*blocks, np.arange(width * len(cameras), kernel.shape[-2])])
            reordered[f"{layer}Dense_0/kernel"] = kernel[..., rows, :]
    return reordered
