"""Counter random numbers as the engine draws them, and seeds as people give them."""

import random
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from wm_vec import spawn_seeds
from wm_vec.core.lookahead import LookaheadRNG, PlacesAhead, _places
from wm_vec.core.rng import STREAM_RESET, CounterRNG, seed_list


def rng_at(seed, episode=0, step=0, rows=1):
    full = [torch.full((rows,), v, dtype=torch.int64) for v in (seed, episode, step)]
    return CounterRNG(*full)


def test_uniforms_are_the_published_words():
    # The zero vector of Random123: 6627e8d5 e169c58d ..., of which the upper 24 bits count.
    got = rng_at(0).uniform(2, 0)[0].tolist()
    assert got == [0x6627E8 / 2**24, 0xE169C5 / 2**24]


def test_integers_are_the_published_words_scaled():
    # floor(word * 10 / 2^32) of 6627e8d5, e169c58d, bc57ac4c, 9b00dbd8.
    assert rng_at(0).integers(4, 10, 0)[0].tolist() == [3, 8, 7, 6]
    assert rng_at(0).integers(4, 1, 0)[0].tolist() == [0, 0, 0, 0]


def test_integers_reach_every_value_equally_and_none_beyond():
    drawn = rng_at(7, rows=1).integers(60000, 6, 0)[0]
    counts = torch.bincount(drawn, minlength=6)
    assert len(counts) == 6
    assert float(((counts - 10000.0) ** 2 / 10000).sum()) < 20.5  # chi squared, 5 degrees, 0.1 %
    high = torch.tensor([[2, 5]])
    pair = rng_at(7, rows=4000).integers(2, high, 1)
    assert int(pair[:, 0].max()) < 2
    large = rng_at(3).integers(1000, 2**31, 0)
    assert int(large.min()) >= 0
    assert int(large.max()) < 2**31


def test_word64_is_a_seed():
    rows = torch.arange(5000)
    words = CounterRNG.from_seeds(rows).word64(2)
    assert bool((words >= 0).all())
    assert len(words.unique()) == len(words)
    assert int(words.max()) > 2**62, "the upper bits are used"


@pytest.mark.parametrize(("rows", "depth"), [(1, 1), (1, 16), (3, 5)])
def test_numbers_drawn_ahead_are_those_drawn_step_by_step(rows, depth):
    seed, episode = torch.arange(rows) + 5, torch.arange(rows) * 2
    step = torch.full((rows,), 40)
    ahead = LookaheadRNG(seed, episode, step, depth)
    for i in range(depth):
        assert not ahead.exhausted
        plain = CounterRNG(seed, episode, step + i)
        assert torch.equal(ahead.normal(7), plain.normal(7))
        assert torch.equal(ahead.normal(3, 9, torch.float64), plain.normal(3, 9, torch.float64))
        assert torch.equal(ahead.step, plain.step)
        assert torch.equal(ahead.uniform(2, 3), plain.uniform(2, 3)), "what is not drawn ahead follows the step too"
        ahead.advance()
    assert ahead.exhausted


def test_no_numbers_are_drawn_ahead_too():
    zeros = torch.zeros(3, dtype=torch.int64)
    assert LookaheadRNG(zeros, zeros, zeros, 4).normal(0).shape == (3, 0)


def test_numbers_that_are_written_into_are_drawn_as_they_were():
    seed, zeros = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    ahead, plain = LookaheadRNG(seed, zeros, zeros, 4), CounterRNG(seed, zeros, zeros)
    ahead.normal(3).mul_(0.0)
    assert torch.equal(ahead.normal(3), plain.normal(3))


@pytest.mark.parametrize("lasting", [1, 2, 3, 5])
def test_rows_that_begin_episodes_in_between_get_their_own_numbers(lasting):
    """Row i's episodes last `lasting` + i steps, so that rows begin one, several or no new ones while numbers last."""
    seed, episode, step = torch.arange(4) + 9, torch.arange(4) * 3, torch.zeros(4, dtype=torch.int64)
    ahead = LookaheadRNG(seed, episode, step, 7)
    for i in range(7):
        if ahead.exhausted:
            assert lasting < 3, "short episodes use numbers up before their time"
            ahead = LookaheadRNG(seed, episode, step, 7 - i)
        plain = CounterRNG(seed, episode, step)
        for draw in ((5,), *([(2, 7, torch.float64)] if i > 2 else [])):
            assert torch.equal(ahead.normal(*draw), plain.normal(*draw)), i
        assert torch.equal(ahead.step, step)
        ahead.advance()
        over = step + 1 >= lasting + torch.arange(4)
        episode, step = episode + over, (step + 1).masked_fill(over, 0)
        ahead.restart(over.nonzero()[:, 0].tolist(), episode[over].tolist())
    assert ahead.exhausted


def test_places_drawn_ahead_are_those_drawn_one_by_one():
    ahead, zeros = PlacesAhead(4), torch.zeros(5, dtype=torch.int64)

    def check(which: Tensor, current: Tensor, size: int, told: str = "") -> None:
        expected = CounterRNG(seed, episode, zeros).integers(1, size, STREAM_RESET)[which, 0]
        drawn = ahead.draw(which.tolist(), episode[which].tolist(), seed, current, size)
        assert drawn == expected.tolist(), told
        bank = torch.empty(size, 2)
        starts = ahead.starts(bank, seed, current)
        assert starts is ahead.starts(bank, seed, current)
        assert starts.bank is bank
        assert torch.equal(starts.places[which, episode[which] - starts.first[which]], expected), told

    seed, episode = torch.arange(5) + 3, torch.arange(5)
    for size, rows in [(10, [0, 1]), (10, [1]), (10, [1, 4]), (10, [1, 2]), (10, [1]), (7, [0, 2]), (7, [3])]:
        which = torch.tensor(rows)
        episode = episode.index_add(0, which, torch.ones_like(which))
        for current in (episode, episode - 1):  # the episodes that start are the current ones, or the next
            check(which, current, size)
    every, episode = torch.arange(5), episode - 2
    check(every, episode, 7, "episodes may go back")
    episode += 2  # in place: what has been drawn keeps its own copy of the counters
    check(every, episode, 7)
    draws = random.Random(0)
    for _ in range(200):
        which = torch.tensor([row for row in range(5) if draws.random() < 0.2 * row], dtype=torch.int64)
        episode = episode.index_add(0, which, torch.ones_like(which))
        check(which, episode - draws.choice([0, 1]), 7)
    seed = seed + 1
    check(every, episode, 7, "other seeds")


def test_of_many_rows_only_those_that_used_their_places_get_new_ones():
    ahead, seed, episode = PlacesAhead(4), torch.arange(1000), torch.zeros(1000, dtype=torch.int64)
    with patch("wm_vec.core.lookahead._places", wraps=_places) as drawn:
        for _ in range(20):
            ahead.draw([7], [int(episode[7]) + 1], seed, episode, 5)
            episode[7] += 1
    assert [len(call.args[0]) for call in drawn.call_args_list] == [1000, *[1] * (len(drawn.call_args_list) - 1)]
    assert 4 < len(drawn.call_args_list) < 10


def test_spawned_seeds_are_numpys_and_unrelated():
    assert spawn_seeds(5, 3) == [int(w >> np.uint64(1)) for w in np.random.SeedSequence(5).generate_state(3, np.uint64)]
    many = spawn_seeds(0, 1000) + spawn_seeds(1, 1000)
    assert len(set(many)) == 2000
    assert all(0 <= s < 2**63 for s in many)
    assert spawn_seeds(None, 2) != spawn_seeds(None, 2)


def test_an_int_seeds_env_i_with_s_plus_i():
    assert seed_list(10, 3) == [10, 11, 12]
    assert seed_list(np.int64(10), 2) == [10, 11]


@pytest.mark.parametrize("given", [[4, None, 9], (4, None, 9)])
def test_a_sequence_gives_one_each(given):
    assert seed_list(given, 3) == [4, None, 9]


@pytest.mark.parametrize("given", [torch.tensor([1, 2]), np.array([1, 2]), [np.int64(1), np.uint8(2)]])
def test_arrays_are_sequences(given):
    assert seed_list(given, 2) == [1, 2]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1, 2], ValueError, "3 envs need 3 seeds, got 2"),
        (-1, ValueError, r"\[0, 2\^63\), got -1"),
        (2**63 - 2, ValueError, r"\[0, 2\^63\)"),
        ([0, 1, 2**63], ValueError, r"\[0, 2\^63\)"),
        ("123", TypeError, "got str"),
        (1.5, TypeError, "got float"),
        (True, TypeError, "got bool"),
        ([0, 1.5, 2], TypeError, "float"),
        ([0, True, 2], TypeError, "bool"),
        ([0, "1", 2], TypeError, "str"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "float"),
    ],
)
def test_seeds_that_are_none(given, error, message):
    with pytest.raises(error, match=message):
        seed_list(given, 3)


def test_the_largest_seeds_are_taken():
    assert seed_list(2**63 - 3, 3) == [2**63 - 3, 2**63 - 2, 2**63 - 1]
