"""The loops in C against their references in torch, bit for bit."""

import math
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_kernels import finish_step, native
from wm_kernels.native import RowCounters, RowStarts

DTYPES = [torch.float32, torch.float64]


def test_what_can_be_compiled_has_been():
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    assert native.AVAILABLE or shutil.which("cc") is None or not header.exists()


needs_c = pytest.mark.skipif(not native.AVAILABLE, reason="there was no C compiler at installation")


def steps(seed, dtype, rows=40, width=5, bank=7, depth=4):
    """One step of rows of which some end, by columns 3 (reward) and 4 (termination), or by time."""
    draw = torch.Generator().manual_seed(seed)

    def whole(high, *shape):
        return torch.randint(high, shape, generator=draw)

    values = torch.randn(rows, width, dtype=dtype, generator=draw)
    values[::5, 4] = 0.5  # not above one half
    counters = RowCounters(30 - whole(9, rows), whole(5, rows), torch.randn(rows, 1, dtype=dtype, generator=draw))
    first = counters.episode - whole(depth - 1, rows)
    starts = RowStarts(torch.randn(bank, width, dtype=dtype, generator=draw), whole(bank, rows, depth), first)
    return values, counters, starts


def by_reference(values, reward, terminated, counters, clock, horizon, starts):
    """The same step as `finish_step` has it."""
    rows = torch.arange(len(values))
    none = values.new_zeros(len(values), 1)
    index = None if starts is None else starts.places[rows, counters.episode + 1 - starts.first]
    return finish_step(
        [values],
        [values],
        [] if starts is None else [starts.bank],
        index,
        None,
        none if reward is None else values[:, reward, None],
        none.bool() if terminated is None else values[:, terminated, None] > 0.5,
        None,
        clock - 1 - counters.began,
        counters.episode,
        counters.returns,
        None,
        horizon,
        "disabled" if starts is None else "same_step",
    )


@needs_c
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize(("reward", "terminated"), [(3, 4), (None, 4), (3, None)])
@pytest.mark.parametrize("horizon", [None, 6])
@pytest.mark.parametrize("picked", [None, [2, 0, 0], [1]])
def test_a_finished_step_is_the_reference(dtype, resets, reward, terminated, horizon, picked):
    for seed in range(5):
        values, counters, starts = steps(seed, dtype)
        starts, clock = starts if resets else None, 31
        columns = None if picked is None else torch.tensor(picked)
        want = by_reference(values, reward, terminated, counters, clock, horizon, starts)
        given = values.clone()
        got = native.finish_rows(values, reward, terminated, counters, clock, horizon, starts, columns, keep=True)
        assert torch.equal(values, given), "the values are not written"
        expected = {
            "state": want.state[0],
            "reward": want.reward,
            "terminated": want.terminated,
            "truncated": want.truncated[:, None],
            "finished": want.finished[:, None],
            "lengths": want.final_elapsed,
            "sums": want.final_returns,
            "observation": None if picked is None else values[:, picked],
            "fresh": None if picked is None or starts is None else want.state[0][:, picked],
        }
        for name, tensor in expected.items():
            ours = getattr(got, name)
            assert (ours is None) is (tensor is None), name
            assert ours is None or (ours.dtype is tensor.dtype and torch.equal(ours, tensor)), name
        assert torch.equal(clock - counters.began, want.elapsed)
        assert torch.equal(counters.episode, want.episode)
        assert torch.equal(counters.returns, want.returns)
        assert len(got.running) == 3
        assert not any(bool(flag.any()) for flag in got.running)
        ended = want.finished.nonzero()[:, 0].tolist() if resets else []
        assert got.rows == ended
        assert got.episodes == counters.episode[ended].tolist()
        assert (got.state is values) is not bool(ended), "a state is made where a row is reset"


@needs_c
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_leave_all_as_it_was(dtype, number):
    values, counters, starts = steps(0, dtype)
    before = [counter.clone() for counter in counters]
    for place in [(0, 0), (39, 4), (7, 2)]:
        wrong = values.clone()
        wrong[place] = number
        assert native.finish_rows(wrong, 3, 4, counters, 31, 6, starts) is None
    assert all(torch.equal(one, other) for one, other in zip(before, counters, strict=True))
    assert native.finish_rows(values, 3, 4, counters, 31, 10**30, None).truncated.any().item() is False
    largest = torch.full_like(values, torch.finfo(dtype).max)
    assert native.finish_rows(largest, 3, 4, counters, 31, 6, None) is not None, "these are finite"


@needs_c
def test_a_start_that_has_not_been_drawn_leaves_all_as_it_was():
    for change in (-4, 5):
        values, counters, starts = steps(1, torch.float32)
        starts.first[int((values[:, 4] > 0.5).nonzero()[0])] += change
        before = [counter.clone() for counter in counters]
        with pytest.raises(IndexError, match="not been drawn"):
            native.finish_rows(values, 3, 4, counters, 31, None, starts)
        assert all(torch.equal(one, other) for one, other in zip(before, counters, strict=True))


@needs_c
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([-3.0, -1.0, -0.0, 0.25, 1.0, 9.0, math.nan, math.inf]), min_size=6, max_size=6),
    st.sampled_from(DTYPES),
)
def test_written_numbers_keep_to_their_bounds(numbers, dtype):
    values, columns = torch.randn(3, 5).to(dtype), torch.tensor([4, 1])
    action = torch.tensor(numbers, dtype=dtype).view(3, 2)
    low, high = torch.tensor([-1.0, 0.0], dtype=dtype), torch.tensor([1.0, 0.5], dtype=dtype)
    got, finite = native.write_columns(values, columns, action, low, high)
    want = values.index_copy(1, columns, action.clamp(low, high))
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got.signbit(), want.signbit())
    assert finite is all(math.isfinite(number) for number in numbers)


@needs_c
def test_actions_that_do_not_lie_in_host_memory_are_left_alone():
    values, one, bound = torch.zeros(4, 3), torch.tensor([1]), torch.zeros(1)
    strided, negated = torch.zeros(4, 2)[:, :1], torch._neg_view(torch.zeros(4))
    for action in (strided, negated, torch.zeros(4, device="meta"), torch._efficientzerotensor(4)):
        assert native.write_columns(values, one, action, bound, bound) is None


@needs_c
@pytest.mark.parametrize("dtype", DTYPES)
def test_written_classes_count_from_their_first(dtype):
    values, columns = torch.randn(4, 3).to(dtype), torch.tensor([1])
    action = torch.tensor([4, 6, 7, 2**62])
    bounds = torch.tensor([0.0], dtype=dtype), torch.tensor([2.0], dtype=dtype)
    got, finite = native.write_columns(values, columns, action, *bounds, offset=5)
    assert got[:, 1].tolist() == [0.0, 1.0, 2.0, 2.0]
    assert torch.equal(got[:, [0, 2]], values[:, [0, 2]])
    assert finite


@needs_c
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_copied_steps_are_a_slice(dtype):
    target, sources = torch.randn(4, 6, 3).to(dtype), [torch.randn(4, depth, 3).to(dtype) for depth in (6, 3)]
    want = target.clone()
    for row, source in [(3, 1), (0, 0), (1, 1)]:
        want[row, 4:] = sources[source][row, :2]
    native.copy_steps(target, sources, [3, 0, 1], [1, 0, 1], 4)
    assert torch.equal(target, want)
    for row, source, position in [(0, 2, 4), (4, 0, 4), (-1, 0, 4), (0, 1, 2), (0, 0, 7)]:
        with pytest.raises(IndexError, match=f"source {source} has not all of row {row} from step {position} on"):
            native.copy_steps(target, sources, [row], [source], position)
    assert torch.equal(target, want)


@needs_c
def test_tensors_that_do_not_fit_are_refused():
    values, counters, starts = steps(0, torch.float32)
    fewer = RowCounters(*(counter[1:] for counter in counters))
    one, bounds = torch.tensor([1]), (values[0, :1], values[0, :1])
    strided = counters._replace(episode=torch.zeros(40, 2, dtype=torch.int64)[:, 0])
    steps_of = [
        (values.t().contiguous().t(), counters, starts),
        (values.bfloat16(), counters, starts),
        (values[0], counters, starts),
        (values, fewer, starts),
        (values, strided, None),
        (values, counters._replace(returns=counters.returns.double()), None),
        (values, counters._replace(began=counters.began.int()), starts),
        (values, counters, starts._replace(bank=starts.bank[:, :4])),
        (values, counters, starts._replace(bank=values.expand(3, 40, 5)[:, 0])),
        (values, counters, starts._replace(places=starts.places[1:])),
        (values, counters, starts._replace(first=starts.first.int())),
    ]
    for given_values, given_counters, given_starts in steps_of:
        with pytest.raises(ValueError, match=r"finish_rows: these tensors do not fit each other: torch\."):
            native.finish_rows(given_values, 3, 4, given_counters, 31, None, given_starts)
    actions = [
        (one, torch.zeros(39), *bounds),
        (one, torch.zeros(40).int(), *bounds),
        (one, torch.zeros(40), values[0], values[0]),
        (one.int(), torch.zeros(40), *bounds),
    ]
    for arguments in actions:
        with pytest.raises(ValueError, match=r"write_columns: these tensors do not fit each other: torch\."):
            native.write_columns(values, *arguments)
