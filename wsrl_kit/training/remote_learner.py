"""The learner's side of `learner="tcp://..."`: the loop of fine-tuning in a Dask worker, fed by a robot elsewhere.

The robot's machine calls `exchange`, again and again. A worker has one learner, and keeps nothing on its disk: its
snapshots go to the robot's machine, and a new learner starts from the last one. A call may arrive twice, or not at all.

Records are numbered from the first of the run, events and parcels from the first of the learner.
"""

import pickle
import queue
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsrl_kit.errors import RunError, Stopped, WSRLKitError
from wsrl_kit.text import one_line

# A worker that is only asked for its versions need not import JAX, which takes seconds.
if TYPE_CHECKING:
    from jaxtyping import PyTree

    from wsrl_kit.agent.sac import Policy, SACConfig, SACState
    from wsrl_kit.agent.transition import Transition
    from wsrl_kit.config.config import WSRLConfig
    from wsrl_kit.training.actor import ActorStopped
    from wsrl_kit.training.episode import EnvironmentStep

SILENT_SECONDS = 120.0
"""Silence of a robot after which its learner ends."""

NEWS_SECONDS = 0.05
"""Longest time that `exchange` waits for something to tell."""

POLICY, SNAPSHOT = "policy", "snapshot"
"""Kinds of parcels."""


@dataclass(frozen=True)
class Start:
    """What a learner begins with; the arguments of `finetune.learn_from`.

    Attributes:
        first: number of the first record after the tree.
    """

    config: "WSRLConfig"
    agent_config: "SACConfig"
    tree: "PyTree"
    probe: "Transition | None"
    horizon: int
    first: int


class Part(NamedTuple):
    """A part of a parcel: the bytes from `offset` on; `size` is the whole parcel's."""

    number: int
    size: int
    offset: int
    content: bytes


@dataclass(frozen=True)
class Request:
    """What the robot's machine says in one call.

    Attributes:
        session: names the learner that the robot began.
        run: names the robot's run, for people.
        begins: makes a new learner.
        start: part of a packed `Start`.
        first: number of the first of `records`.
        end: number after the last record of a run that stops; None: more may come.
        events: number of events received.
        parcels: per kind, the number of the parcel and the bytes of it received.
        wants_policy: asks for the newest policy.
        limit: bytes of a part.
    """

    session: str
    run: str
    begins: bool = False
    start: Part | None = None
    first: int = 0
    records: tuple[bytes, ...] = ()
    end: int | None = None
    events: int = 0
    parcels: dict[str, tuple[int, int]] = field(default_factory=dict)
    wants_policy: bool = False
    limit: int = 2**18


@dataclass(frozen=True)
class Reply:
    """What the learner says.

    Attributes:
        refusal: why there is no learner for this robot; "": there is.
        is_known: whether the session's learner is here.
        started: bytes of the start received.
        received: number of the next record.
        consumed: records that learning took.
        steps: environment steps learned from, since the switch.
        updates: critic updates of the agent.
        is_ready: whether learning waits for records.
        events: tuples of a kind and its content.
        outcome: name of an error and its message; "", "": finished; None: goes on.
    """

    refusal: str = ""
    is_known: bool = False
    started: int = 0
    received: int = 0
    consumed: int = 0
    steps: int = 0
    updates: int = 0
    is_ready: bool = False
    events: tuple[tuple[Any, ...], ...] = ()
    parts: dict[str, Part] = field(default_factory=dict)
    outcome: tuple[str, str] | None = None


def pack(content: Any) -> bytes:
    """Compressed bytes, without loss."""
    return zlib.compress(pickle.dumps(content, protocol=5), level=1)


def unpack(content: bytes) -> Any:
    """What was packed; from the other side of a Dask connection, which runs what it gets anyway."""
    return pickle.loads(zlib.decompress(content))


_learner: "Learner | None" = None
_lock = threading.Lock()


def exchange(request: Request) -> Reply:
    """Gives the worker's learner what is new, and returns what is new there."""
    global _learner
    with _lock:
        held = _learner
        if request.begins and (held is None or held.session != request.session):
            if held is not None and held.is_alive and held.run != request.run:
                return Reply(refusal=f"it learns for {held.run}: stop that run, or give this one another learner")
            if held is not None:
                held.end()
            held = _learner = Learner(request.session, request.run, held)
    if held is None or held.session != request.session:
        return Reply()
    return held.exchange(request)


def end(session: str) -> None:
    """Ends the session's learner; what it holds is lost."""
    global _learner
    with _lock:
        if _learner is not None and _learner.session == session:
            _learner.end()
            _learner = None


class Learner:
    """One learner: an `Actor` whose steps arrive by `exchange`, and the thread that learns from them.

    Args:
        before: ended, but its thread may not have noticed yet.
    """

    def __init__(self, session: str, run: str, before: "Learner | None") -> None:
        self.session, self.run = session, run
        self._before, self._thread = before, threading.Thread(target=self._work, name="learner", daemon=True)
        self._lock, self._news = threading.Lock(), threading.Event()
        self._heard, self._is_ended = time.monotonic(), False
        self._start, self._started = bytearray(), 0
        self._records: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._end: int | None = None
        self._received = self._consumed = self._steps = self._last_step = 0
        self._policy: Policy | None = None
        self._agent: SACState | None = None
        self._updates = 0
        self._is_ready = False
        self._events: list[tuple[Any, ...]] = []
        self._parcels: dict[str, tuple[int, bytes]] = {}
        self._made = 0
        self._outcome: tuple[str, str] | None = None
        self._agent_config: SACConfig | None = None
        self._shown: dict[str, np.ndarray] = {}
        self._continues = False

    @property
    def is_alive(self) -> bool:
        """Whether a robot uses it."""
        return not self._is_ended and time.monotonic() - self._heard <= SILENT_SECONDS

    def end(self) -> None:
        self._is_ended = True

    # What the robot's machine calls.

    def exchange(self, request: Request) -> Reply:
        """Takes what is new to it, and returns what is new to the robot."""
        with self._lock:
            self._heard = time.monotonic()
            self._take(request)
            for kind, (number, offset) in request.parcels.items():
                held = self._parcels.get(kind)
                if held is not None and held[0] == number and len(held[1]) == offset:
                    del self._parcels[kind]
            if request.wants_policy and POLICY not in self._parcels and self._policy is not None:
                self._send(POLICY, self._packed_policy())
            has_news = bool(request.start or request.records or self._parcels or len(self._events) > request.events)
            if not has_news:
                self._news.clear()
        if not has_news:
            self._news.wait(NEWS_SECONDS)
        with self._lock:
            return Reply(
                is_known=True,
                started=self._started,
                received=self._received,
                consumed=self._consumed,
                steps=self._steps,
                updates=self._updates,
                is_ready=self._is_ready,
                events=tuple(self._events[request.events :]),
                parts={kind: self._part(kind, request) for kind in self._parcels},
                outcome=self._outcome,
            )

    def _take(self, request: Request) -> None:
        part = request.start
        if part is not None and part.offset == self._started:
            self._start += part.content
            self._started += len(part.content)
            if self._started == part.size:
                self._thread.start()
        if self._is_ready:
            for number, record in enumerate(request.records, request.first):
                if number == self._received:
                    self._records.put(record)
                    self._received += 1
            if request.end is not None and request.end == self._received:
                self._end = request.end

    def _part(self, kind: str, request: Request) -> Part:
        number, content = self._parcels[kind]
        other, offset = request.parcels.get(kind, (0, 0))
        offset = offset if other == number else 0
        return Part(number, len(content), offset, content[offset : offset + request.limit])

    def _packed_policy(self) -> bytes:
        from wsrl_kit.runs.checkpoint import named_arrays

        return pack((self._updates, self._steps, named_arrays(self._policy)))

    def _send(self, kind: str, content: bytes) -> None:
        self._made += 1
        self._parcels[kind] = (self._made, content)
        self._news.set()

    # The thread that learns.

    def _work(self) -> None:
        try:
            if self._before is not None and self._before._thread.is_alive():
                # Two agents may not fit into a GPU's memory.
                self._before._thread.join()
            self._before = None
            start, self._start = unpack(bytes(self._start)), bytearray()
            self._learn(start)
            outcome = ("", "")
        except WSRLKitError as error:
            outcome = (type(error).__name__, str(error))
        except BaseException as error:
            outcome = (RunError.__name__, one_line(f"the learner failed with {type(error).__name__}: {error}"))
        with self._lock:
            self._policy = self._agent = None
            self._outcome = outcome
        self._news.set()

    def _learn(self, start: Start) -> None:
        import jax

        from wsrl_kit.agent import jax_tools
        from wsrl_kit.replay import frame_files
        from wsrl_kit.runs.loop import Measurement, Output, Snapshot
        from wsrl_kit.training import finetune
        from wsrl_kit.training.evaluation import Evaluator

        jax_tools.enable_compilation_cache()
        self._agent_config = start.agent_config
        self._received = self._consumed = start.first
        self._steps, self._last_step = int(start.tree["environment_step"]), start.config.online_steps
        tree = start.tree | {"agent": jax.tree.map(jax.numpy.asarray, start.tree["agent"])}
        self._updates = int(tree["agent"].updates)
        written = frame_files.written(tree)
        evaluator = Evaluator(start.config)
        try:
            for event in finetune.learn_from(
                self, start.config, start.agent_config, tree, evaluator, start.probe, start.horizon
            ):
                match event:
                    case Measurement():
                        self._tell("measurement", event)
                    case Output():
                        self._tell("output", event.name, _content_of(event))
                    case Snapshot() if not self._continues or self._steps == self._last_step or self.has_stopped:
                        # Others lie within an episode, whose next record is read with the frames before it.
                        self._send_snapshot(event.tree, written)
                        written = frame_files.written(event.tree)
        finally:
            evaluator.close()

    def _tell(self, *event: Any) -> None:
        with self._lock:
            self._events.append(event)
        self._news.set()

    def _send_snapshot(self, tree: "PyTree", written: dict[str, int]) -> None:
        """Hands a snapshot over: everything but the frames that the robot's machine has from earlier ones."""
        from wsrl_kit.replay import frame_files
        from wsrl_kit.runs.checkpoint import named_arrays

        content = pack((named_arrays(frame_files.without_frames(tree)), frame_files.new_frames(tree, written)))
        while SNAPSHOT in self._parcels:
            self._check_wanted()
            time.sleep(NEWS_SECONDS)
        with self._lock:
            self._send(SNAPSHOT, content)
            self._events.append((SNAPSHOT, self._made, self._consumed))

    def _check_wanted(self) -> None:
        if not self.is_alive:
            raise Stopped("nobody wants this learner any more")

    # The actor that it is to fine-tuning.

    @property
    def steps_ahead(self) -> int:
        return self._records.qsize()

    @property
    def has_stopped(self) -> bool:
        return self._end == self._consumed

    def begin(self, episode: int, known: "Transition", count: int) -> "list[EnvironmentStep]":
        self._is_ready = True
        self._news.set()
        return []

    def step(self) -> "EnvironmentStep | ActorStopped | None":
        from wsrl_kit.training.actor import STOPPED
        from wsrl_kit.training.spool import decoded

        assert self._agent_config is not None
        while not self.has_stopped:
            self._check_wanted()
            try:
                record = self._records.get(timeout=NEWS_SECONDS)
            except queue.Empty:
                continue
            step = decoded(record, self._shown, self._agent_config)
            self._consumed += 1
            self._continues = step is not None and not step.ends
            if step is not None:
                self._shown = step.stored[2]
            return step
        return STOPPED

    def learned(self, agent: "SACState") -> None:
        from wsrl_kit.agent import jax_tools, sac

        policy, updates = self._policy, self._updates
        if agent is not self._agent:
            # A copy, since the next update takes over the agent's buffers. The robot has the trunk.
            policy = jax_tools.copied(sac.policy(agent)._replace(trunk=()))
            updates, self._agent = int(agent.updates), agent
        with self._lock:
            self._policy, self._updates = policy, updates
            self._steps += 1
        self._news.set()

    def stop(self) -> None:
        """Does nothing: the robot says where it ends."""

    def close(self) -> None:
        """Does nothing: the last snapshot is still to be fetched."""


def _content_of(output: Any) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / Path(output.name).name
        output.write(path)
        return path.read_bytes()
