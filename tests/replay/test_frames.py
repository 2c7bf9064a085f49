"""Image replay against a naive store that keeps both whole stacks of every transition."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl_kit.errors import DataError
from wsrl_kit.replay import frames, ring
from wsrl_kit.replay.frames import FrameBatches, FrameStore
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import Ring
from wsrl_kit.runs import checkpoint

Stacks = Mapping[str, np.ndarray]
Pair = tuple[Stacks, Stacks]

SHAPES = {"front": (2, 2, 3), "wrist": (1, 3, 3)}
GATHERER = FrameBatches()


def frame(value: int) -> dict[str, np.ndarray]:
    """Both cameras' frames of one moment, different for different values below 2^24."""
    digits = np.array([value % 256, value // 256 % 256, value // 65536], np.uint8)
    return {camera: np.broadcast_to(digits, shape).copy() for camera, shape in SHAPES.items()}


def stack(values: list[int]) -> dict[str, np.ndarray]:
    shown = [frame(value) for value in values]
    return {camera: np.stack([each[camera] for each in shown]) for camera in SHAPES}


@st.composite
def streams(draw: st.DrawFn, horizon: int, is_unique: bool, largest: int = 12) -> list[Pair]:
    """Transitions of episodes, of which some steps are left out (interventions), with moments as values of frames.

    Each moment's frame is its own where `is_unique`; otherwise one of two, so that frames are often equal by chance.
    A step may show more than one new frame, as where each action is carried out several times.
    """
    pairs, moment = [], 0
    value = (lambda number: number) if is_unique else (lambda number: number * 2654435761 // 2**20 % 2)
    for _ in range(draw(st.integers(1, largest))):
        stride = draw(st.sampled_from([1, 1, 1, 2]))
        shown = [value(moment)] * horizon
        for kept in draw(st.lists(st.booleans() | st.just(True), min_size=1, max_size=8)):
            fresh = [value(moment + 1 + new) for new in range(stride)]
            moment += stride
            after = (shown + fresh)[-horizon:]
            if kept:
                pairs.append((stack(shown), stack(after)))
            shown = after
        moment += 1
    return pairs


def assert_shows(shown: tuple[Mapping, Mapping], expected: list[Pair]) -> None:
    for side in range(2):
        for camera in SHAPES:
            np.testing.assert_array_equal(
                np.asarray(shown[side][camera]), np.stack([pair[side][camera] for pair in expected]), strict=True
            )


def shown(store: FrameStore, rows: np.ndarray) -> tuple[Mapping, Mapping]:
    return GATHERER.gather(rows, [(store, slice(None))])


def empty(capacity: int, example: Stacks) -> Ring:
    """A ring of rows of one number."""
    return Ring(ring.empty(capacity, 1, prioritized=False, example=example))


def add(side: Ring, number: int, pair: Pair, held: list[int]) -> None:
    """Adds a row that is its number; `held` keeps the numbers of those that are left."""
    side.add(np.array([number], np.float32), *pair)
    held.append(number)
    del held[: len(held) - side.size]
    assert side.rows[side.newest(side.size), 0].tolist() == held


def filled(pairs: list[Pair], capacity: int) -> tuple[Ring, list[int]]:
    """A ring after the given transitions, and the numbers of those held."""
    side, held = empty(capacity, pairs[0][0]), list[int]()
    for number, pair in enumerate(pairs):
        add(side, number, pair, held)
    return side, held


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([3, 8, 30]), st.booleans())
def test_every_held_row_shows_what_was_added(data: st.DataObject, horizon: int, capacity: int, is_unique: bool) -> None:
    pairs = data.draw(streams(horizon, is_unique))
    if not pairs:
        return
    side, held = filled(pairs, capacity)
    assert_shows(shown(side.store, np.array(held) % capacity), [pairs[number] for number in held])


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([2, 7]))
def test_stacks_in_no_order_of_time_are_shown_as_they_were(data: st.DataObject, horizon: int, capacity: int) -> None:
    values = st.lists(st.integers(0, 4), min_size=horizon, max_size=horizon).map(stack)
    pairs = data.draw(st.lists(st.tuples(values, values), min_size=1, max_size=20))
    side, held = empty(capacity, pairs[0][0]), list[int]()
    for number, pair in enumerate(pairs):
        add(side, number, pair, held)
        assert_shows(shown(side.store, np.array(held) % capacity), [pairs[number] for number in held])


@settings(max_examples=15, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([0, 1, 4, 40]))
def test_a_ring_that_begins_with_a_dataset_shows_that_and_what_was_added(
    data: st.DataObject, horizon: int, spare: int
) -> None:
    # Episodes of a dataset: as many frames each as it has transitions, and the horizon.
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    newest = [start + horizon - 1 + step for start, length in _episodes(lengths, horizon) for step in range(length)]
    values = np.arange(sum(lengths) + len(lengths) * horizon) + 1_000_000
    data_frames = {camera: np.stack([frame(int(value))[camera] for value in values]) for camera in SHAPES}
    pairs = [tuple(stack([int(v) for v in values[end - horizon + 1 : end + 1]]) for end in (n, n + 1)) for n in newest]
    store = frames.of_rows(data_frames, np.array(newest), horizon)
    capacity = len(newest) + spare
    held = list(range(len(newest)))
    rows = np.array(held, np.float32)[:, None]
    side = Ring(ring.filled(rows, capacity, prioritized=False, store=store))
    for added in data.draw(streams(horizon, is_unique=True)):
        add(side, len(pairs), added, held)
        pairs.append(added)
        assert_shows(shown(side.store, np.array(held) % capacity), [pairs[number] for number in held])
    assert_shows(shown(side.store, np.array(held) % capacity), [pairs[number] for number in held])
    # The dataset's own frames are not the ring's.
    assert all(np.array_equal(images[:1], stack([1_000_000])[camera]) for camera, images in data_frames.items())


def _episodes(lengths: list[int], horizon: int) -> list[tuple[int, int]]:
    """First frame and length of each."""
    starts = np.cumsum([0, *(length + horizon for length in lengths)])
    return [(int(start), length) for start, length in zip(starts, lengths, strict=False)]


def test_a_frame_that_stays_while_others_change_is_not_taken_for_a_newer_one() -> None:
    moments = [([0, 1], [0, 2]), ([0, 2], [0, 3]), ([0, 3], [0, 4]), ([4, 5], [5, 6])]
    pairs = [(stack(before), stack(after)) for before, after in moments]
    side, held = filled(pairs, 8)
    assert_shows(shown(side.store, np.array(held)), pairs)


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 3), st.sampled_from([3, 8, 30]))
def test_each_frame_is_written_once_and_dropped_rows_are_those_that_lost_one(
    data: st.DataObject, horizon: int, capacity: int
) -> None:
    pairs = data.draw(streams(horizon, is_unique=True, largest=30))
    if not pairs:
        return
    side, held = filled(pairs, capacity)
    # Frames in the order in which they were first shown: each is new once.
    order: dict[bytes, int] = {}
    first_needed = []
    for pair in pairs:
        seen = [image.tobytes() for stacks in pair for image in stacks["front"]]
        for image in seen:
            order.setdefault(image, len(order))
        first_needed.append(order[seen[0]])
    assert int(side.tree["frames"].written) == len(order)
    slots = len(side.store.frames["front"])
    alive = [number for number, first in enumerate(first_needed) if first >= len(order) - slots]
    assert held == alive[-capacity:]


def test_one_long_episode_and_many_of_usual_length_drop_nothing() -> None:
    for length, total in ((300, 300), (25, 450)):
        pairs = [(stack([t + t // length]), stack([t + 1 + t // length])) for t in range(total)]
        _, held = filled(pairs, 150)
        assert len(held) == 150


def test_image_memory_is_within_a_twentieth_of_the_frames_own() -> None:
    example = {camera: np.zeros((1, 128, 128, 3), np.uint8) for camera in ("wrist_1", "wrist_2")}
    # Memory of zeros is not taken before it is written.
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(frames.create(200_000, example)))
    assert held < 1.05 * 200_000 * 2 * 128 * 128 * 3
    assert held < 20.7e9


def test_frames_may_be_features_and_are_told_apart_by_their_bits() -> None:
    values = np.array([0.0, -0.0, np.nan, 1.5], np.float32)
    pairs = [({"a": values[t, None, None]}, {"a": values[t + 1, None, None]}) for t in range(3)]
    side, _ = filled(pairs, 4)
    assert int(side.tree["frames"].written) == 4
    images, next_images = shown(side.store, np.array([[0, 1, 2]]))
    assert images["a"].shape == (1, 3, 1, 1)
    assert images["a"].tobytes() + next_images["a"].tobytes() == values[:3].tobytes() + values[1:].tobytes()


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ({"front": stack([1])["front"]}, "cameras ['front', 'wrist'], found ['front']"),
        (
            stack([1]) | {"wrist": np.zeros((1, 4, 3, 3), np.uint8)},
            "of wrist must be uint8[1, 1, 3, 3], found uint8[1, 4",
        ),
        (stack([1]) | {"wrist": np.zeros((1, 1, 3, 3))}, "wrist must be uint8[1, 1, 3, 3], found float64[1, 1, 3, 3]"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: Stacks, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        empty(4, stack([0])).add(np.zeros(1, np.float32), stack([0]), images)
    assert sentence in str(caught.value)


# Together with the replay of states

CAPACITY, SHAPE = 12, (2, 64)

OFFLINE_PAIRS = [(stack([7000 + t]), stack([7001 + t])) for t in (0, 1, 2, 10, 11, 20, 25, 26)]
OFFLINE_IMAGES = {camera: np.concatenate([stack(list(range(7000, 7040)))[camera]]) for camera in SHAPES}
OFFLINE_STORE = frames.of_rows(OFFLINE_IMAGES, np.array([0, 1, 2, 10, 11, 20, 25, 26]), 1)


@pytest.mark.parametrize("prioritized", [False, True])
def test_replay_samples_held_rows_alone_with_their_frames(prioritized: bool) -> None:
    @settings(max_examples=15, deadline=None)
    @given(streams(1, is_unique=True, largest=20).filter(bool))
    def holds(pairs: list[Pair]) -> None:
        rows = 1000 + np.arange(8, dtype=np.float32)[:, None]
        offline = Ring(ring.filled(rows, 8, prioritized), 0.6, OFFLINE_STORE)
        online = Ring(ring.empty(CAPACITY, 1, prioritized, pairs[0][0]), 0.6)
        replay, held = Replay(offline, online, seed=0), list[int]()
        for number, pair in enumerate(pairs):
            add(online, number, pair, held)
            batch, drawn = replay.sample(number, SHAPE, 0.25, 1.0)
            replay.update_priorities(drawn, np.full(SHAPE, 2.0, np.float32))
        assert drawn.offline_rows == 16
        numbers = batch.rows[..., 0].astype(int)
        # So many strata reach every row.
        assert set(numbers[:, 16:].ravel()) == set(held)
        expected = [OFFLINE_PAIRS[n - 1000] if n >= 1000 else pairs[n] for n in numbers.ravel()]
        images = (batch.images, batch.next_images)
        assert images[0]["front"].shape == (*SHAPE, 1, *SHAPES["front"])
        assert_shows(jax.tree.map(lambda stacks: stacks.reshape(-1, *stacks.shape[2:]), images), expected)

    holds()


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_rows_over_offline_frames_show_them(data: st.DataObject, horizon: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    images: list[int] = []
    newest, expected = [], []
    for episode, length in enumerate(lengths):
        moments = [100 * episode] * (horizon - 1) + [100 * episode + t for t in range(length + 1)]
        for t in range(length):
            newest.append(len(images) + horizon - 1 + t)
            expected.append((stack(moments[t : t + horizon]), stack(moments[t + 1 : t + 1 + horizon])))
        images += moments
    store = frames.of_rows(stack(images), np.array(newest), horizon)
    order = data.draw(st.permutations(range(len(newest))))
    assert_shows(shown(store, np.array(order)), [expected[row] for row in order])


def test_offline_frames_that_are_missing_or_scattered_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] for front with 4 frames and horizon 2, found \[0, 2\]"):
        frames.of_rows(stack([1, 2, 3, 4]), np.array([0, 2]), 2)
    with pytest.raises(ValueError, match="wrist must be contiguous"):
        frames.of_rows({"wrist": stack([1, 2, 3, 4])["wrist"][::2]}, np.array([0]), 1)


# Resuming, other memory


@settings(max_examples=20, deadline=None)
@given(streams(2, is_unique=False).filter(lambda pairs: len(pairs) > 1), st.integers(0, 10**6))
def test_a_ring_read_back_goes_on_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair], cut: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "ring.npz"
    half = 1 + cut % (len(pairs) - 1)
    side, held = filled(pairs[:half], 5)
    checkpoint.save(path, side.tree, {})
    resumed = Ring(checkpoint.load(path, ring.empty(5, 1, prioritized=False, example=pairs[0][0])))
    held_then = list(held)
    for number, pair in enumerate(pairs[half:], half):
        add(side, number, pair, held)
        add(resumed, number, pair, held_then)
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), side.tree, resumed.tree)


def test_a_batch_keeps_its_bytes_as_long_as_anything_refers_to_it() -> None:
    images = {"front": np.arange(64, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)}
    parts = [(frames.of_rows(images, np.arange(63), 1), slice(None))]
    gatherer = FrameBatches()

    @jax.jit
    def slow(batch: jax.Array, matrix: jax.Array) -> jax.Array:
        # The batch is read only after work that takes longer than the next gather.
        for _ in range(10):
            matrix = jnp.tanh(matrix @ matrix)
        return batch.astype(jnp.int32).sum() + (0 * matrix.sum()).astype(jnp.int32)

    matrix = np.ones((300, 300), np.float32)
    sums, addresses = [], set()
    for number in range(8):
        batch = gatherer.gather(np.full(32, number), parts)[0]["front"]
        addresses.add(batch.ctypes.data)
        # On a CPU JAX reads the same memory.
        sums.append(slow(jax.device_put(batch[:16]), matrix))
        del batch
    assert [int(value) for value in sums] == [number * 16 * 64 * 64 * 3 for number in range(8)]
    kept = gatherer.gather(np.full(32, 5), parts)[1]["front"][3:4]
    for _ in range(9):
        addresses.add(gatherer.gather(np.full(32, 9), parts)[1]["front"].ctypes.data)
    assert (kept == 6).all()
    # Memory is used again: otherwise there would be one address for each of 17 batches, and two for each pair.
    assert len(addresses) <= 12


@pytest.mark.parametrize("episode", [1, 3, 100])
def test_a_ring_that_has_grown_shows_what_it_showed(episode: int) -> None:
    """Episodes of a single step write two frames each, so that a ring for 12 transitions comes round."""
    generator = np.random.default_rng(episode)
    example = {"wrist": np.zeros((2, 3, 3, 3), np.uint8)}
    side, held, before = empty(12, example), list[int](), example
    expected: list[Pair] = []

    def add_step(side: Ring, step: int) -> None:
        nonlocal before
        if step % episode == 0:
            before = {"wrist": np.repeat(generator.integers(256, size=(1, 3, 3, 3), dtype=np.uint8), 2, axis=0)}
        frame = generator.integers(256, size=(1, 3, 3, 3), dtype=np.uint8)
        after = {"wrist": np.concatenate([before["wrist"][1:], frame])}
        expected.append((before, after))
        add(side, step, expected[-1], held)
        before = after

    for step in range(12):
        add_step(side, step)
    larger = Ring(ring.grown(side.tree, ring.empty(30, 1, prioritized=False, example=example)))
    for step in range(12, 12 + 30 - len(held)):
        add_step(larger, step)
    found = shown(larger.store, larger.newest(larger.size))
    for stacks, number in ((found[0], 0), (found[1], 1)):
        np.testing.assert_array_equal(stacks["wrist"], np.stack([expected[row][number]["wrist"] for row in held]))
