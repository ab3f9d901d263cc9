"""A whole env step in one launch: act, draw, predict, end, reset, count, observe."""

from __future__ import annotations

import triton
import triton.language as tl

from wm_kernels.canvas_step.kernel import (
    any_row,
    drawn_and_held,
    half_even,
    next_values,
    over_rows,
)
from wm_kernels.finish_step.kernel import DISABLED, NEXT_STEP, finish_envs, start_at, write_outcome

# Rows of the table of columns (int32), and of the table of action bounds (float32); `op.py` writes them.
ACT_OWNER, ACT_COLUMN, ACT_OFFSET, OBSERVED = (tl.constexpr(i) for i in range(4))
ACT_LOW, ACT_HIGH = (tl.constexpr(i) for i in range(2))


@triton.jit
def act(before, actions, ended, env, valid, columns, bounds, pos, ACT_WIDTHS: tl.constexpr, NP: tl.constexpr):
    """Write the perspectives' actions within their bounds over the current values ``(R,)``, but not of ended ones.

    Returns:
        The values, and ``(R,)`` bool: the action written there is not finite.
    """
    owner = tl.load(columns + ACT_OWNER * NP + pos)
    column = tl.load(columns + ACT_COLUMN * NP + pos)
    offset = tl.load(columns + ACT_OFFSET * NP + pos)
    low = tl.load(bounds + ACT_LOW * NP + pos)
    high = tl.load(bounds + ACT_HIGH * NP + pos)
    now = before
    broken = owner < -1
    for p in tl.static_range(len(ACT_WIDTHS)):
        mine = valid & (owner == p)
        if len(ACT_WIDTHS) > 1:
            mine = mine & (tl.load(ended + env * len(ACT_WIDTHS) + p, mask=mine, other=0) == 0)
        action = tl.load(actions[p] + env * ACT_WIDTHS[p] + column, mask=mine, other=0)
        if not action.dtype.is_floating():
            action = action.to(tl.int64) - offset
        action = action.to(tl.float32)
        clipped = tl.minimum(tl.maximum(action, low), high)
        now = tl.where(mine, tl.where(action == action, clipped, action), now)
        broken = broken | (mine & (action - action != 0.0))
    return now, broken


@triton.jit
def per_perspective(after, column, lives, pos, R: tl.constexpr, NP: tl.constexpr):
    """``(E, PP)``: the value in each perspective's column; 0 where it has none."""
    here = (pos[:, None] == column[None, :]) & lives[None, :]
    picked = tl.where(here, after[:, None], 0.0)
    return tl.sum(tl.reshape(picked, (R // NP, NP, column.shape[0])), 1)


@triton.jit(do_not_specialize=["num_envs", "stride", "horizon", "ticks_per_step"])
def fused_step_kernel(
    values, tick, elapsed, episode, seed, returns, ended, pending, actions, bank, bank_tick, size,
    longs, floats, flags, num_envs, stride, horizon, ticks_per_step, columns, bounds, roles, hold, period,
    weights, head_tiles, hidden_tiles, biases, vectors, class_vectors, class_scalars, scalars, places, heads, passes,
    ACT_WIDTHS: tl.constexpr, OBS_WIDTHS: tl.constexpr, OBS_WHOLE: tl.constexpr, PP: tl.constexpr, MODE: tl.constexpr,
    PERIODS: tl.constexpr, NOISE_STREAM: tl.constexpr, RESET_STREAM: tl.constexpr,
    N: tl.constexpr, NP: tl.constexpr, D: tl.constexpr, H: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, NUM_HEADS: tl.constexpr, END: tl.constexpr, R: tl.constexpr, GR: tl.constexpr,
    HC: tl.constexpr, NS: tl.constexpr, CH: tl.constexpr, HOLDS: tl.constexpr, DESC: tl.constexpr,
    WEIGHT: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """`fused_step_reference` for E = R / NP envs.

    Args:
        values: ``(B, N)`` float32.
        tick: ``(B,)`` int64; not read without PERIODS, nor is `bank_tick`.
        elapsed, episode, seed: ``(B,)`` int64.
        returns: ``(B, P)`` float32.
        ended: ``(B, P)`` bool; not read for one perspective.
        pending: ``(B,)`` bool; read under NEXT_STEP alone.
        actions: A tuple of P tensors ``(B, width)``, whole or floating.
        bank, bank_tick, size: ``(M, N)`` float32, ``(M,)`` int64 and ``()`` int64: the first `size` states are drawn.
        longs, floats, flags: The arena's three parts; see `FusedStep`.
        num_envs, stride: B, and the envs that a column of the arena has room for.
        columns, bounds: ``(3 + P, NP)`` int32 and ``(2, NP)`` float32: who acts and observes where.
        roles: ``(2, P)`` int32, columns of the rewards and terminations; -1 for none.
        hold, period: ``(NP,)`` int32 and int64.
    """
    E: tl.constexpr = R // NP
    P: tl.constexpr = len(ACT_WIDTHS)
    r = tl.arange(0, R)
    env = tl.program_id(0).to(tl.int64) * E + r // NP
    pos = r % NP
    inside = env < num_envs
    valid = inside & (pos < N)
    at = env * N + pos

    # Act, and draw.
    before = tl.load(values + at, mask=valid, other=0.0)
    now, bad_action = act(before, actions, ended, env, valid, columns, bounds, pos, ACT_WIDTHS, NP)
    noise, held = drawn_and_held(
        seed, episode, elapsed, tick, hold, period, ticks_per_step, env, inside, valid, pos, PERIODS, NOISE_STREAM
    )

    # Predict.
    after = next_values(
        now, noise, held, valid, pos, weights, head_tiles, hidden_tiles, biases, vectors,
        class_vectors, class_scalars, scalars, places, heads, passes, N, NP, D, H, L, K, ROWS, NUM_HEADS, END, R, GR,
        HC, NS, CH, HOLDS, DESC, WEIGHT, IP,
    )  # fmt: skip

    # Finish.
    e = tl.program_id(0).to(tl.int64) * E + tl.arange(0, E)
    there = e < num_envs
    p = tl.arange(0, PP)
    lives = p < P
    flat = e[:, None] * P + p[None, :]
    mask = there[:, None] & lives[None, :]
    broken = any_row(valid & ((after - after != 0.0) | bad_action), R, NP)
    safe = tl.where(after - after == 0.0, after, 0.0)
    paid = per_perspective(safe, tl.load(roles + p, mask=lives, other=-1), lives, pos, R, NP)
    ends = per_perspective(safe, tl.load(roles + P + p, mask=lives, other=-1), lives, pos, R, NP) > 0.5
    ended_before = mask & (mask == 0)
    if P > 1:
        ended_before = tl.load(ended + flat, mask=mask, other=0) != 0
    waits = e < 0
    if MODE == NEXT_STEP:
        waits = tl.load(pending + e, mask=there, other=0) != 0
    number = tl.load(episode + e, mask=there, other=0)
    paid, ends, over, diverged, finished, was_reset, length, total, ended_after = finish_envs(
        paid, ends, e < 0, broken, ended_before, lives, tl.load(elapsed + e, mask=there, other=0),
        tl.load(returns + flat, mask=mask, other=0.0), waits, horizon, MODE,
    )  # fmt: skip
    write_outcome(
        longs, floats, flags, stride, e, there, lives, paid, ends, over, diverged, finished, was_reset, length, number,
        total, ended_after, P, PP,
    )  # fmt: skip

    # Keep, reset, observe.
    broken_rows = over_rows(broken.to(tl.int32), R, NP) > 0
    reset_rows = over_rows(was_reset.to(tl.int32), R, NP) > 0
    last = tl.where(broken_rows, before, after)
    fresh = last
    if MODE != DISABLED:
        place = start_at(tl.load(seed + e, mask=there, other=0), number, tl.load(size), RESET_STREAM)
        start = tl.load(bank + over_rows(place, R, NP) * N + pos, mask=valid & reset_rows, other=0.0)
        fresh = tl.where(reset_rows, start, last)
    floats += 3 * P * stride
    longs += 3 * stride
    tl.store(floats + at, fresh, mask=valid)
    tl.store(floats + N * stride + at, last, mask=valid)
    floats += 2 * N * stride
    if PERIODS:
        ticks = tl.load(tick + e, mask=there, other=0)
        ticks = tl.where(broken, ticks, ticks + ticks_per_step)
        tl.store(longs + stride + e, ticks, mask=there)
        if MODE != DISABLED:
            ticks = tl.where(was_reset, tl.load(bank_tick + place, mask=there & was_reset, other=0), ticks)
        tl.store(longs + e, ticks, mask=there)
        longs += 2 * stride
    for i in tl.static_range(len(OBS_WIDTHS)):
        column = tl.load(columns + (OBSERVED + i) * NP + pos)
        seen = valid & (column >= 0)
        spot = env * OBS_WIDTHS[i] + column
        if OBS_WHOLE[i]:
            tl.store(longs + spot, half_even(fresh).to(tl.int64), mask=seen)
            tl.store(longs + OBS_WIDTHS[i] * stride + spot, half_even(last).to(tl.int64), mask=seen)
            longs += 2 * OBS_WIDTHS[i] * stride
        else:
            tl.store(floats + spot, fresh, mask=seen)
            tl.store(floats + OBS_WIDTHS[i] * stride + spot, last, mask=seen)
            floats += 2 * OBS_WIDTHS[i] * stride
