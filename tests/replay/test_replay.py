"""Replay against exact probabilities: the ring, the sum tree, PER in both kinds, and the offline/online mixture."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsrl_kit.replay import mixture, storage, sum_tree
from wsrl_kit.replay.mixture import Replay
from wsrl_kit.replay.samplers import SMALLEST_PRIORITY, Proportional, Sampler, Uniform
from wsrl_kit.replay.storage import Window
from wsrl_kit.replay.sum_tree import FANOUT
from wsrl_kit.replay.transition import Transition

LARGEST_POSITION = 1.0 - 2.0**-24

KEY = jax.random.key(0)
BITS = jax.random.bits(KEY, (2**20,))

find = jax.jit(sum_tree.find)
from_mass = jax.jit(sum_tree.from_mass)
add = jax.jit(storage.add)


def transitions(number: np.ndarray) -> Transition:
    """Transitions that carry their number in every field but mask, weight and Monte-Carlo return."""
    number = np.asarray(number, np.float32)
    column = jnp.asarray(np.repeat(number[..., None], 2, axis=-1))
    one = jnp.ones(number.shape)
    return Transition(column, column[..., :1], jnp.asarray(number), column + 0.5, one, one, one)


def assert_frequencies(index: jax.Array, probability: np.ndarray) -> None:
    """Chi-square test of draws against exact probabilities, five standard deviations wide."""
    counts = np.bincount(np.asarray(index), minlength=len(probability))
    assert not counts[probability == 0].any()
    held = probability > 0
    expected = probability[held] * counts.sum()
    freedom = held.sum() - 1
    assert np.sum((counts[held] - expected) ** 2 / expected) < freedom + 5 * np.sqrt(2 * freedom)


def rows_from_first(size: int) -> Window:
    """The window of a ring of 2^22 rows that has not come round yet."""
    return Window(jnp.int32(0), jnp.int32(size), 2**22)


def sampled(sampler: Sampler, state: object, size: int, draws: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    position = jax.random.uniform(jax.random.key(seed), (draws,))
    bits = jax.random.bits(jax.random.key(seed + 1), (draws,))
    index, probability = jax.jit(sampler.sample)(state, rows_from_first(size), position, bits)
    return np.asarray(index), np.asarray(probability)


# Storage


def test_a_full_ring_replaces_its_oldest_transition() -> None:
    ring = storage.create(4, 2, 1)
    for number in range(1, 7):
        ring = add(ring, transitions(np.array(number)))
        assert int(ring.size) == min(number, 4)
        assert int(ring.position) == number % 4
    np.testing.assert_array_equal(ring.transitions.reward, [5, 6, 3, 4])
    np.testing.assert_array_equal(ring.transitions.next_observation[:, 0], [5.5, 6.5, 3.5, 4.5])


def test_gather_returns_whole_transitions() -> None:
    ring = storage.filled(transitions(np.arange(5)), 8)
    assert (int(ring.size), int(ring.position), storage.capacity(ring)) == (5, 5, 8)
    rows = storage.gather(ring, jnp.array([[3, 0], [4, 4]]))
    for field, expected in zip(rows, transitions(np.array([[3, 0], [4, 4]])), strict=True):
        np.testing.assert_array_equal(field, expected)


def test_a_ring_filled_to_the_brim_goes_on_at_its_start() -> None:
    ring = add(storage.filled(transitions(np.arange(3)), 3), transitions(np.array(9)))
    np.testing.assert_array_equal(ring.transitions.reward, [9, 1, 2])
    with pytest.raises(ValueError, match="capacity must be at least the 3 transitions given, found 2"):
        storage.filled(transitions(np.arange(3)), 2)


def test_bytes_per_transition_counts_every_field() -> None:
    assert storage.bytes_per_transition(storage.create(7, 2, 1)) == 4 * (2 + 1 + 1 + 2 + 1 + 1 + 1)


# Uniform


def test_uniform_draws_every_held_row_equally() -> None:
    index, probability = sampled(Uniform(), (), 37, 100_000)
    assert_frequencies(index, np.full(37, 1 / 37))
    np.testing.assert_allclose(probability, 1 / 37)


def test_uniform_strata_take_every_row_once() -> None:
    position = (jnp.arange(64) + jax.random.uniform(KEY, (64,))) / 64
    index, _ = Uniform().sample((), rows_from_first(64), position, jax.random.bits(KEY, (64,)))
    assert sorted(np.asarray(index)) == list(range(64))


# Sum tree


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.just(0.0) | st.floats(2.0**-20, 2.0**20, width=32), min_size=70, max_size=70),
    st.lists(st.floats(0.0, LARGEST_POSITION, width=32), min_size=8, max_size=8),
)
def test_find_inverts_the_cumulative_mass(mass: list[float], position: list[float]) -> None:
    exact = np.array(mass)
    tree = from_mass(jnp.asarray(mass, jnp.float32))
    if not exact.any():
        return
    index, probability = (
        np.asarray(found) for found in find(tree, jnp.asarray([*position, 0.0, LARGEST_POSITION]), BITS[:10])
    )
    assert (exact[index] > 0).all()
    np.testing.assert_allclose(probability, exact[index] / exact.sum(), rtol=1e-5)
    upper = np.cumsum(exact)[index] / exact.sum()
    lower = upper - exact[index] / exact.sum()
    target = np.array([*position, 0.0, LARGEST_POSITION])
    # Leaves with less than a thousandth of the mass are chosen by the bits, within a block of their kind.
    coarse = exact[index] / exact.sum() >= 1e-3
    assert ((target >= lower - 1e-6) & (target <= upper + 1e-6))[coarse].all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_updates_set_leaves_and_every_sum_above_them(data: st.DataObject) -> None:
    mass = np.zeros(70, np.float32)
    tree = sum_tree.create(70)
    for _ in range(3):
        rows = data.draw(st.lists(st.integers(0, 69), min_size=5, max_size=5, unique=True))
        new = np.array(data.draw(st.lists(st.floats(0.0, 2.0**20, width=32), min_size=5, max_size=5)), np.float32)
        mass[rows] = new
        tree = jax.jit(sum_tree.update)(tree, jnp.asarray(rows), jnp.asarray(new))
    np.testing.assert_array_equal(tree.levels[0][:70], mass)
    np.testing.assert_allclose(tree.levels[-1].sum(), mass.sum(dtype=np.float64), rtol=1e-6)


def test_a_million_random_updates_leave_no_drift() -> None:
    capacity, calls, rows = 40_000, 2_000, 500

    def one_call(tree: sum_tree.SumTree, key: jax.Array) -> tuple[sum_tree.SumTree, None]:
        index_key, mass_key = jax.random.split(key)
        index = jax.random.randint(index_key, (rows,), 0, capacity)
        # Eight orders of magnitude: differences would leave the small ones as rounding errors of the large.
        mass = 10.0 ** jax.random.uniform(mass_key, (rows,), minval=-4.0, maxval=4.0)
        return sum_tree.update(tree, index, mass), None

    tree, _ = jax.jit(lambda tree, keys: jax.lax.scan(one_call, tree, keys))(
        sum_tree.create(capacity), jax.random.split(KEY, calls)
    )
    leaves = np.asarray(tree.levels[0])[:capacity]
    assert (leaves > 0).all()
    # Every sum is as good as in a tree that was never updated.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), tree, from_mass(jnp.asarray(leaves)))
    np.testing.assert_allclose(tree.levels[-1].sum(), leaves.sum(dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("capacity", [1, 16, 17, 257])
def test_any_capacity_finds_its_first_and_last_leaf(capacity: int) -> None:
    tree = sum_tree.from_mass(jnp.ones(capacity))
    assert tree.levels[-1].sum() == capacity
    index, probability = sum_tree.find(tree, jnp.array([0.0, LARGEST_POSITION]), BITS[:2])
    assert int(index[0]) // FANOUT == 0
    assert int(index[1]) < capacity and int(index[1]) // FANOUT == (capacity - 1) // FANOUT
    np.testing.assert_allclose(probability, 1 / capacity, rtol=1e-5)


def test_a_leaf_without_mass_is_never_found() -> None:
    generator = np.random.default_rng(0)
    mass = (generator.exponential(size=5_000) * (generator.random(5_000) < 0.3)).astype(np.float32)
    mass[4_000:] = 0.0
    tree = from_mass(jnp.asarray(mass))
    position = jnp.asarray(np.arange(2**20) / 2**20 + 2.0**-21, jnp.float32)
    index, probability = find(tree, jnp.minimum(position, LARGEST_POSITION), BITS)
    assert (mass[np.asarray(index)] > 0).all()
    assert (probability > 0).all()


def test_an_index_past_the_capacity_changes_nothing() -> None:
    tree = sum_tree.from_mass(jnp.arange(1.0, 71.0))
    beyond = jnp.array([jnp.iinfo(jnp.int32).max])
    jax.tree.map(np.testing.assert_array_equal, sum_tree.update(tree, beyond, jnp.array([5.0])), tree)


@pytest.mark.parametrize("sampler", [Uniform(), Proportional(0.6)])
def test_each_of_millions_of_rows_gets_its_share(sampler: Sampler) -> None:
    # jax.random.uniform gives multiples of 2^-23, eight to every three rows: alone they would leave one of them short.
    size, draws = 3 * 2**20, 30_000
    state = () if isinstance(sampler, Uniform) else sampler.insert(sampler.create(size), jnp.arange(size))
    draw = jax.jit(jax.vmap(partial(sampler.sample, state, rows_from_first(size))))
    index, probability = draw(jax.random.uniform(jax.random.key(1), (draws, 1)), jax.random.bits(KEY, (draws, 1)))
    assert_frequencies(index.ravel() % 3, np.full(3, 1 / 3))
    assert_frequencies(index.ravel() // 2**17, np.full(24, 1 / 24))
    np.testing.assert_allclose(probability, 1 / size, rtol=1e-5)


# Prioritized


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_proportional_frequencies_are_priorities_to_the_power_alpha(alpha: float) -> None:
    sampler, size = Proportional(alpha), 200
    td_error = np.random.default_rng(0).normal(size=size).astype(np.float32) * 3
    state = sampler.insert(sampler.create(256), jnp.arange(size))
    state = sampler.update(state, jnp.arange(size), jnp.asarray(td_error))
    exact = np.zeros(256)
    exact[:size] = (np.abs(td_error) + SMALLEST_PRIORITY) ** alpha
    exact /= exact.sum()
    index, probability = sampled(sampler, state, size, 200_000)
    assert_frequencies(index, exact)
    np.testing.assert_allclose(probability, exact[index], rtol=1e-5)


def test_new_transitions_take_the_largest_priority_seen() -> None:
    sampler = Proportional(0.5)
    state = sampler.insert(sampler.create(8), jnp.arange(4))
    np.testing.assert_allclose(state.tree.levels[0][:5], [1, 1, 1, 1, 0])
    state = sampler.update(state, jnp.array([1, 2]), jnp.array([-9.0, 0.25]))
    state = sampler.insert(state, jnp.array([4]))
    np.testing.assert_allclose(state.tree.levels[0][:6], [1, 3, 0.5, 1, 3, 0], rtol=1e-5)
    state = sampler.insert(sampler.update(state, jnp.array([1]), jnp.array([0.0])), jnp.array([5]))
    assert state.tree.levels[0][5] == pytest.approx(3.0, rel=1e-5)


# Mixture

OFFLINE, ONLINE = 40, 24


def replay_of(sampler: Sampler, offline: int = OFFLINE, online: int = ONLINE) -> Replay:
    """Offline transitions are numbered 1, 2, ...; online ones -1, -2, ..."""
    empty = storage.create(64, 2, 1)
    data = storage.filled(transitions(1 + np.arange(offline)), 64) if offline else empty
    replay = mixture.create(sampler, data, storage.create(32, 2, 1))
    step = jax.jit(partial(mixture.add, sampler))
    for number in range(online):
        replay = step(replay, transitions(np.array(-1 - number)))
    return replay


sample = jax.jit(mixture.sample, static_argnums=(0, 3))


@pytest.mark.parametrize("sampler", [Uniform(), Proportional(0.6)])
def test_every_batch_holds_exactly_its_offline_share(sampler: Sampler) -> None:
    replay = replay_of(sampler)
    for percent in (0, 1, 13, 29, 50, 57, 99, 100):
        batch, count = sample(sampler, replay, KEY, (3, 100), jnp.float32(percent / 100), jnp.float32(0.4))
        assert int(count) == percent
        number = np.asarray(batch.transition.reward)
        assert ((number > 0).sum(axis=1) == percent).all()
        assert (number[:, :percent] > 0).all()
        # The row is that of the storage which the transition comes from.
        np.testing.assert_array_equal(np.abs(number) - 1, batch.row)
        np.testing.assert_array_equal(batch.transition.observation[..., 0], number)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1000))
def test_the_offline_count_is_the_whole_part_of_the_share(thousandths: int) -> None:
    ratio = jnp.float32(thousandths / 1000)
    assert int(COUNT(REPLAY, 256, ratio)) == 256 * thousandths // 1000


COUNT = jax.jit(mixture.offline_count, static_argnums=1)
REPLAY = Replay(
    storage.filled(transitions(np.zeros(1)), 1),
    storage.filled(transitions(np.zeros(1)), 1),
    (),
    (),
)


@pytest.mark.parametrize("sampler", [Uniform(), Proportional(0.6)])
def test_an_empty_side_is_never_drawn_from(sampler: Sampler) -> None:
    for offline, online, share in ((0, ONLINE, 0), (OFFLINE, 0, 100)):
        replay = replay_of(sampler, offline, online)
        for ratio in (0.0, 0.5, 1.0):
            batch, count = sample(sampler, replay, KEY, (2, 100), jnp.float32(ratio), jnp.float32(1.0))
            assert int(count) == share
            number = np.asarray(batch.transition.reward)
            assert (number > 0).all() if share else (number < 0).all()
            assert np.isfinite(batch.transition.weight).all()
            assert float(batch.transition.weight.max()) == 1.0


def test_importance_weights_follow_the_formula_on_each_side() -> None:
    sampler, beta = Proportional(0.6), 0.7
    generator = np.random.default_rng(0)
    errors = {1: generator.normal(size=OFFLINE), -1: generator.normal(size=ONLINE)}
    replay = replay_of(sampler)
    replay = replay._replace(
        offline_sampler=sampler.update(
            replay.offline_sampler, jnp.arange(OFFLINE), jnp.asarray(errors[1], jnp.float32)
        ),
        online_sampler=sampler.update(replay.online_sampler, jnp.arange(ONLINE), jnp.asarray(errors[-1], jnp.float32)),
    )
    batch, _ = sample(sampler, replay, KEY, (3, 100), jnp.float32(0.5), jnp.float32(beta))

    number = np.asarray(batch.transition.reward)
    weight = np.empty(number.shape)
    for side, error in errors.items():
        mass = (np.abs(error) + SMALLEST_PRIORITY) ** 0.6
        expected = (len(error) * mass / mass.sum()) ** -beta
        mine = np.sign(number) == side
        weight[mine] = expected[(np.abs(number[mine]) - 1).astype(int)]
    np.testing.assert_allclose(batch.transition.weight, weight / weight.max(), rtol=1e-4)


def test_uniform_sampling_keeps_the_weights_of_the_data() -> None:
    replay = replay_of(Uniform())
    data = transitions(1 + np.arange(OFFLINE))
    replay = replay._replace(offline=storage.filled(data._replace(weight=2 * data.weight), 64))
    batch, _ = sample(Uniform(), replay, KEY, (2, 100), jnp.float32(0.5), jnp.float32(1.0))
    np.testing.assert_allclose(batch.transition.weight, np.tile(np.repeat([2.0, 1.0], 50), (2, 1)), rtol=1e-6)


def test_priorities_go_back_to_the_side_they_come_from() -> None:
    sampler = Proportional(1.0)
    replay = replay_of(sampler)
    batch, count = sample(sampler, replay, KEY, (2, 100), jnp.float32(0.3), jnp.float32(0.4))
    number = np.asarray(batch.transition.reward)
    # An error of its own for each transition, so that rows drawn twice agree.
    error = jnp.asarray(np.where(number > 0, 100 + number, -number), jnp.float32)
    after = mixture.update_priorities(sampler, replay, batch, count, error)
    priorities = []
    for state, size in ((after.offline_sampler, OFFLINE), (after.online_sampler, ONLINE)):
        leaves = state.tree.levels[0]
        assert not np.asarray(leaves)[size:].any()
        priorities.append(np.asarray(leaves)[:size])
    for side, priority in zip((1, -1), priorities, strict=True):
        drawn = np.unique((np.abs(number[np.sign(number) == side]) - 1).astype(int))
        expected = np.ones(len(priority))
        expected[drawn] = (101 if side > 0 else 1) + drawn
        np.testing.assert_allclose(priority, expected, rtol=1e-5)
    assert (float(after.offline_sampler.maximum), float(after.online_sampler.maximum)) == pytest.approx(
        (100 + number.max(), -number.min())
    )


def test_a_row_drawn_twice_keeps_one_of_its_errors_and_its_sums_right() -> None:
    sampler = Proportional(1.0)
    state = sampler.insert(sampler.create(64), jnp.arange(40))
    state = sampler.update(state, jnp.array([7, 7, 33, 7]), jnp.array([2.0, 3.0, 5.0, 4.0]))
    leaves = np.asarray(state.tree.levels[0])
    assert float(leaves[7]) == pytest.approx(2.0, 1e-5) or round(float(leaves[7])) in (3, 4)
    assert float(state.tree.levels[-1].sum()) == pytest.approx(float(leaves.sum()), rel=1e-6)
    assert float(state.maximum) == pytest.approx(5.0)


@pytest.mark.parametrize("sampler", [Uniform(), Proportional(0.6)])
def test_the_minibatches_of_a_call_are_alike(sampler: Sampler) -> None:
    replay = replay_of(sampler, online=32)
    keys = jax.random.split(KEY, 50)
    draw = jax.jit(
        jax.vmap(lambda key: mixture.sample(sampler, replay, key, (4, 64), jnp.float32(0.5), jnp.float32(1)))
    )
    row = np.asarray(draw(keys)[0].row)
    # Rows are in order of age: were they dealt out in order, the first minibatch would hold the oldest.
    for side, size in ((row[..., :32], OFFLINE), (row[..., 32:], 32)):
        mean = side.mean(axis=(0, 2))
        np.testing.assert_allclose(mean, (size - 1) / 2, atol=0.05 * size)
        for minibatch in range(4):
            assert_frequencies(side[:, minibatch].ravel(), np.full(size, 1 / size))
    assert len(np.unique(row.reshape(50 * 4, 64), axis=0)) > 50
