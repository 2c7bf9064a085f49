"""Replay against exact probabilities: the sum tree, the ring, PER, and the offline/online mixture."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl_kit.replay import compiled as compiled_loops
from wsrl_kit.replay import ring
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.ring import SMALLEST_PRIORITY, Ring
from wsrl_kit.replay.sum_tree import FANOUT, SumTree, find

LARGEST_POSITION = 1.0 - 2.0**-53


def numbered(number: np.ndarray) -> np.ndarray:
    """Rows that carry their number twice."""
    return np.repeat(np.asarray(number, np.float32)[:, None], 2, axis=1)


def assert_frequencies(index: np.ndarray, probability: np.ndarray) -> None:
    """Chi-square test of draws against exact probabilities, five standard deviations wide."""
    counts = np.bincount(index.ravel(), minlength=len(probability))
    assert not counts[probability == 0].any()
    held = probability > 0
    expected = probability[held] * counts.sum()
    freedom = held.sum() - 1
    assert np.sum((counts[held] - expected) ** 2 / expected) < freedom + 5 * np.sqrt(2 * freedom)


# Sum tree


def found(tree: SumTree, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaf at each position of the cumulative mass, and its mass."""
    index = np.empty(len(position), np.int64)
    find(tree.nodes, tree.starts, position.copy(), index)
    return index, tree.masses[index]


def tree_of(mass: np.ndarray) -> SumTree:
    tree = SumTree(len(mass))
    tree.set(np.arange(len(mass)), np.asarray(mass, np.float32))
    return tree


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.just(0.0) | st.floats(2.0**-20, 2.0**20, width=32), min_size=70, max_size=70),
    st.lists(st.floats(0.0, LARGEST_POSITION), min_size=8, max_size=8),
)
def test_find_inverts_the_cumulative_mass(mass: list[float], position: list[float]) -> None:
    exact = np.array(mass)
    if not exact.any():
        return
    target = np.array([*position, 0.0, LARGEST_POSITION])
    index, held = found(tree_of(exact), target)
    assert (held > 0).all()
    np.testing.assert_array_equal(held, exact[index].astype(np.float32))
    upper = np.cumsum(exact)[index] / exact.sum()
    lower = upper - exact[index] / exact.sum()
    assert ((target >= lower - 1e-6) & (target <= upper + 1e-6)).all()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_updates_set_leaves_and_every_sum_above_them(data: st.DataObject) -> None:
    mass, tree = np.zeros(700, np.float32), SumTree(700)
    for _ in range(3):
        rows = data.draw(st.lists(st.integers(0, 699), min_size=5, max_size=5))
        new = np.array(data.draw(st.lists(st.floats(0.0, 2.0**20, width=32), min_size=5, max_size=5)), np.float32)
        tree.set(np.array(rows), new)
        for row, value in zip(rows, new, strict=True):
            mass[row] = value
    np.testing.assert_array_equal(tree.masses, mass)
    # To the bit as a tree of these masses, so that a run read back goes on as it would have.
    np.testing.assert_array_equal(tree.nodes, tree_of(mass).nodes)
    np.testing.assert_allclose(tree.nodes[tree.starts[-1] :].sum(), mass.sum(dtype=np.float64), rtol=1e-6)


def test_a_million_random_updates_leave_no_drift() -> None:
    generator = np.random.default_rng(0)
    tree = tree_of(np.ones(40_000))
    for _ in range(2_000):
        # Eight orders of magnitude: differences would leave the small ones as rounding errors of the large.
        tree.set(generator.integers(40_000, size=500), 10.0 ** generator.uniform(-4, 4, 500).astype(np.float32))
    np.testing.assert_array_equal(tree.nodes, tree_of(tree.masses).nodes)


@pytest.mark.parametrize("leaves", [1, 16, 17, 257])
def test_any_number_of_leaves_finds_its_first_and_last(leaves: int) -> None:
    tree = tree_of(np.ones(leaves))
    assert tree.nodes[tree.starts[-1] :].sum() == leaves
    assert len(tree.nodes) - tree.starts[-1] == FANOUT
    index, _ = found(tree, np.array([0.0, LARGEST_POSITION]))
    assert index.tolist() == [0, leaves - 1]


def test_a_leaf_without_mass_is_never_found() -> None:
    generator = np.random.default_rng(0)
    mass = (generator.exponential(size=5_000) * (generator.random(5_000) < 0.3)).astype(np.float32)
    mass[4_000:] = 0.0
    _, held = found(tree_of(mass), np.append(np.arange(2**20) / 2**20, LARGEST_POSITION))
    assert (held > 0).all()


# The ring


def ring_of(rows: np.ndarray, capacity: int, alpha: float | None = None) -> Ring:
    return Ring(ring.filled(rows, capacity, prioritized=alpha is not None), alpha or 0.0)


def with_errors(errors: np.ndarray, capacity: int, alpha: float) -> Ring:
    """Rows 0, 1, ... with the priorities of given TD errors."""
    side = ring_of(numbered(np.arange(len(errors))), capacity, alpha)
    side.update_priorities(np.arange(len(errors)), errors.astype(np.float32))
    return side


def draws(side: Ring, count: int, size: int = 64) -> np.ndarray:
    """Places of `count` rows drawn in batches of `size`."""
    none = Ring(ring.empty(1, 2, side.is_prioritized))
    return Replay(none, side, seed=0).sample(0, (-(-count // size), size))[1].places


def test_a_full_ring_replaces_its_oldest_row() -> None:
    side = Ring(ring.empty(4, 2, prioritized=True), 0.5)
    for number in range(1, 7):
        side.add(np.full(2, number, np.float32))
        assert side.size == min(number, 4)
        assert side.rows[side.newest(side.size), 0].tolist() == list(range(max(number - 3, 1), number + 1))
    assert side.rows[:, 0].tolist() == [5, 6, 3, 4]


def test_a_ring_filled_to_the_brim_goes_on_at_its_start() -> None:
    side = ring_of(numbered(np.arange(3)), 3)
    side.add(np.full(2, 9, np.float32))
    assert side.rows[:, 0].tolist() == [9, 1, 2]
    with pytest.raises(ValueError, match="capacity must be at least the 3 rows given, found 2"):
        ring.filled(numbered(np.arange(3)), 2, prioritized=False)


def test_bytes_held_count_every_number() -> None:
    assert ring_of(numbered(np.arange(5)), 7).bytes_held == 5 * 2 * 4


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_dropped_rows_are_never_drawn_and_their_priorities_bring_nothing_back(alpha: float | None) -> None:
    side = ring_of(numbered(np.arange(10)), 10, alpha)
    for number in range(10, 17):
        side.add(np.full(2, number, np.float32))
    side.drop_oldest(4)
    side.update_priorities(np.arange(10), np.ones(10, np.float32))
    side.add(np.full(2, 17, np.float32))
    # Rows 7, 8, ... 6 held 7 ... 16.
    assert side.size == 7
    assert set(side.rows[draws(side, 640).ravel(), 0]) == set(range(11, 18))
    side.drop_oldest(9)
    assert side.size == 0


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_a_ring_read_back_or_grown_holds_what_it_held(alpha: float | None) -> None:
    side = ring_of(numbered(np.arange(6)), 6, alpha)
    side.update_priorities(np.arange(6), np.arange(6, dtype=np.float32))
    for number in (6, 7):
        side.add(np.full(2, number, np.float32))
    tree = {name: np.array(leaf) for name, leaf in side.tree.items()}
    np.testing.assert_array_equal(draws(Ring(tree, alpha or 0.0), 256), draws(side, 256))
    larger = Ring(ring.grown(tree, ring.empty(9, 2, side.is_prioritized)), alpha or 0.0)
    larger.add(np.full(2, 8, np.float32))
    assert larger.rows[larger.newest(larger.size), 0].tolist() == [2, 3, 4, 5, 6, 7, 8]
    if alpha is not None:
        np.testing.assert_allclose(larger.tree["masses"][:7], np.array([2, 3, 4, 5, 5, 5, 5]) ** 0.6, rtol=1e-5)


# Uniform and prioritized samples


def test_uniform_draws_every_held_row_equally_and_strata_take_each_once() -> None:
    side = ring_of(numbered(np.arange(37)), 64)
    assert_frequencies(draws(side, 100_000), np.full(37, 1 / 37))
    assert np.sort(draws(ring_of(numbered(np.arange(64)), 64), 640), axis=1).tolist() == [list(range(64))] * 10


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_each_of_millions_of_rows_gets_its_share(alpha: float | None) -> None:
    size = 3 * 2**20
    index = draws(ring_of(np.zeros((size, 1), np.float32), size, alpha), 30_000, size=1)
    assert_frequencies(index % 3, np.full(3, 1 / 3))
    assert_frequencies(index // 2**17, np.full(24, 1 / 24))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_frequencies_are_priorities_to_the_power_alpha(alpha: float) -> None:
    errors = np.random.default_rng(0).normal(size=200) * 3
    mass = (np.abs(errors) + SMALLEST_PRIORITY) ** alpha
    assert_frequencies(draws(with_errors(errors, 256, alpha), 200_000, size=1), mass / mass.sum())


def test_new_rows_take_the_largest_priority_seen() -> None:
    side = ring_of(numbered(np.arange(4)), 8, 0.5)
    np.testing.assert_allclose(side.tree["masses"][:5], [1, 1, 1, 1, 0])
    side.update_priorities(np.array([1, 2]), np.array([-9.0, 0.25], np.float32))
    side.add(np.zeros(2, np.float32))
    np.testing.assert_allclose(side.tree["masses"][:6], [1, 3, 0.5, 1, 3, 0], rtol=1e-5)
    side.update_priorities(np.array([1]), np.zeros(1, np.float32))
    side.add(np.zeros(2, np.float32))
    assert side.tree["masses"][5] == pytest.approx(3.0, rel=1e-5)


# Mixture

OFFLINE, ONLINE = 40, 24


def replay_of(alpha: float | None, offline: int = OFFLINE, online: int = ONLINE, seed: int = 0) -> Replay:
    """Offline rows are numbered 1, 2, ...; online ones -1, -2, ..."""
    data = numbered(1 + np.arange(offline)) if offline else np.zeros((0, 2), np.float32)
    replay = Replay(ring_of(data, 64, alpha), Ring(ring.empty(32, 2, alpha is not None), alpha or 0.0), seed)
    for number in range(online):
        replay.online.add(np.full(2, -1 - number, np.float32))
    return replay


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_every_batch_holds_exactly_its_offline_share(alpha: float | None) -> None:
    replay = replay_of(alpha)
    for percent in (0, 1, 13, 29, 50, 57, 99, 100):
        batch, drawn = replay.sample(percent, (3, 100), float(np.float32(percent / 100)), 0.4)
        assert drawn.offline_rows == percent
        number = batch.rows[..., 0]
        assert ((number > 0).sum(axis=1) == percent).all()
        assert (number[:, :percent] > 0).all()
        # The place is that on the side which the row comes from.
        np.testing.assert_array_equal(np.abs(number) - 1, drawn.places)
        np.testing.assert_array_equal(batch.rows[..., 1], number)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1000))
def test_the_offline_count_is_the_whole_part_of_the_share(thousandths: int) -> None:
    assert REPLAY.offline_count(256, float(np.float32(thousandths / 1000))) == 256 * thousandths // 1000


REPLAY = replay_of(None)


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_an_empty_side_is_never_drawn_from(alpha: float | None) -> None:
    for offline, online, share in ((0, ONLINE, 0), (OFFLINE, 0, 100)):
        replay = replay_of(alpha, offline, online)
        for ratio in (0.0, 0.5, 1.0):
            batch, drawn = replay.sample(0, (2, 100), ratio, 1.0)
            assert drawn.offline_rows == share
            assert (batch.rows > 0).all() if share else (batch.rows < 0).all()
            if alpha is not None:
                assert np.isfinite(batch.importance).all() and batch.importance.mean() == pytest.approx(1.0, abs=1e-5)
            else:
                assert batch.importance is None


@pytest.mark.parametrize(("normalisation", "one"), [("mean", np.mean), ("max", np.max)])
def test_importance_weights_follow_the_formula_on_each_side(normalisation: str, one: Callable[..., float]) -> None:
    beta, generator = 0.7, np.random.default_rng(0)
    errors = {1: generator.normal(size=OFFLINE), -1: generator.normal(size=ONLINE)}
    replay = Replay(with_errors(errors[1], 64, 0.6), with_errors(errors[-1], 32, 0.6), 0, normalisation)
    batch, drawn = replay.sample(0, (3, 100), 0.5, beta)
    weight = np.empty((3, 100))
    for error, columns in ((errors[1], slice(0, 50)), (errors[-1], slice(50, 100))):
        mass = (np.abs(error) + SMALLEST_PRIORITY) ** 0.6
        weight[:, columns] = ((len(error) * mass / mass.sum()) ** -beta)[drawn.places[:, columns]]
    np.testing.assert_allclose(batch.importance, weight / one(weight), rtol=1e-4)


def test_priorities_go_back_to_the_side_they_come_from() -> None:
    replay = replay_of(1.0)
    batch, drawn = replay.sample(0, (2, 100), 0.3, 0.4)
    number = batch.rows[..., 0]
    # An error of its own for each row, so that rows drawn twice agree.
    replay.update_priorities(drawn, np.where(number > 0, 100 + number, -number))
    for side, sign, size in ((replay.offline, 1, OFFLINE), (replay.online, -1, ONLINE)):
        masses = side.tree["masses"]
        assert not masses[size:].any()
        drawn_rows = np.unique((np.abs(number[np.sign(number) == sign]) - 1).astype(int))
        expected = np.ones(size)
        expected[drawn_rows] = (101 if sign > 0 else 1) + drawn_rows
        np.testing.assert_allclose(masses[:size], expected, rtol=1e-5)
    largest = [float(side.tree["largest_priority"]) for side in (replay.offline, replay.online)]
    assert largest == pytest.approx([100 + number.max(), -number.min()])


def test_a_row_drawn_twice_keeps_the_last_of_its_errors() -> None:
    side = ring_of(numbered(np.arange(40)), 64, 1.0)
    side.update_priorities(np.array([7, 7, 33, 7]), np.array([2.0, 3.0, 5.0, 4.0], np.float32))
    np.testing.assert_allclose(side.tree["masses"][[7, 33, 8]], [4.0, 5.0, 1.0], rtol=1e-5)
    assert float(side.tree["largest_priority"]) == pytest.approx(5.0)


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_the_minibatches_of_a_call_are_alike(alpha: float | None) -> None:
    replay = replay_of(alpha, online=32)
    places = np.stack([replay.sample(step, (4, 64), 0.5, 1.0)[1].places for step in range(50)])
    # Rows are in order of age: were they dealt out in order, the first minibatch would hold the oldest.
    for side, size in ((places[..., :32], OFFLINE), (places[..., 32:], 32)):
        np.testing.assert_allclose(side.mean(axis=(0, 2)), (size - 1) / 2, atol=0.05 * size)
        for minibatch in range(4):
            assert_frequencies(side[:, minibatch], np.full(size, 1 / size))
    assert len(np.unique(places.reshape(50 * 4, 64), axis=0)) > 50


def test_step_and_seed_alone_decide_a_sample() -> None:
    def rows(seed: int, step: int) -> bytes:
        return replay_of(0.6, seed=seed).sample(step, (2, 32), 0.5)[0].rows.tobytes()

    assert rows(1, 7) == rows(1, 7)
    assert len({rows(seed, step) for seed in range(3) for step in range(3)}) == 9


# Compiled loops


def test_compiled_loops_work_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_loop = compiled_loops.numba.njit

    def read_only(loop: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function 'loop': no locator available for file")
        return compile_loop(loop, **options)

    monkeypatch.setattr(compiled_loops.numba, "njit", read_only)

    def loop(numbers: np.ndarray) -> float:
        return numbers.sum()

    assert compiled_loops.compiled(loop)(np.arange(4.0)) == 6.0


@pytest.mark.slow
def test_a_second_process_starts_with_loops_already_compiled(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from wsrl_kit.replay import ring; from wsrl_kit.replay.mixture import Replay;"
        "side = ring.Ring(ring.filled(np.zeros((8, 2), np.float32), 8, True), 0.6);"
        "Replay(side, ring.Ring(ring.empty(1, 2, True)), 0).sample(0, (1, 4));"
        "print(sum(ring._draw.stats.cache_hits.values()))"
    )
    hits = [
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert hits == ["0", "1"]
