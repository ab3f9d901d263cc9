"""The end of a step in Triton, in registers (`finish_envs`) and over any state's leaves (`finish_step_kernel`)."""

from __future__ import annotations

import triton
import triton.language as tl

from wm_kernels.philox_normal.kernel import word_at

DISABLED, NEXT_STEP, SAME_STEP = (tl.constexpr(i) for i in range(3))


@triton.jit
def finish_envs(
    reward, terminated, truncated, diverged, ended, lives, elapsed, returns, pending, horizon, MODE: tl.constexpr
):  # fmt: skip
    """Contain, end and count, for E envs and P perspectives padded to PP; see `finish_step_reference`.

    Args:
        reward: ``(E, PP)`` float32.
        terminated, ended: ``(E, PP)`` bool.
        truncated, diverged, pending: ``(E,)`` bool.
        lives: ``(PP,)`` bool, false at padding.
        elapsed: ``(E,)`` int64.
        returns: ``(E, PP)`` float32.
        horizon: int64.

    Returns:
        reward, terminated, truncated, diverged, finished, was_reset, final_elapsed, final_returns, ended.
    """
    reward = tl.where(ended | diverged[:, None], 0.0, reward)
    terminated = terminated | ended | diverged[:, None]
    elapsed += 1
    truncated = truncated | (elapsed >= horizon)
    if MODE == NEXT_STEP:
        # The step of these envs is their reset.
        truncated = truncated & (pending == 0)
        diverged = diverged & (pending == 0)
        terminated = terminated & (pending == 0)[:, None]
        reward = tl.where(pending[:, None], 0.0, reward)
        returns = tl.where(pending[:, None], 0.0, returns)
        elapsed = tl.where(pending, 0, elapsed)
    returns += reward
    going = tl.max((lives[None, :] & (terminated == 0)).to(tl.int32), 1) > 0
    finished = truncated | (going == 0)
    if MODE == DISABLED:
        was_reset = finished & (finished == 0)
    elif MODE == NEXT_STEP:
        was_reset = pending
    else:
        was_reset = finished
    ended = terminated & ((finished | was_reset) == 0)[:, None]
    return reward, terminated, truncated, diverged, finished, was_reset, elapsed, returns, ended


@triton.jit
def start_at(seed, episode, size, stream):
    """Place ``(E,)`` int64 in the bank of the episode after `episode`."""
    zero = (seed * 0).to(tl.int32)
    word = word_at(seed, episode + 1, seed * 0, zero, stream)
    return (word.to(tl.int64) * size) >> 32


@triton.jit
def not_finite(leaf, env, inside, WIDTH: tl.constexpr, ENVS: tl.constexpr, COLUMNS: tl.constexpr):
    """Whether an env's row of a leaf ``(B, WIDTH)`` has anything that is not finite: ``(ENVS,)`` bool."""
    bad = tl.zeros((ENVS,), tl.int32)
    for c0 in range(0, WIDTH, COLUMNS):
        column = c0 + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (column < WIDTH)[None, :]
        x = tl.load(leaf + env[:, None] * WIDTH + column[None, :], mask=mask, other=0)
        bad = tl.maximum(bad, tl.max((x - x != 0).to(tl.int32), 1))
    return bad > 0


@triton.jit
def keep_leaf(
    previous, proposed, bank, final, state, env, place, diverged, was_reset, inside,
    WIDTH: tl.constexpr, MODE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write one leaf ``(B, WIDTH)``: as it was where the env diverged, and the bank's where it resets."""
    for c0 in range(0, WIDTH, COLUMNS):
        column = c0 + tl.arange(0, COLUMNS)[None, :]
        mask = inside[:, None] & (column < WIDTH)
        at = env[:, None] * WIDTH + column
        new = tl.load(proposed + at, mask=mask, other=0)
        old = tl.load(previous + at, mask=mask & diverged[:, None], other=0)
        new = tl.where(diverged[:, None], old, new)
        tl.store(final + at, new, mask=mask)
        if MODE != DISABLED:
            start = tl.load(bank + place[:, None] * WIDTH + column, mask=mask & was_reset[:, None], other=0)
            tl.store(state + at, tl.where(was_reset[:, None], start, new), mask=mask)


@triton.jit
def write_outcome(
    longs, floats, flags, stride, e, inside, lives, reward, terminated, truncated, diverged, finished, was_reset,
    elapsed, episode, returns, ended, P: tl.constexpr, PP: tl.constexpr,
):  # fmt: skip
    """Write what `finish_envs` gives into the arena, in the order of `OUTCOME`: ``stride`` envs a column."""
    p = tl.arange(0, PP)
    at = e[:, None] * P + p[None, :]
    mask = inside[:, None] & lives[None, :]
    tl.store(floats + at, reward, mask=mask)
    tl.store(floats + P * stride + at, tl.where(was_reset[:, None], 0.0, returns), mask=mask)
    tl.store(floats + 2 * P * stride + at, returns, mask=mask)
    tl.store(longs + e, tl.where(was_reset, 0, elapsed), mask=inside)
    tl.store(longs + stride + e, episode + was_reset.to(tl.int64), mask=inside)
    tl.store(longs + 2 * stride + e, elapsed, mask=inside)
    tl.store(flags + at, terminated, mask=mask)
    tl.store(flags + P * stride + at, ended, mask=mask)
    flags += 2 * P * stride + e
    tl.store(flags, truncated, mask=inside)
    tl.store(flags + stride, finished, mask=inside)
    tl.store(flags + 2 * stride, was_reset, mask=inside)
    tl.store(flags + 3 * stride, diverged, mask=inside)
    tl.store(flags + 4 * stride, finished, mask=inside)  # pending, under NEXT_STEP


@triton.jit(do_not_specialize=["num_envs", "stride", "horizon", "stream"])
def finish_step_kernel(
    previous, proposed, bank, final, state, checked, reward, terminated, truncated, elapsed, episode, returns,
    pending, ended, seed, size, longs, floats, flags, num_envs, stride, horizon, stream,
    WIDTHS: tl.constexpr, CHECKED: tl.constexpr, P: tl.constexpr, PP: tl.constexpr, MODE: tl.constexpr,
    TRUNCATES: tl.constexpr, ENDS: tl.constexpr, OWN_STARTS: tl.constexpr, ENVS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`finish_step_reference` for ENVS envs.

    The first five arguments are tuples of the state's leaves ``(B, width)`` (of the bank ``(M, width)``), `checked` one
    of what must be finite besides the reward; their widths are WIDTHS and CHECKED. OWN_STARTS: env i starts from the
    bank's state i.
    """
    e = tl.program_id(0).to(tl.int64) * ENVS + tl.arange(0, ENVS)
    inside = e < num_envs
    p = tl.arange(0, PP)
    lives = p < P
    at = e[:, None] * P + p[None, :]
    mask = inside[:, None] & lives[None, :]
    paid = tl.load(reward + at, mask=mask, other=0.0)
    ends = tl.load(terminated + at, mask=mask, other=0) != 0
    over = e < 0
    if TRUNCATES:
        over = tl.load(truncated + e, mask=inside, other=0) != 0
    ended_before = mask & (mask == 0)
    if ENDS:
        ended_before = tl.load(ended + at, mask=mask, other=0) != 0
    waits = e < 0
    if MODE == NEXT_STEP:
        waits = tl.load(pending + e, mask=inside, other=0) != 0
    paid = tl.where(ended_before, 0.0, paid)
    broken = tl.max((paid - paid != 0.0).to(tl.int32), 1) > 0
    for i in tl.static_range(len(CHECKED)):
        broken = broken | not_finite(checked[i], e, inside, CHECKED[i], ENVS, COLUMNS)
    number = tl.load(episode + e, mask=inside, other=0)
    paid, ends, over, diverged, finished, was_reset, length, total, ended_after = finish_envs(
        paid, ends, over, broken, ended_before, lives, tl.load(elapsed + e, mask=inside, other=0),
        tl.load(returns + at, mask=mask, other=0.0), waits, horizon, MODE,
    )  # fmt: skip
    place = e
    if (MODE != DISABLED) and (not OWN_STARTS):
        place = start_at(tl.load(seed + e, mask=inside, other=0), number, tl.load(size), stream)
    for i in tl.static_range(len(WIDTHS)):
        keep_leaf(
            previous[i], proposed[i], bank[i], final[i], state[i], e, place, broken, was_reset, inside, WIDTHS[i], MODE,
            COLUMNS,
        )  # fmt: skip
    write_outcome(
        longs, floats, flags, stride, e, inside, lives, paid, ends, over, diverged, finished, was_reset, length, number,
        total, ended_after, P, PP,
    )  # fmt: skip
