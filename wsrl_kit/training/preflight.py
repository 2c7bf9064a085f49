"""What must hold before a robot moves: it answers, is where it may be, and shows what the policy expects."""

from contextlib import closing
from pathlib import Path

from wsrl_kit import envs
from wsrl_kit.config import WSRLConfig
from wsrl_kit.envs.robot import preflight
from wsrl_kit.training import agent as agents
from wsrl_kit.training.observations import camera_shapes, state_space


def check(config: WSRLConfig) -> list[str]:
    """The facts found, a sentence each. Reads, and moves nothing.

    Raises:
        RobotError: the robot's server or a camera fails, or the robot is outside its safety box.
        CheckpointError: the checkpoint is of an agent that sees or does other things.
        WSRLKitError: the experiment can't be made.
    """
    with closing(envs.make(config.exp_name, config.environment_options)) as environment:
        facts = preflight(environment)
        static, agent = agents.create(config, environment, None)
        shown = [f"{name} {list(shape)}" for name, shape in camera_shapes(environment).items()]
        facts.append(
            f"observations: {', '.join([f'state [{state_space(environment).shape[0]}]', *shown])}; "
            f"actions: {static.action_size}"
        )
        if config.checkpoint_path is not None:
            agents.load_warmup(Path(config.checkpoint_path), static, agent)
            facts.append(f"{config.checkpoint_path} fits them")
    return facts
