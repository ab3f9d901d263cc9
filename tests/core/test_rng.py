"""Counter random numbers as the engine draws them, and seeds as people give them."""

import numpy as np
import pytest
import torch

from wm_vec import spawn_seeds
from wm_vec.core.rng import CounterRNG, fork_seeds, seed_list


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


def test_forks_have_seeds_of_their_own():
    parents = rng_at(5, episode=2, step=3, rows=1000)
    seeds = torch.cat([parents.seed, *(fork_seeds(parents, fork) for fork in (1, 2))])
    assert len(seeds.unique()) == 2001
    assert int(seeds.min()) >= 0
    assert torch.equal(fork_seeds(parents, 1), seeds[1000:2000])
    later = CounterRNG(parents.seed, parents.episode, parents.step + 1)
    assert not bool((fork_seeds(later, 1) == seeds[1000:2000]).any())


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
