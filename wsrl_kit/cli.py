"""The command line: notebooks by own names, recording, data files, runs, `lab`, `robot-sim`, other kits' files."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

import wsrl_kit
from wsrl_kit.errors import ParameterError, Stopped, WSRLKitError
from wsrl_kit.notebook.parameters import MORE, Notebook, read_notebook
from wsrl_kit.notebook.templates import COMMANDS, copy_templates, template_folder
from wsrl_kit.parameters import user_path
from wsrl_kit.text import printable

if TYPE_CHECKING:
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.data.conventions import Conventions
    from wsrl_kit.data.sources import Paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 130 if stopped, 2 for a wrong parameter, 1 for another failure."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _command(arguments)
    except Stopped as stopped:
        print(f"wsrl-kit: {stopped}", file=sys.stderr)
        return 130
    except WSRLKitError as error:
        print("\n".join(map(printable, f"wsrl-kit: error: {error}".split("\n"))), file=sys.stderr)
        return 2 if isinstance(error, ParameterError) else 1


class _Parser(argparse.ArgumentParser):
    """Takes whole names of flags only; so do its commands' parsers."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "allow_abbrev": False})


def _command(arguments: list[str]) -> int:
    parser = _Parser(prog="wsrl-kit", description=wsrl_kit.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    for add_wanted in (_add_notebooks, _add_record, _add_rehearse):
        add_wanted(commands, arguments[:1])
    for add in (_add_lab, _add_data, _add_advise, _add_watch, _add_hil_serl, _add_robot):
        add(commands)
    options, rest = parser.parse_known_args(arguments)
    if described := getattr(options, "described", None):
        return options.do(described, _flags(options, rest, described), options.out)
    if options.command == "lab":
        return _lab(options.folder, arguments[1:])
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options.do(options)


def _add_run(commands: Any) -> None:
    run = commands.add_parser("run", help="execute any notebook, headless")
    run.add_argument("notebook", type=user_path, help="the notebook to execute")
    run.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter of the notebook"
    )
    _add_out(run)
    run.set_defaults(do=lambda options: _run(options.notebook, dict(options.p), options.out))


def _add_described(
    commands: Any,
    wanted: list[str],
    name: str,
    help: str,
    notebook: str,
    do: Callable[[Notebook, dict[str, Any], Path | None], int],
    **defaults: Any,
) -> argparse.ArgumentParser:
    """A command whose flags are a notebook's parameters; the notebook is read for the wanted command alone.

    Args:
        do: gets the notebook, the parameters given, and the folder of the run.
        defaults: of the command, where they are not the notebook's.
    """
    command: argparse.ArgumentParser = commands.add_parser(name, help=help)
    _add_out(command)
    if wanted == [name]:
        described = read_notebook(template_folder() / notebook)
        described = replace(described, defaults=described.defaults | defaults)
        _add_parameters(command, described)
        command.set_defaults(described=described, do=do)
    return command


def _add_notebooks(commands: Any, wanted: list[str]) -> None:
    def run(notebook: Notebook, given: dict[str, Any], out: Path | None) -> int:
        return _run(notebook.path, given, out)

    for name, (notebook, help) in COMMANDS.items():
        command = _add_described(commands, wanted, name, help, notebook, run)
        if name == "report":
            command.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, or globs; or {arm: folders}")


def _add_record(commands: Any, wanted: list[str]) -> None:
    _add_described(
        commands,
        wanted,
        "record",
        "record episodes with a person, in this terminal",
        COMMANDS["collect"][0],
        _record,
        operator="keyboard",
        suboptimal_episodes=0,
        random_episodes=0,
        output_dir="runs/recorded",
    )


_LEGEND = "Keys: Enter keep, x discard (another start), z redo (the same start), y success, n failure, Ctrl-C stop."
_MOVES, _GRIPPER = "W/S A/D R/F x y z, J/L I/K U/O around x y z, space stay", ", V/C open and close"


def _record(notebook: Notebook, given: dict[str, Any], out: Path | None) -> int:
    from wsrl_kit.envs.config import KEYBOARD, PAD, SCRIPTED, SPACEMOUSE, CollectConfig
    from wsrl_kit.notebook.parameters import check_values
    from wsrl_kit.parameters import build
    from wsrl_kit.robot.devices import SpaceMouse, TerminalKeys
    from wsrl_kit.robot.record import run_record
    from wsrl_kit.robot.takeover import PersonInput
    from wsrl_kit.runs.progress import Silent

    class Lines(Silent):
        last = ""

        def update(self, step: int, total: int, text: str) -> None:
            if not self.last:  # by now the task's robot is known
                moves = _MOVES + _GRIPPER * person.has_gripper + "." if config.operator == KEYBOARD else ""
                print(f"{_LEGEND}\n{moves}".rstrip())
            if text != self.last:
                print(text, flush=True)
            self.last = text

    values = notebook.defaults | check_values(notebook, given)
    config = build(CollectConfig, values)
    if config.operator in (SCRIPTED, PAD):
        raise ParameterError(
            f"operator of wsrl-kit record must be {KEYBOARD!r} or {SPACEMOUSE!r}, found {config.operator!r}: "
            "00_collect_data.ipynb in JupyterLab has the pad, wsrl-kit collect the scripts"
        )
    folder = out or user_path(values["output_dir"])
    devices = [SpaceMouse()] if config.operator == SPACEMOUSE else []
    with closing(PersonInput(devices=[*devices, TerminalKeys(moves=not devices)])) as person:
        run_record(config, folder, Lines(), person)
    print(f"{folder}: recorded, for --offline_data_path or HIL-SERL's --demo_path")
    return 0


_EVENING = {
    "robot_speed": 10.0,
    "demonstrations": 10,
    "final_episodes": 5,
    "batch_size": 128,
    "hidden_sizes": [128, 128],
    "warmup_evaluation_interval": 1_000,
}
"""Parameters of a rehearsal that notebook 08 does not list."""


def _add_rehearse(commands: Any, wanted: list[str]) -> None:
    _add_described(
        commands,
        wanted,
        "rehearse",
        "run an evening at a robot on its simulated twin, ten times faster, with a scripted person, and time it",
        COMMANDS["hil-serl"][0],
        _rehearse,
        arms=["hil_serl"],
        seeds=[0],
        human="person",
        warmup_steps=1_000,
        behavior_cloning_fade_steps=1_000,
        online_steps=1_000,
        output_dir="runs/rehearsal",
        **{MORE: _EVENING},
    )


def _rehearse(notebook: Notebook, given: dict[str, Any], out: Path | None) -> int:
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.hil_serl.config import HilSerlConfig
    from wsrl_kit.hil_serl.rehearsal import StepTime, run_rehearsal
    from wsrl_kit.notebook.live import Training
    from wsrl_kit.notebook.parameters import check_values, merged
    from wsrl_kit.parameters import build

    values = merged(notebook.defaults | check_values(notebook, given))
    if values["robot_url"] is not None:
        raise ParameterError("a rehearsal has a simulated robot of its own: robot_url must be None")
    config, plan = build(WSRLConfig, values), build(HilSerlConfig, values)
    folder = out or user_path(values["output_dir"])
    times: list[StepTime] = []
    Training(lambda progress: times.extend(run_rehearsal(config, plan, folder, progress)), live=False).start()
    print(f"\n{'step':<12}{f's at {plan.robot_speed:g}x':>10}{'s at 1x':>10}  result")
    for step in times:
        print(f"{step.name:<12}{step.seconds:>10.1f}{step.robot_seconds:>10.1f}  {step.result}")
    print(f"\ns at 1x: at least, since the robot takes its control steps in real time\n{folder}")
    return 0


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=user_path, help="folder of the run; an unfinished run in it is resumed")


def _add_parameters(parser: argparse.ArgumentParser, notebook: Notebook) -> None:
    """A flag for every parameter: those that the notebook lists first, then the others by group."""
    parser.usage = f"{parser.prog} {'RUNS ... ' if 'runs' in notebook.fields else ''}[--out OUT] [--NAME=VALUE ...]"
    values, fields, taken = notebook.values, notebook.fields, {"output_dir", "runs", MORE}
    listed = {name: fields[name] for name in notebook.defaults if name in fields}
    for heading, group in {f"The parameters of {notebook.path.name}": listed, **notebook.groups}.items():
        section = parser.add_argument_group(heading)
        for name in [name for name in group if name not in taken]:
            taken.add(name)
            declared, annotation = group[name].metadata, notebook.annotation(name)
            is_switch = bool in (annotation, *get_args(annotation))
            choices = (True, False) if is_switch else declared["choices"] or ()
            shown = f"{{{','.join(map(str, choices))}}}" if choices else "VALUE"
            help = f"{declared['help']} (default: {values[name]!r})".replace("%", "%%")
            section.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar=shown, help=help)


def _flags(options: argparse.Namespace, rest: Sequence[str], notebook: Notebook) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if name not in ("command", "described", "do", "out")}
    if len(given.get("runs", ())) == 1:
        # A single one may spell a list or a dict.
        given |= {"runs": given["runs"][0]}
    for argument in rest:
        name, _, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise ParameterError(f"every parameter must be given as --name=value, found {argument!r}")
        if name not in notebook.names:
            raise notebook.refusal(name)
        given[name] = value
    return given


def _run(notebook: Path, given: dict[str, Any], out: Path | None) -> int:
    from wsrl_kit.notebook.headless import Interrupted, run_notebook

    named = given.pop("output_dir", None)
    out = out or user_path(named or f"runs/{notebook.stem}-{time.strftime('%Y%m%d-%H%M%S')}", "output_dir")
    try:
        run_notebook(notebook, given, out)
    except Interrupted as interrupted:
        print(f"wsrl-kit: {interrupted}; the same command with --out {out} continues", file=sys.stderr)
        return 128 + interrupted.number
    summary = out / "summary.txt"
    if summary.exists():
        print(f"\n{summary.read_text()}")
    written = [path for pattern in ("[!.]*.*", "figures/*", "videos/*") for path in sorted(out.glob(pattern))]
    print("\n".join(["", *map(str, written)]))
    return 0


def _add_lab(commands: Any) -> None:
    lab = commands.add_parser(
        "lab",
        help="open copies of the notebooks in JupyterLab",
        epilog="Further arguments, such as --no-browser, go to JupyterLab.",
    )
    lab.add_argument(
        "folder",
        nargs="?",
        type=user_path,
        metavar="DIR",
        help="folder of the copies; notebooks in it are kept (default: lab)",
    )


def _lab(folder: Path | None, arguments: Sequence[str]) -> int:
    """Opens copies of the notebooks; relative paths in them begin at the current folder, as those of commands do."""
    from jupyterlab.labapp import LabApp

    if folder and arguments[0].startswith("-"):
        raise ParameterError(f"the folder must come before JupyterLab's own arguments, found {arguments[0]} first")
    root, folder, options = Path.cwd(), folder or Path("lab"), arguments[1:] if folder else arguments
    copies = copy_templates(folder, root)
    for kind, what in (("new", "copied"), ("kept", "kept as they are")):
        if copies[kind]:
            print(f"{folder}: {what}: {', '.join(copies[kind])}")
    for name in copies["outdated"]:
        print(f"{folder / name} is kept, but is not from this version's notebook: rename it to get that one next time")
    print(f"Relative paths in them begin at {root}.", flush=True)
    browsed = root if folder.resolve().is_relative_to(root) else folder.resolve()
    opened = quote(f"/lab/tree/{folder.resolve().relative_to(browsed).as_posix()}")
    arguments = [f"--ServerApp.root_dir={browsed}", f"--LabApp.default_url={opened}"]
    if template_folder().is_relative_to(browsed):
        # What commands execute is not for editing in passing: the file browser of a clone does not list it.
        arguments += [f"--ContentsManager.hide_globs={name}" for name in (template_folder().name, "__pycache__")]
    LabApp.launch_instance([*arguments, *options])
    return 0


def _add_data(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="report what data files hold and what is wrong with them")
    doctor.set_defaults(do=_doctor)
    browse = commands.add_parser("browse", help="list the episodes of data files, and draw one of each source")
    browse.add_argument(
        "--out",
        type=user_path,
        default=Path("runs/browse"),
        metavar="DIR",
        help="folder of episodes.csv and figures (default: runs/browse)",
    )
    browse.set_defaults(do=_browse, missing_rewards="none")  # it shows what is yet to be labelled
    export = commands.add_parser("export-lerobot", help="write data files as a LeRobotDataset v3")
    export.add_argument(
        "--out", type=user_path, required=True, metavar="DIR", help="folder to write, which must be new"
    )
    export.add_argument("--frames_per_second", default="10", help="rate of the recording, in whole Hz (default: 10)")
    export.add_argument("--task", help="what the robot does, in words (default: exp_name)")
    export.set_defaults(do=_export_lerobot)
    for command in (doctor, browse, export):
        command.add_argument("files", nargs="+", metavar="DATA", help="files, folders, globs, or {source name: files}")
        command.add_argument("--exp_name", help="task of the data; doctor says what does not fit the task")
        command.add_argument("--environment_options", default="{}", help="options of the task, a dict")
        command.add_argument(
            "--action_units",
            default="normalized",
            help="units of the actions in the files: normalized, or task (default: normalized)",
        )
        command.add_argument(
            "--camera_names", default="{}", help="names of cameras in the files -> their names in the task, a dict"
        )
    for command in (doctor, export):
        command.add_argument(
            "--missing_rewards",
            default="labels",
            help="success in data without rewards: labels, last_frame or none (default: labels)",
        )


def _doctor(options: argparse.Namespace) -> int:
    from wsrl_kit.data.doctor import examine_all, render

    paths, config, reading = _data(options)
    task = None
    if options.exp_name is not None:
        from wsrl_kit.training.inputs import describe

        task = describe(config.exp_name, config.environment_options)
    reports = examine_all(paths, conventions=reading, task=task)
    for report in reports:
        print(render(report))
    return 1 if any(report.problems for report in reports) else 0


def _browse(options: argparse.Namespace) -> int:
    from wsrl_kit.analysis.episodes import episode_table, read_files, write_episodes

    paths, config, reading = _data(options)
    files, weights = read_files(paths, reading), config.weight_by_source
    table = episode_table(files, weights, config.success_weight_bonus, config.quality_weighting)
    write_episodes(table, options.out, reading)
    counts = table.groupby("source", sort=False).size()
    print("\n".join(f"{source}: {count} episodes" for source, count in counts.items()))
    print("\n".join(map(str, [options.out / "episodes.csv", *sorted((options.out / "figures").glob("*.png"))])))
    return 0


def _export_lerobot(options: argparse.Namespace) -> int:
    from wsrl_kit.data.conventions import UNKNOWN
    from wsrl_kit.data.formats.lerobot_write import write_lerobot
    from wsrl_kit.data.sources import load_sources
    from wsrl_kit.parameters import check, parse

    paths, config, reading = _data(options)
    if config.missing_rewards == UNKNOWN:
        raise ParameterError("missing_rewards 'none' leaves no rewards to write: give labels or last_frame")
    rate = check("frames_per_second", parse(options.frames_per_second, int), int, {"minimum": 1})
    dataset = load_sources(paths, conventions=reading)
    write_lerobot(options.out, dataset, rate, options.task or options.exp_name or "unnamed task")
    print(f"{options.out}: {dataset.episode_count} episodes, {len(dataset)} frames")
    return 0


def _data(options: argparse.Namespace) -> tuple["Paths", "WSRLConfig", "Conventions"]:
    """Data files as a command names them, the parameters given beside them, and how to read them."""
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.data.conventions import Conventions
    from wsrl_kit.data.sources import Paths
    from wsrl_kit.parameters import parse

    # A single one may spell a list or a dict.
    paths: Paths = parse(options.files[0], Paths) if len(options.files) == 1 else options.files
    config = WSRLConfig(
        environment_options=parse(options.environment_options, dict),
        action_units=options.action_units,
        camera_names=parse(options.camera_names, dict),
        missing_rewards=options.missing_rewards,
        **({} if options.exp_name is None else {"exp_name": options.exp_name}),
    )
    if options.exp_name is not None:
        from wsrl_kit.training.inputs import conventions

        return paths, config, conventions(config)
    if options.action_units != "normalized":
        raise ParameterError(f"action_units {options.action_units!r} needs the task's bounds: give exp_name")
    success_key = config.environment_options.get("success_key")
    return paths, config, Conventions(success_key, None, config.camera_names, config.missing_rewards)


def _add_advise(commands: Any) -> None:
    advise = commands.add_parser("advise", help="say which of policy and data a warmup made better, and what follows")
    advise.add_argument("run", type=user_path, metavar="RUN", help="folder of a finished warmup")
    advise.set_defaults(do=_advise)


def _advise(options: argparse.Namespace) -> int:
    from wsrl_kit.config.advice import of_run
    from wsrl_kit.runs.run import read_run

    print(of_run(read_run(options.run)))
    return 0


def _add_watch(commands: Any) -> None:
    watch = commands.add_parser("watch", help="make a clip of what a run's policy did, from its recorded episodes")
    watch.add_argument(
        "run", type=user_path, metavar="RUN", help="folder of a warmup or fine-tuning, also a running one"
    )
    watch.add_argument(
        "--out",
        type=user_path,
        metavar="FILE",
        help="file to write: .mp4, or .png for still pictures (default: RUN/videos/clip.mp4)",
    )
    watch.set_defaults(do=_watch)


def _watch(options: argparse.Namespace) -> int:
    from wsrl_kit.analysis.clips import write_clip

    clip = write_clip(options.run, options.out)
    for remark in clip.remarks:
        print(f"remark: {remark}", file=sys.stderr)
    print("\n".join([*(moment.title for moment in clip.moments), str(clip.path)]))
    return 0


def _add_hil_serl(commands: Any) -> None:
    export = commands.add_parser("export-hil-serl", help="hand an agent back to HIL-SERL, training state included")
    export.add_argument(
        "checkpoint", type=user_path, metavar="CHECKPOINT", help="checkpoint of a warmup, or checkpoint.npz of a run"
    )
    export.add_argument(
        "folder", type=user_path, metavar="DIR", help="folder to write, for HIL-SERL's --checkpoint_path"
    )
    export.set_defaults(do=_export)
    take_over = commands.add_parser("import-hil-serl", help="take over an agent of HIL-SERL's as a warmup checkpoint")
    take_over.add_argument(
        "checkpoint", type=user_path, metavar="CHECKPOINT", help="checkpoint of HIL-SERL, or the folder that holds it"
    )
    take_over.add_argument(
        "file", type=user_path, metavar="FILE", help="file to write, for the checkpoint_path of fine-tuning"
    )
    take_over.set_defaults(do=_import)
    for command in (export, take_over):
        command.add_argument(
            "--cameras", metavar="NAME,NAME", help="names of the cameras in the order of HIL-SERL's image_keys"
        )


def _export(options: argparse.Namespace) -> int:
    from wsrl_kit.hil_serl import checkpoint

    call = checkpoint.export(options.checkpoint, options.folder, _cameras(options))
    print(f"{options.folder} is restored by the agent of {call}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from wsrl_kit.hil_serl import checkpoint

    agent = checkpoint.import_hil_serl(options.checkpoint, options.file, _cameras(options))
    encoder = ", encoder 'resnet10_frozen'" if agent.pixels else ""
    gripper = f", gripper {agent.gripper!r}" if agent.learns_gripper else ""
    print(
        f"{options.file} is for fine-tuning with hidden_sizes {list(agent.hidden_sizes)}, critic_ensemble_size "
        f"{agent.critic_ensemble_size}, shared_critic_output {agent.shared_critic_output}, "
        f"temperature_parameterisation {agent.temperature_parameterisation!r}{encoder}{gripper}"
    )
    return 0


def _cameras(options: argparse.Namespace) -> list[str] | None:
    return options.cameras.split(",") if options.cameras else None


def _add_robot(commands: Any) -> None:
    robot = commands.add_parser("robot-sim", help="serve HIL-SERL's robot API from the simulated robot")
    robot.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 opens the server to the network (default: 127.0.0.1)",
    )
    robot.add_argument("--port", default="5000", help="port to listen on; 0: any free port (default: 5000)")
    robot.add_argument(
        "--speed", default="1.0", help="simulated seconds per second; 0: time moves only by commands (default: 1.0)"
    )
    robot.add_argument(
        "--exp_name",
        default="hirol_fixed_gripper_pixels",
        help="simulated robot to serve (default: hirol_fixed_gripper_pixels, with cameras)",
    )
    robot.add_argument("--environment_options", default="{}", help="options of the simulated robot, a dict")
    robot.set_defaults(do=_serve_robot)


def _serve_robot(options: argparse.Namespace) -> int:
    from wsrl_kit.parameters import check, parse
    from wsrl_kit.robot.server import RobotServer, serve, simulated_arm

    given = check("environment_options", parse(options.environment_options, dict), dict)
    speed = check("speed", parse(options.speed, float), float)
    port = check("port", parse(options.port, int), int, {"minimum": 0, "maximum": 65535})
    serve(RobotServer(simulated_arm(options.exp_name, given, speed), options.host, port))
    return 0
