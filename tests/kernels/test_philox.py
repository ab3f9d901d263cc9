"""Philox against the vectors published with it, and normals against what normals are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.harness import assert_matches_reference
from wm_kernels import philox_normal, philox_words, use_backend
from wm_kernels.philox_normal.reference import box_muller, philox4x32_reference

# Random123, tests/kat_vectors: philox4x32 10, counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
INT64 = st.integers(-(2**63), 2**63 - 1)


def words(text):
    return [int(word, 16) for word in text.split()]


def signed(value):
    """An unsigned 64-bit number as the int64 with the same bits."""
    return value - 2**64 if value >= 2**63 else value


def as_rows(*values):
    return tuple(torch.tensor([v], dtype=torch.int64) for v in values)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_published_vectors(counter, key, expected):
    got = philox4x32_reference(torch.tensor(words(counter)), torch.tensor(words(key)))
    assert got.tolist() == words(expected)


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_published_vectors_reach_the_op(backend):
    # The op's counter is (step, episode, block, stream) and its key the seed, low word first.
    zeros, ones, _ = KNOWN_ANSWERS
    with use_backend(backend):
        assert philox_words(*as_rows(0, 0, 0), 4, 0).tolist() == [words(zeros[2])]
    # All ones needs block 2^32 - 1, which no call draws; the pi vector needs block 0x13198a2e. So the key and
    # the other counter words are held through the reference, whose rounds the vectors above prove.
    seed, step, episode, stream = 0x299F31D0A4093822, 0x243F6A88, 0x85A308D3, 0x03707344
    counter = torch.tensor([[step, episode, block, stream] for block in range(3)])
    expected = philox4x32_reference(counter, torch.tensor(words(KNOWN_ANSWERS[2][1]))).flatten()
    with use_backend(backend):
        assert philox_words(*as_rows(seed, episode, step), 10, stream)[0].tolist() == expected[:10].tolist()
    high_bit = as_rows(signed(0xFFFFFFFFFFFFFFFF), 0xFFFFFFFF, 0xFFFFFFFF)
    expected = philox4x32_reference(torch.tensor([0xFFFFFFFF, 0xFFFFFFFF, 0, 7]), torch.tensor(words(ones[1])))
    with use_backend(backend):
        assert philox_words(*high_bit, 4, 7)[0].tolist() == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(INT64, INT64, INT64), min_size=1, max_size=9),
    count=st.integers(1, 23),
    stream=st.integers(0, 2**32 - 1),
)
def test_numpy_words_and_normals_equal_the_reference_bit_for_bit(rows, count, stream):
    columns = tuple(torch.tensor(column, dtype=torch.int64) for column in zip(*rows, strict=True))
    assert_matches_reference(philox_words, (*columns, count, stream), backend="numpy", exact=True)
    normals = assert_matches_reference(philox_normal, (*columns, count, stream), backend="numpy", exact=True)
    assert normals.shape == (len(rows), count)
    assert normals.dtype == torch.float32


def test_numpy_takes_strided_and_expanded_rows():
    seed = torch.arange(20)[::2]
    zero = torch.zeros(1, dtype=torch.int64).expand(10)
    assert_matches_reference(philox_words, (seed, zero, zero, 6, 1), backend="numpy", exact=True)
    assert_matches_reference(philox_normal, (seed, zero, zero, 6, 1), backend="numpy", exact=True)


def test_of_a_stream_the_low_32_bits_count():
    rows = torch.arange(3)
    for backend in ("reference", "numpy"):
        with use_backend(backend):
            words = [philox_words(rows, rows, rows, 5, stream) for stream in (7, 7 + 2**32, 8)]
        assert torch.equal(words[0], words[1])
        assert not torch.equal(words[0], words[2])


def test_only_the_low_32_bits_of_episode_and_step_count():
    low = philox_words(*as_rows(3, 4, 5), 8, 0)
    assert torch.equal(low, philox_words(*as_rows(3, 4 + 2**32, 5 - 2**32), 8, 0))
    assert not torch.equal(low, philox_words(*as_rows(3 + 2**32, 4, 5), 8, 0)), "all 64 bits of the seed count"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_rows_do_not_depend_on_the_batch(count):
    seed, episode, step = torch.arange(70) * 7919, torch.arange(70) % 4, torch.arange(70) % 11
    everything = philox_normal(seed, episode, step, count, 0)
    for batch in (1, 2, 3, 7, 16, 33):
        for start in range(0, 70, batch):
            rows = slice(start, start + batch)
            part = philox_normal(seed[rows], episode[rows], step[rows], count, 0)
            assert torch.equal(part, everything[rows])
    shuffled = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    part = philox_normal(seed[shuffled], episode[shuffled], step[shuffled], count, 0)
    assert torch.equal(part, everything[shuffled])


def test_more_words_begin_with_the_fewer():
    few, many = (philox_words(*as_rows(1, 2, 3), n, 4) for n in (5, 40))
    assert torch.equal(few, many[:, :5])


def test_seeds_episodes_steps_and_streams_share_no_words():
    seen = {}
    for seed in range(4):
        for episode in range(4):
            for step in range(4):
                for stream in range(5):
                    for word in philox_words(*as_rows(seed, episode, step), 8, stream)[0].tolist():
                        seen.setdefault(word, []).append((seed, episode, step, stream))
    # 2,560 words of 32 bits: the chance of even one collision is below 0.1 %, of three nil.
    assert sum(len(where) > 1 for where in seen.values()) < 2


def normal_sample(rows=4000, columns=50):
    seeds = torch.arange(rows)
    return philox_normal(seeds, torch.zeros_like(seeds), torch.zeros_like(seeds), columns, 0).double()


def test_normals_have_the_moments_of_normals():
    sample = normal_sample()
    n = sample.numel()
    # Four standard errors each: of the mean, the variance, the third and the fourth moment.
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((sample**power).mean()) - expected) < 4 * math.sqrt(variance / n), power


def test_normals_keep_the_kolmogorov_smirnov_bound():
    sample = np.sort(normal_sample().numpy().ravel())
    cdf = 0.5 * (1 + torch.erf(torch.from_numpy(sample) / math.sqrt(2))).numpy()
    ranks = np.arange(1, sample.size + 1) / sample.size
    distance = max(np.abs(ranks - cdf).max(), np.abs(ranks - 1 / sample.size - cdf).max())
    assert distance < 1.63 / math.sqrt(sample.size)  # the 1 % point


@pytest.mark.parametrize("axis", ["word", "step", "seed", "episode", "stream"])
def test_neighbours_are_uncorrelated(axis):
    rows = torch.arange(20000)
    zeros = torch.zeros_like(rows)
    if axis == "word":
        pair = philox_normal(rows, zeros, zeros, 2, 0)
        first, second = pair[:, 0], pair[:, 1]
    elif axis == "stream":
        first, second = (philox_normal(rows, zeros, zeros, 1, s)[:, 0] for s in (0, 1))
    else:
        where = {"seed": (rows, zeros, zeros), "episode": (zeros, rows, zeros), "step": (zeros, zeros, rows)}[axis]
        run = philox_normal(*where, 1, 0)[:, 0]
        first, second = run[:-1], run[1:]
    correlation = float((first.double() * second.double()).mean())
    assert abs(correlation) < 4 / math.sqrt(len(first))
    # Box and Muller's pairs share a radius: their squares would correlate if the angle were not uniform.
    squares = float(((first.double() ** 2 - 1) * (second.double() ** 2 - 1)).mean())
    assert abs(squares) < 4 * 2 / math.sqrt(len(first))


def test_extreme_words_give_finite_normals():
    ends = [0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
    pairs = torch.tensor([[radius, angle] for radius in ends for angle in ends])
    normals = box_muller(pairs)
    assert bool(torch.isfinite(normals).all())
    # The smallest uniform is half a unit of 2^-32, so no normal is further out than this.
    assert float(normals.abs().max()) <= math.sqrt(2 * 33 * math.log(2)) + 1e-5
    assert box_muller(torch.tensor([[0, 0]]))[0].tolist() == pytest.approx([math.sqrt(66 * math.log(2)), 0.0], abs=1e-6)
    quarter = box_muller(torch.tensor([[2**31, 2**30]]))[0].tolist()
    assert quarter == pytest.approx([0.0, math.sqrt(2 * math.log(2))], abs=1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_under_vmap_and_on_meta_the_reference_runs():
    rows = torch.arange(6)
    direct = philox_normal(rows, rows, rows, 3, 0)
    mapped = torch.func.vmap(lambda s: philox_normal(s[None], s[None], s[None], 3, 0)[0])(rows)
    assert torch.allclose(direct, mapped, atol=1e-6)
    assert philox_normal(*(rows.to("meta"),) * 3, 3, 0).shape == (6, 3)
