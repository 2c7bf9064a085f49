"""Fine-tuning with its learner on another machine: the side of the robot's machine.

Everything that must not be lost is in the run's folder here: the learner's checkpoints, and in the spool each step that
no checkpoint holds yet. `remote_learner` is the other side.
"""

import socket
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import gymnasium
import jax
import numpy as np
from jaxtyping import PyTree

from wsrl_kit import errors
from wsrl_kit.agent.sac import SACConfig
from wsrl_kit.agent.transition import Transition, row_width, unpacked
from wsrl_kit.config.config import WSRLConfig
from wsrl_kit.envs.wrappers import observation_horizon
from wsrl_kit.errors import RunError, Stopped, WSRLKitError
from wsrl_kit.files import written_whole
from wsrl_kit.replay import frame_files
from wsrl_kit.runs import checkpoint
from wsrl_kit.runs.loop import EnvironmentFailed, Event, Output, Snapshot, Step, environment_failed, stopped
from wsrl_kit.runs.run import Run
from wsrl_kit.training import finetune
from wsrl_kit.training.actor import ThreadedActor
from wsrl_kit.training.episode import EnvironmentStep
from wsrl_kit.training.remote_learner import POLICY, SNAPSHOT, Part, Reply, Request, Start, end, exchange, pack, unpack
from wsrl_kit.training.scheduler import CALL_SECONDS, ContactLost, Link
from wsrl_kit.training.spool import Spool

SPOOL = "spool"
"""Folder, within a run's, of steps that no checkpoint holds."""

RETRY_SECONDS = 1.0
"""Time between two attempts to connect."""

STOP_SECONDS = 40.0
"""Time that the learner has, after a stop, to catch up and hand over; the headless runner kills after 60."""

ATTEMPTS = 3
"""Learners in a row that may be lost without having learned anything."""

SMALLEST_PART, LARGEST_PART = 2**16, 2**22
"""Bytes of one call; the size follows the network's speed."""


class Parcel:
    """Puts a parcel together from its parts."""

    def __init__(self) -> None:
        self.number = 0
        self.content = bytearray()

    def add(self, part: Part) -> bytes | None:
        """Adds a part; returns the whole once it is complete."""
        if part.number != self.number:
            self.number, self.content = part.number, bytearray()
        if not part.content or part.offset != len(self.content):
            return None
        self.content += part.content
        return bytes(self.content) if len(self.content) == part.size else None


class RemoteLearning:
    """One run whose learner is elsewhere; its `events` take the place of those of `finetune.finetune`.

    Args:
        tree: from `finetune.initial_tree`, or the run's last checkpoint.
    """

    def __init__(
        self,
        link: Link,
        config: WSRLConfig,
        agent_config: SACConfig,
        tree: PyTree,
        environment: gymnasium.Env,
        probe: Transition | None,
        run: Run,
    ) -> None:
        self._link, self._run, self._config, self._agent_config, self._tree = link, run, config, agent_config, tree
        self._start = partial(
            Start, config, agent_config, probe=jax.device_get(probe), horizon=observation_horizon(environment)
        )
        self._name = f"{run.folder.absolute()} on {socket.gethostname()}"
        saved = checkpoint.read_metadata(run.checkpoint_path) if run.checkpoint_path.exists() else {}
        # At the last checkpoint: rows of metrics, and the number of the next record.
        self._rows, self._number = saved.get("rows", 0), saved.get("records", 0)
        self._spool = Spool(run.folder / SPOOL, self._number)
        steps, episodes = self._spool.counts()
        self._environment_step, self._episode = int(tree["environment_step"]) + steps, int(tree["episode"]) + episodes
        inner = finetune.inline_actor(config, agent_config, tree, environment)
        inner.environment_step = self._environment_step
        self._actor, self._is_acting = ThreadedActor(inner, config.learner_lag, self._spool.append), False
        self._policy = inner.policy._replace(trunk=())
        # Critic updates of the acting policy, and the steps that it has learned from; -1: not known yet.
        self._updates, self._fresh = int(tree["agent"].updates), -1
        self._part_size = SMALLEST_PART
        self._has_begun, self._lost = False, 0
        self._begin_session()

    def _begin_session(self) -> None:
        """Prepares a new learner, which goes on from the last checkpoint."""
        self._session, self._reply = uuid.uuid4().hex, Reply()
        self._content = pack(self._start(tree=jax.device_get(self._tree), first=self._number))
        self._events_read = 0
        self._parcels = {POLICY: Parcel(), SNAPSHOT: Parcel()}
        # Rows and number, as at the last checkpoint, of snapshots on their way.
        self._snapshots: dict[int, tuple[int, int]] = {}

    def save(self, path: Path, tree: PyTree, metadata: dict[str, object]) -> None:
        """Saves a snapshot of the learner; the steps that it holds leave the spool."""
        frame_files.save(path, tree, metadata | {"rows": self._rows, "records": self._number})
        self._spool.cut(self._number)

    def events(self, stop_requested: Callable[[], bool]) -> Generator[Event, None, None]:
        """Acts here, and yields what the learner tells. Yields a `Snapshot` of the final agent last.

        Raises:
            Stopped: on request.
            WSRLKitError: the environment, the disk or the learner failed, or the learner refuses this run.
        """
        if not self._run.checkpoint_path.exists():
            yield Snapshot(self._tree)
        failure: Exception | None = None
        deadline = float("inf")
        with closing(self._spool), closing(self._actor):
            while not self._has_ended:
                try:
                    self._act()
                except (EnvironmentFailed, WSRLKitError) as error:
                    failure = error
                is_stopping = failure is not None or stop_requested()
                if is_stopping:
                    self._actor.stop()
                    deadline = min(deadline, time.monotonic() + STOP_SECONDS)
                    is_saved = self._actor.has_stopped and self._spool.end == self._number
                    if is_saved or time.monotonic() > deadline:
                        break
                try:
                    self._exchange(is_stopping)
                except ContactLost as lost:
                    if is_stopping:
                        break
                    yield self._progress(f"no contact with the learner, the robot holds ({lost})")
                    time.sleep(RETRY_SECONDS)
                    continue
                yield from self._take()
                yield self._progress("fine-tuning" if self._is_acting else "the learner prepares")
        self._link.tell(end, self._session)
        if failure is not None or not self._is_finished:
            raise self._stopped(failure)

    @property
    def _has_ended(self) -> bool:
        """Whether the learner has, and all that it made is here.

        Raises:
            WSRLKitError: it failed.
        """
        if self._reply.outcome is None or self._snapshots:
            return False
        name, message = self._reply.outcome
        if name not in ("", Stopped.__name__):
            raise getattr(errors, name, RunError)(message)
        return True

    @property
    def _is_finished(self) -> bool:
        return int(self._tree["environment_step"]) >= self._config.online_steps

    def _stopped(self, failure: Exception | None) -> Exception:
        if isinstance(failure, EnvironmentFailed):
            error: Exception = environment_failed(failure, self._environment_step)
            error.__cause__ = failure.__cause__
            return error
        if failure is not None:
            return failure
        if waiting := self._spool.end - self._number:
            return Stopped(
                f"stopped at step {self._environment_step}; {waiting} steps wait in {self._run.folder / SPOOL} for the "
                "learner; Run All continues, as does the same command"
            )
        return stopped(self._environment_step)

    def _progress(self, text: str) -> Step:
        return Step(self._environment_step, self._config.online_steps, text)

    def _act(self) -> None:
        """Acts once the learner has learned from all steps before, and notes what was done.

        Raises:
            EnvironmentFailed: the environment failed.
            RunError: the spool's disk is full.
        """
        is_wanted = self._environment_step < self._config.online_steps and not self._actor.has_stopped
        is_ready = self._reply.is_ready and self._reply.consumed == self._spool.end
        if not self._is_acting and is_wanted and is_ready and self._fresh == self._environment_step:
            self._is_acting = True
            sizes = (self._agent_config.observation_size, self._agent_config.action_size)
            width = row_width(*sizes, self._agent_config.learns_gripper)
            self._actor.begin(self._episode, unpacked(np.zeros((0, width), np.float32), *sizes), 0)
        for _ in range(self._actor.steps_ahead):
            self._environment_step += isinstance(self._actor.step(), EnvironmentStep)

    def _exchange(self, is_stopping: bool) -> None:
        """One call of the learner, and a new learner where the last one is gone.

        Raises:
            ContactLost: no answer.
            RunError: the learner refuses this run, or learners are lost again and again.
        """
        request, begun = self._request(is_stopping), time.monotonic()
        smaller = max(self._part_size // 2, SMALLEST_PART)
        try:
            reply = self._link.call(exchange, request)
        except ContactLost:
            # Perhaps the parts were too large for the network.
            self._part_size = smaller
            raise
        parts = [*reply.parts.values(), *([request.start] if request.start else [])]
        largest = max([sum(map(len, request.records)), *(len(part.content) for part in parts)])
        if time.monotonic() - begun >= CALL_SECONDS / 20:
            self._part_size = smaller
        elif largest >= self._part_size:
            # Only a call that carried as much shows that the network is fast enough.
            self._part_size = min(self._part_size * 2, LARGEST_PART)
        if reply.refusal:
            if self._has_begun:
                raise ContactLost(reply.refusal)
            raise RunError(f"the learner can't learn for this run: {reply.refusal}")
        if not reply.is_known:
            has_learned = self._reply.consumed > self._number
            self._lost = 1 if has_learned else self._lost + 1
            if self._lost > ATTEMPTS:
                raise RunError(
                    f"the learner was lost {ATTEMPTS} times before it had learned anything: see the log of its worker, "
                    "which may be out of memory; every step is kept, and the same command continues"
                )
            # What the lost learner told after the last checkpoint, the next one tells again.
            self._run.rewind(self._rows)
            self._begin_session()
            return
        self._has_begun, self._reply = True, reply

    def _request(self, is_stopping: bool) -> Request:
        reply, size = self._reply, self._part_size
        start = None
        if reply.started < len(self._content):
            part = self._content[reply.started : reply.started + size] if reply.is_known else b""
            start = Part(0, len(self._content), reply.started, part)
        first, records = max(reply.received, self._spool.first), list[bytes]()
        while reply.is_ready and first + len(records) < self._spool.end and sum(map(len, records)) < size:
            records.append(self._spool.read(first + len(records)))
        is_behind = reply.steps - self._fresh >= (max(self._config.learner_lag // 2, 1) if self._is_acting else 1)
        return Request(
            session=self._session,
            run=self._name,
            begins=not reply.is_known,
            start=start,
            first=first,
            records=tuple(records),
            end=self._spool.end if is_stopping and self._actor.has_stopped else None,
            events=self._events_read,
            parcels={kind: (parcel.number, len(parcel.content)) for kind, parcel in self._parcels.items()},
            wants_policy=is_behind,
            limit=size,
        )

    def _take(self) -> Iterator[Event]:
        """What the last reply brought."""
        reply = self._reply
        for kind, *content in reply.events:
            self._events_read += 1
            match kind:
                case "measurement":
                    yield content[0]
                case "output":
                    yield Output(content[0], partial(_write, content[1]))
                case "snapshot":
                    number, consumed = content
                    self._snapshots[number] = (self._run.rows, consumed)
        if reply.is_ready and reply.updates == self._updates:
            self._catch_up(reply.steps)
        for kind, part in reply.parts.items():
            whole = self._parcels[kind].add(part)
            if whole is not None and kind == POLICY:
                self._take_policy(*unpack(whole))
            elif whole is not None:
                arrays, frames = unpack(whole)
                bare = checkpoint.fitted("the learner's snapshot", arrays, frame_files.without_frames(self._tree))
                self._tree = frame_files.with_new_frames(self._tree, bare, frames)
                self._rows, self._number = self._snapshots.pop(part.number)
                yield Snapshot(self._tree)

    def _take_policy(self, updates: int, steps: int, arrays: dict[str, np.ndarray]) -> None:
        """Acts with a policy from now on, unless the present one has learned from more.

        Raises:
            CheckpointError: it is of another network.
        """
        policy = checkpoint.fitted("the learner's policy", arrays, self._policy)
        if steps > self._fresh:
            self._actor.policy, self._updates = policy, updates
            self._catch_up(steps)

    def _catch_up(self, steps: int) -> None:
        """Notes that the acting policy has learned from `steps` steps, which lets the robot act further."""
        if steps > self._fresh:
            self._actor.allow(steps - self._fresh if self._is_acting else 0)
            self._fresh = steps


def _write(content: bytes, path: Path) -> None:
    with written_whole(path, RunError) as temporary:
        temporary.write_bytes(content)
