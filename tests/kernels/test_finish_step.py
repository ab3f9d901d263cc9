"""`finish_step` against a loop over rows, written from the design's promises 2, 3 and 7 in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.canvases import DEVICE, needs_kernels, poisoned_outputs
from wm_kernels import Draw, finish_step, philox_words

KERNEL = [False, pytest.param(True, marks=needs_kernels)]
BANK = 3
NUMBERS = st.sampled_from([0.0, 1.0, -2.5, 2.0**20, math.nan, math.inf, -math.inf])
FINITE = st.sampled_from([0.0, 1.0, -2.5, 7.0])


@st.composite
def steps(draw, modes=("same_step", "next_step", "disabled")):
    """One step of a few rows: a float leaf (B, 2), a scalar float leaf (B,), an int leaf (B,)."""
    rows, agents = draw(st.integers(1, 5)), draw(st.integers(1, 3))

    def table(cells, width):
        return draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=rows, max_size=rows))

    def column(cells):
        return draw(st.lists(cells, min_size=rows, max_size=rows))

    return {
        "previous": [table(FINITE, 2), column(FINITE), column(st.integers(0, 9))],
        "proposed": [table(NUMBERS, 2), column(NUMBERS), column(st.integers(10, 19))],
        "seed": column(st.integers(-(2**63), 2**63 - 1)),
        "action": table(NUMBERS, 1) if draw(st.booleans()) else None,
        "reward": table(NUMBERS, agents),
        "terminated": table(st.booleans(), agents),
        "truncated": column(st.booleans()) if draw(st.booleans()) else None,
        "elapsed": column(st.integers(0, 4)),
        "episode": column(st.integers(0, 4)),
        "returns": table(FINITE, agents),
        "pending": column(st.booleans()),
        "ended": table(st.booleans(), agents) if agents > 1 or draw(st.booleans()) else None,
        "horizon": draw(st.none() | st.integers(1, 5)),
        "autoreset": draw(st.sampled_from(modes)),
    }


BANK_LEAVES = [[[100.0, 101.0], [102.0, 103.0], [104.0, 105.0]], [200.0, 201.0, 202.0], [300, 301, 302]]


def draw_of(step):
    counters = (torch.tensor(step[name], device=DEVICE) for name in ("seed", "episode"))
    return Draw(*counters, torch.tensor(BANK, device=DEVICE), 1)


def by_hand(step, i):
    """What the design says of row i."""
    mode = step["autoreset"]
    start = [leaf[int(draw_of(step).places()[i])] for leaf in BANK_LEAVES]
    agents = len(step["reward"][i])
    if mode == "next_step" and step["pending"][i]:
        return {
            "state": start,
            "reward": [0.0] * agents,
            "terminated": [False] * agents,
            "truncated": False,
            "diverged": False,
            "finished": False,
            "was_reset": True,
            "elapsed": 0,
            "episode": step["episode"][i] + 1,
            "returns": [0.0] * agents,
            "final_elapsed": 0,
            "final_returns": [0.0] * agents,
            "ended": [False] * agents,
        }
    vector, scalar, counter = (leaf[i] for leaf in step["proposed"])
    before = [False] * agents if step["ended"] is None else step["ended"][i]
    reward = [0.0 if over else r for over, r in zip(before, step["reward"][i], strict=True)]
    values = [*vector, scalar, *reward, *([] if step["action"] is None else step["action"][i])]
    diverged = not all(math.isfinite(v) for v in values)
    last = [leaf[i] for leaf in step["previous"]] if diverged else [vector, scalar, counter]
    reward = [0.0] * agents if diverged else reward
    terminated = [over or t or diverged for over, t in zip(before, step["terminated"][i], strict=True)]
    length = step["elapsed"][i] + 1
    truncated = bool(step["truncated"] and step["truncated"][i])
    if step["horizon"] is not None and length >= step["horizon"]:
        truncated = True
    finished = all(terminated) or truncated
    reset = finished and mode == "same_step"
    total = [sum_before + r for sum_before, r in zip(step["returns"][i], reward, strict=True)]
    return {
        "final": last,
        "state": start if reset else last,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "diverged": diverged,
        "finished": finished,
        "was_reset": reset,
        "elapsed": 0 if reset else length,
        "episode": step["episode"][i] + (1 if reset else 0),
        "returns": [0.0] * agents if reset else total,
        "final_elapsed": length,
        "final_returns": total,
        "ended": [t and not finished for t in terminated],
    }


def arguments(step):
    """A step as the operation takes it."""

    def float_or(dtype):
        return lambda rows: torch.tensor(rows, dtype=dtype, device=DEVICE)

    leaf_types = [float_or(torch.float64), float_or(torch.float64), float_or(torch.int64)]

    def leaves(tables):
        return [make(t) for make, t in zip(leaf_types, tables, strict=True)]

    number = float_or(torch.float32)
    return (
        leaves(step["previous"]),
        leaves(step["proposed"]),
        leaves(BANK_LEAVES),
        None if step["autoreset"] == "disabled" else draw_of(step),
        None if step["action"] is None else number(step["action"]),
        number(step["reward"]),
        torch.tensor(step["terminated"], device=DEVICE),
        None if step["truncated"] is None else torch.tensor(step["truncated"], device=DEVICE),
        torch.tensor(step["elapsed"], device=DEVICE),
        torch.tensor(step["episode"], device=DEVICE),
        number(step["returns"]),
        torch.tensor(step["pending"], device=DEVICE) if step["autoreset"] == "next_step" else None,
        None if step["ended"] is None else torch.tensor(step["ended"], device=DEVICE),
        step["horizon"],
        step["autoreset"],
    )


def run(step, kernel=False):
    with poisoned_outputs():
        return finish_step(*arguments(step), kernel=kernel)


@pytest.mark.parametrize("kernel", KERNEL)
@settings(max_examples=150, deadline=None)
@given(step=steps())
def test_every_row_is_what_the_design_says(kernel, step):
    got = run(step, kernel)
    for i in range(len(step["elapsed"])):
        for name, expected in by_hand(step, i).items():
            value = getattr(got, name)
            if name == "ended" and step["ended"] is None:
                assert value is None
                continue
            row = [leaf[i].tolist() for leaf in value] if isinstance(value, list) else value[i].tolist()
            assert row == expected, f"row {i}, {name}, {step['autoreset']}"


@pytest.mark.parametrize("kernel", KERNEL)
@settings(max_examples=50, deadline=None)
@given(step=steps(), which=st.integers(0, 4))
def test_rows_do_not_touch_each_other(kernel, step, which):
    which %= len(step["elapsed"])
    got = run(step, kernel)
    changed = {**step, "proposed": [[*leaf] for leaf in step["proposed"]], "reward": [*step["reward"]]}
    changed["proposed"][0][which] = [math.nan, 0.0]
    changed["reward"][which] = [5.0] * len(step["reward"][which])
    after = run(changed, kernel)
    others = [i for i in range(len(step["elapsed"])) if i != which]
    for name in got._fields:
        one, two = getattr(got, name), getattr(after, name)
        if one is None:
            continue
        for a, b in zip(one, two, strict=True) if isinstance(one, list) else ((one, two),):
            assert torch.equal(a[others].nan_to_num(), b[others].nan_to_num()), name


SEEDS = {
    int((philox_words(seed, seed * 0 + 1, seed * 0, 1, 1) * BANK >> 32)[0, 0]): int(seed)
    for seed in torch.arange(20)[:, None]
}
"""A seed for each place that an env in its first episode goes on to."""


def three_rows(**changes):
    """Row 0 goes on, row 1 terminates, row 2 turns NaN."""
    return {
        "previous": [[[0.0, 0.0]] * 3, [0.0] * 3, [0] * 3],
        "proposed": [[[1.0, 1.0], [1.0, 1.0], [math.nan, 1.0]], [1.0] * 3, [1] * 3],
        "seed": [SEEDS[place] for place in (0, 1, 2)],
        "action": None,
        "reward": [[1.0]] * 3,
        "terminated": [[False], [True], [False]],
        "truncated": None,
        "elapsed": [4] * 3,
        "episode": [0] * 3,
        "returns": [[10.0]] * 3,
        "pending": [False] * 3,
        "ended": None,
        "horizon": None,
        "autoreset": "same_step",
        **changes,
    }


def test_same_step_by_hand():
    got = run(three_rows())
    assert got.state[0].tolist() == [[1.0, 1.0], [102.0, 103.0], [104.0, 105.0]]
    assert got.final[0].tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]], "the last finite state"
    assert got.reward.tolist() == [[1.0], [1.0], [0.0]]
    assert got.returns.tolist() == [[11.0], [0.0], [0.0]]
    assert got.final_returns.tolist() == [[11.0], [11.0], [10.0]]
    assert got.elapsed.tolist() == [5, 0, 0]
    assert got.episode.tolist() == [0, 1, 1]


def test_next_step_ends_now_and_resets_in_the_step_after():
    first = run(three_rows(autoreset="next_step"))
    assert first.state[0].tolist() == first.final[0].tolist()
    assert first.was_reset.tolist() == [False] * 3
    second = run(three_rows(autoreset="next_step", pending=first.finished.tolist()))
    assert second.was_reset.tolist() == [False, True, True]
    assert second.reward.tolist() == [[1.0], [0.0], [0.0]]
    assert second.terminated.tolist() == [[False]] * 3
    assert second.diverged.tolist() == [False] * 3, "a step that is spent on a reset cannot diverge"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kernel", KERNEL)
def test_large_finite_numbers_are_no_divergence(dtype, kernel):
    largest = torch.finfo(dtype).max
    state = torch.full((2, 64), largest, dtype=dtype, device=DEVICE)
    zeros = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    nothing = torch.zeros(2, 1, device=DEVICE)
    got = finish_step(
        [state], [state], [state], None, None, nothing, nothing.bool(), None, zeros, zeros, nothing, None, None, None,
        "disabled", kernel=kernel,
    )  # fmt: skip
    assert got.diverged.tolist() == [False, False]


@pytest.mark.parametrize("kernel", KERNEL)
def test_what_went_in_is_not_written_to(kernel):
    state, proposed = torch.zeros(2, 3), torch.full((2, 3), torch.nan)
    bank, returns, reward = torch.ones(1, 3), torch.ones(2, 1), torch.ones(2, 1)
    elapsed, episode = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    false = torch.zeros(2, 1, dtype=torch.bool)
    ended = torch.zeros(2, 1, dtype=torch.bool)
    draw = Draw(elapsed, episode, torch.tensor(1), 0)
    finish_step(
        [state], [proposed], [bank], draw, None, reward, false, None, elapsed, episode, returns, None, ended, 1,
        "same_step", kernel=kernel,
    )  # fmt: skip
    unchanged = [(state, 0), (bank, 1), (returns, 1), (reward, 1), (elapsed, 0), (episode, 0), (false, 0), (ended, 0)]
    for tensor, value in unchanged:
        assert bool((tensor == value).all())
    assert bool(proposed.isnan().all())


@needs_kernels
@pytest.mark.parametrize("widths", [(1, 7), (130, 3, 1), (64, 64)])
@pytest.mark.parametrize("num_envs", [0, 1, 33, 70])
@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_the_kernel_takes_leaves_of_any_shape_and_dtype(widths, num_envs, mode):
    generator = torch.Generator().manual_seed(num_envs)
    dtypes = [torch.float32, torch.bfloat16, torch.uint8, torch.bool, torch.float64, torch.int16]

    def leaves(rows):
        shapes = [(rows, width) for width in widths] + [(rows,), (rows, 2, 3), (rows, 1)]
        drawn = [torch.randn(shape, generator=generator) for shape in shapes]
        return [x.abs().to(dtype).to(DEVICE) for x, dtype in zip(drawn, dtypes, strict=False)]

    def flags(*shape):
        return (torch.rand(shape, generator=generator) < 0.3).to(DEVICE)

    proposed, counters = leaves(num_envs), torch.arange(num_envs, device=DEVICE)
    if num_envs > 3:
        proposed[0][2, 0] = math.nan
        proposed[-1][3] = -(proposed[-1][3])
    reward = torch.randn(num_envs, 2, generator=generator).to(DEVICE)
    bank, draw = leaves(5), Draw(counters * 7, counters, torch.tensor(5, device=DEVICE), 9)
    args = (
        leaves(num_envs), proposed, bank, None if mode == "disabled" else draw, reward * 3, reward, flags(num_envs, 2),
        flags(num_envs), counters % 5, counters, reward * 2, flags(num_envs) if mode == "next_step" else None,
        flags(num_envs, 2), 4, mode,
    )  # fmt: skip
    expected = finish_step.reference(*args)
    assert finish_step.choose(*args, kernel=True) is finish_step.implementations["triton"][1]
    with poisoned_outputs():
        got = finish_step(*args, kernel=True)
    for name, value in expected._asdict().items():
        mine = getattr(got, name)
        for one, two in zip(mine, value, strict=True) if isinstance(value, list) else ((mine, value),):
            assert (one is None) == (two is None), name
            if one is not None:
                torch.testing.assert_close(one, two, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
