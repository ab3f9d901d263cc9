"""Where episodes start: masks, given states, and the bank that resets draw from."""

from weakref import WeakSet

import pytest
import torch
from tensordict import TensorDict

from tests.core.walk import BOX, Walk, bank_of, constant, seen, started, tensors_of, walk_engine
from wm_vec.core import GivenStart, Perspective


def test_a_masked_reset_leaves_the_others_alone():
    engine, alone = walk_engine(3), walk_engine(3)
    for e in (engine, alone):
        e.reset(seed=0)
        e.step(constant(e))
    observation = seen(engine.reset(mask=torch.tensor([False, True, False])))
    state = engine.state()
    assert state.elapsed.tolist() == [1, 0, 1]
    assert state.episode.tolist() == [0, 1, 0]
    assert state.returns[1].tolist() == [0.0]
    assert torch.equal(observation[[0, 2]], alone.state().dynamics["x"][[0, 2]])
    after, expected = engine.step(constant(engine)), alone.step(constant(alone))
    assert torch.equal(seen(after.observation)[[0, 2]], seen(expected.observation)[[0, 2]])


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, dtype=torch.bool), torch.ones(3, 1, dtype=torch.bool)])
def test_masks_that_do_not_fit(mask):
    engine = started(3)
    with pytest.raises(ValueError, match=r"mask must be bool of shape \(3,\), got"):
        engine.reset(mask=mask)


def given_start(x):
    return TensorDict({"x": torch.tensor(x)}, batch_size=[len(x)])


def test_given_states_start_the_episodes_that_they_are_for():
    engine, drawn = started(3, autoreset_mode="disabled"), started(3)
    states = given_start([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    some = torch.tensor([True, False, True])
    own = seen(drawn.reset())
    assert torch.equal(seen(engine.reset(given=GivenStart(states, some))), torch.where(some[:, None], states["x"], own))
    engine.step(constant(engine))
    assert states["x"].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "a copy of them is stepped"
    after = seen(engine.reset(mask=torch.tensor([False, True, False]), given=GivenStart(states)))
    assert after[1].tolist() == [3.0, 4.0]
    assert engine.state().elapsed.tolist() == [1, 0, 1]


def test_given_states_are_made_at_the_counters_of_the_episodes_that_start():
    engine, counters = started(2, seed=7), []

    def made(rng):
        counters.append([rng.seed.tolist(), rng.episode.tolist(), rng.step.tolist()])
        return given_start([[1.0, 2.0]] * 2)

    engine.reset(seed=[4, None], given=GivenStart(made))
    assert counters == [[[4, 8], [0, 1], [0, 0]]]


@pytest.mark.parametrize(
    ("states", "mask", "message"),
    [
        (given_start([[0.0, 0.0]]), None, r"2 envs, start \(1,\)"),
        (given_start([[0.0, 0.0, 0.0]] * 2), None, r"start belongs to another world: 'x' must be \(2,\)"),
        (given_start([[0.0, 0.0]] * 2).to("meta"), None, "start is on meta, the environment on cpu"),
        (given_start([[0.0, 0.0]] * 2), torch.ones(3, dtype=torch.bool), r"start_mask must be bool of shape \(2,\)"),
    ],
)
def test_given_states_that_do_not_fit(states, mask, message):
    engine = started(2)
    before = engine.state()
    with pytest.raises(ValueError, match=message):
        engine.reset(given=GivenStart(states, mask))
    assert bool((engine.state() == before).all())


# -- banks --------------------------------------------------------------------------------------------------


def counting_bank(size, unit=1.0):
    return bank_of(*[[i * unit, -i * unit] for i in range(size)])


def drawn_from(engine):
    """How often a reset of all envs starts at each state of a bank whose first numbers count from 0."""
    return torch.bincount(seen(engine.reset())[:, 0].long())


@pytest.mark.parametrize("capacity", [1, 5, 1024])
def test_every_reset_draws_from_the_bank_and_reaches_all_of_it(capacity):
    counts = drawn_from(walk_engine(500, bank=counting_bank(5), bank_size=capacity, seed=0))
    assert len(counts) == 5
    assert float(((counts - 100.0) ** 2 / 100).sum()) < 18.5  # chi squared, 4 degrees, 0.1 %


class Fresh(Walk):
    starts_fresh = True


@pytest.mark.parametrize("dynamics", [Walk(), Fresh()])
@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_envs_that_reset_by_themselves_start_where_a_reset_starts_them(dynamics, mode):
    """At the places of the bank, or the fresh states, that their seed and the next episode's number say."""
    bank = None if dynamics.starts_fresh else counting_bank(1000, 1e-3)
    by_itself = started(50, dynamics=dynamics, bank=bank, autoreset_mode=mode, max_episode_steps=2)
    by_hand = started(50, dynamics=dynamics, bank=bank)
    for _ in range(4):
        results = [by_itself.step(constant(by_itself, 0.0)) for _ in range(2 if mode == "same_step" else 3)]
        assert bool(results[-1].was_reset.all())
        assert torch.equal(seen(results[-1].observation), seen(by_hand.reset()))


def test_a_new_bank_takes_effect_at_the_next_reset():
    engine = started(2, dynamics=Walk(noise=0.0), bank=bank_of([0.0, 0.0]), max_episode_steps=1)
    engine.load_bank(bank_of([1.0, 1.5], [1.0, 1.5]))
    result = engine.step(constant(engine))
    assert torch.allclose(seen(result.final_observation), torch.tensor([0.1, 0.1]))
    assert seen(result.observation).tolist() == [[1.0, 1.5]] * 2


def test_banks_that_fit_go_into_the_same_buffer():
    """What was captured over the bank reads the new one: neither the states nor their number have another address."""
    engine = started(300, bank=counting_bank(6), bank_size=6)
    bank = engine.world.resets
    assert isinstance(bank.size, torch.Tensor)
    addresses = [t.data_ptr() for t in (*bank.buffer, bank.size)]
    for size in (6, 2, 4):
        engine.load_bank(counting_bank(size))
        assert [t.data_ptr() for t in (*bank.buffer, bank.size)] == addresses
        assert int(bank.size) == size
        assert int((drawn_from(engine) > 0).sum()) == len(drawn_from(engine)) == size
    engine.load_bank(counting_bank(9))
    assert bank.buffer[0].data_ptr() != addresses[0]
    assert int((drawn_from(engine) > 0).sum()) == len(drawn_from(engine)) == 9


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (bank_of([1.0, 2.0]).rename_key_("x", "y"), r"another world: it has \['y'\].*\['x'\]"),
        (bank_of([1.0, 2.0, 3.0]), r"'x' must be \(2,\) per env"),
        (bank_of([1.0, 2.0], dtype=torch.float64), "torch.float64"),
        (bank_of([1.0, 2.0])[:0], "M at least 1"),
    ],
)
def test_banks_of_other_worlds(bank, message):
    engine = walk_engine()
    with pytest.raises(ValueError, match=message):
        engine.load_bank(bank)
    assert seen(engine.reset(seed=0)).shape == (4, 2), "the old bank is still there"


def progress(obs, act, info, last):
    return obs["observation"][0] - last, obs["observation"][0]


@pytest.mark.parametrize("size", [3, 2000])
def test_forks_and_siblings_share_no_storage_and_no_bank(size):
    view = Perspective(BOX, reward_fn=progress, reward_state=torch.tensor(0.0))
    engine = started(4, [view], bank=counting_bank(size))
    others = [engine.fork([0, 1, 2]), engine.fork([3], rng="same"), engine.sibling(), engine.sibling(2, "disabled")]
    for other in others[2:]:
        other.reset(seed=1)
    owned = [[engine.state(), engine._state, engine.world.resets.buffer, engine.world.resets.size] for engine in others]
    owned.append([engine._state, engine.world.resets.buffer, engine.world.resets.size])
    storages = [{t.untyped_storage().data_ptr() for t in tensors_of(parts)} for parts in owned]
    assert all(len(one) > 5 for one in storages)
    for i, one in enumerate(storages):
        assert not any(one & other for other in storages[i + 1 :])
    engine.load_bank(bank_of([0.5, 0.5]))
    for other in others:
        assert int(other.world.resets.size) == size
        assert torch.equal(other.world.resets.buffer[0][:size], counting_bank(size)["x"])
        assert bool((seen(other.reset())[:, 1] <= 0).all()), "they start from the bank that they had"
    others[0].load_bank(bank_of([9.0, 9.0]))
    assert seen(engine.reset()).tolist() == [[0.5, 0.5]] * 4


def test_forks_and_siblings_join_the_family():
    family = WeakSet()
    engine = started(family=family)
    fork, sibling = engine.fork([0]), engine.sibling()
    assert set(family) == {engine, fork, sibling}
    assert fork.fork([0, 0]) in set(family)
    for member in list(family):
        member.load_bank(bank_of([1.0, 0.5]))
    for member in (engine, fork, sibling):
        assert seen(member.reset(seed=0)).tolist() == [[1.0, 0.5]] * member.num_envs


def test_a_world_reaches_the_engines_of_its_bank_and_their_forks_but_no_others(cartpole, tmp_path):
    world = type(cartpole).bundled("CartPole-v1")
    world.bank = torch.full((2, world.num_positions), 0.01) * ~world.model.codec.is_class
    world.save(tmp_path / "world")
    world = type(cartpole).bundled("CartPole-v1")
    own = world.to_engine(2, seed=0)
    own.reset()
    fork, given = own.fork([0]), world.to_engine(2, seed=0, initial_obs_fn=lambda: {"observation": [0.02] * 4})
    world.load_weights(tmp_path / "world")
    for engine, start in ((own, 0.01), (fork, 0.01), (given, 0.02)):
        torch.testing.assert_close(seen(engine.reset()), torch.full((engine.num_envs, 4), start))
