"""The canvas on chip: a program owns R rows, R / NP envs of NP padded positions, from their values to their next ones.

Weights stream from the second-level cache; tokens never leave the chip. The arithmetic is that of the references with
what is constant folded into the weights (see `tables.py`): a block sees no modulation, no softmax scale and no biases
of keys and values, and the residual stream has mean 0, so that its layer norm is one sum of squares.

Sizes, all constexpr: R rows; N positions, NP padded; D width; H hidden width of the MLP; L blocks, K passes; GR rows
that attend to each other (a multiple of NP); HC hidden units at a time; NS pipeline stages; CH classes at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from wm_kernels.philox_normal.kernel import normal_at

EPS = tl.constexpr(1e-5)
HEAD = tl.constexpr(32)
"""Width of an attention head."""

# Rows of the tables; `tables.py` writes them.
BASE_TOKEN, WEIGHT_TOKEN, NOISE_TOKEN, READ_OUT = (tl.constexpr(i) for i in range(4))
CLASS_EMBEDDING, CLASS_WEIGHT, CLASS_TOLD, CLASS_PEER = (tl.constexpr(i) for i in range(4))
(CENTER, SCALE, KNOWN, READ_BIAS, START, BASE, SHIFT, _SHIFT_AT_END, STEP_SCALE, _STEP_SCALE_AT_END, LOW, HIGH,
 INPUT_BASE, INPUT_INVERSE, INPUT_LAST) = (tl.constexpr(i) for i in range(15))  # fmt: skip
PASS = tl.constexpr(8)
"""Numbers of a pass: 1 / norm, c_skip, c_out, a, b, c, share of the starting noise, sigma."""


# -- over rows and envs ------------------------------------------------------------------------------------------


@triton.jit
def over_rows(per_env, R: tl.constexpr, NP: tl.constexpr):
    """``(E,)`` of envs -> ``(R,)`` of their rows."""
    return tl.reshape(tl.broadcast_to(per_env[:, None], (R // NP, NP)), (R,))


@triton.jit
def over_envs(per_row, R: tl.constexpr, NP: tl.constexpr):
    """The sum ``(E,)`` over each env's rows ``(R,)``."""
    return tl.sum(tl.reshape(per_row, (R // NP, NP)), 1)


@triton.jit
def any_row(flag, R: tl.constexpr, NP: tl.constexpr):
    """Whether any of an env's rows has the flag: ``(R,)`` bool -> ``(E,)`` bool."""
    return tl.max(tl.reshape(flag.to(tl.int32), (R // NP, NP)), 1) > 0


# -- the transformer ---------------------------------------------------------------------------------------------


@triton.jit
def weight_tile(weights, descriptor, row, ROWS: tl.constexpr, D: tl.constexpr, DESC: tl.constexpr):
    """``(ROWS, D)`` of the packed weights."""
    if DESC:
        return descriptor.load([row, 0])
    else:
        at = (row + tl.arange(0, ROWS))[:, None] * D + tl.arange(0, D)[None, :]
        return tl.load(weights + at)


@triton.jit
def normalise(x, D: tl.constexpr, CONTAIN: tl.constexpr):
    """Layer norm of rows of mean 0. CONTAIN: rows that are not finite become 0, since they would reach others."""
    variance = tl.sum(x * x, 1) * (1.0 / D)
    y = x * tl.rsqrt(variance + EPS)[:, None]
    if CONTAIN:
        y = tl.where((variance < float("inf"))[:, None], y, 0.0)
    return y


@triton.jit
def attend(
    q, k, v, together, R: tl.constexpr, GR: tl.constexpr, MASKED: tl.constexpr, WEIGHT: tl.constexpr, IP: tl.constexpr
):  # fmt: skip
    """Attention of one head within groups of GR rows; the scores are powers of 2. ``(R, HEAD)`` in WEIGHT's dtype."""
    if GR < R:
        q = tl.reshape(q, (R // GR, GR, HEAD))
        k = tl.reshape(k, (R // GR, GR, HEAD))
        v = tl.reshape(v, (R // GR, GR, HEAD))
        scores = tl.dot(q, tl.permute(k, (0, 2, 1)), input_precision=IP)
        if MASKED:
            scores = tl.where(together[None, :, :], scores, float("-inf"))
        p = tl.exp2(scores - tl.max(scores, 2)[:, :, None])
        total = 1.0 / tl.sum(p, 2)
        attended = tl.dot(p.to(WEIGHT), v, input_precision=IP) * total[:, :, None]
        return tl.reshape(attended.to(WEIGHT), (R, HEAD))
    else:
        scores = tl.dot(q, tl.trans(k), input_precision=IP)
        if MASKED:
            scores = tl.where(together, scores, float("-inf"))
        p = tl.exp2(scores - tl.max(scores, 1)[:, None])
        total = 1.0 / tl.sum(p, 1)
        return (tl.dot(p.to(WEIGHT), v, input_precision=IP) * total[:, None]).to(WEIGHT)


@triton.jit
def block(
    x, weights, head_tiles, hidden_tiles, biases, number, together,
    D: tl.constexpr, H: tl.constexpr, R: tl.constexpr, GR: tl.constexpr, HC: tl.constexpr, NS: tl.constexpr,
    MASKED: tl.constexpr, CONTAIN: tl.constexpr, DESC: tl.constexpr, WEIGHT: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """`denoiser_block_reference` on ``(R, D)`` float32 with mean 0; `number` is ``pass * L + block``."""
    d = tl.arange(0, D)
    row = number * (4 * D + 2 * H)
    bias = biases + number * (3 * D + H)
    c = tl.arange(0, HEAD)
    normed = normalise(x, D, CONTAIN).to(WEIGHT)
    x += tl.load(bias + D + d)[None, :]
    for h in tl.range(0, D // HEAD, num_stages=NS):
        wq = weight_tile(weights, head_tiles, row + h * HEAD, HEAD, D, DESC)
        wk = weight_tile(weights, head_tiles, row + D + h * HEAD, HEAD, D, DESC)
        wv = weight_tile(weights, head_tiles, row + 2 * D + h * HEAD, HEAD, D, DESC)
        q = tl.dot(normed, tl.trans(wq), input_precision=IP) + tl.load(bias + h * HEAD + c)[None, :]
        k = tl.dot(normed, tl.trans(wk), input_precision=IP)
        v = tl.dot(normed, tl.trans(wv), input_precision=IP)
        a = attend(q.to(WEIGHT), k.to(WEIGHT), v.to(WEIGHT), together, R, GR, MASKED, WEIGHT, IP)
        wo = weight_tile(weights, head_tiles, row + 3 * D + h * HEAD, HEAD, D, DESC)
        x = tl.dot(a, wo, acc=x, input_precision=IP)
    normed = normalise(x, D, False).to(WEIGHT)
    x += tl.load(bias + 2 * D + H + d)[None, :]
    for c0 in tl.range(0, H, HC, num_stages=NS):
        wu = weight_tile(weights, hidden_tiles, row + 4 * D + c0, HC, D, DESC)
        hidden = tl.dot(normed, tl.trans(wu), input_precision=IP)
        hidden += tl.load(bias + 2 * D + c0 + tl.arange(0, HC))[None, :]
        hidden = tl.maximum(hidden, 0.0)
        wd = weight_tile(weights, hidden_tiles, row + 4 * D + H + c0, HC, D, DESC)
        x = tl.dot((hidden * hidden).to(WEIGHT), wd, acc=x, input_precision=IP)
    return x


# -- fields ------------------------------------------------------------------------------------------------------


@triton.jit
def half_even(x):
    """The nearest whole number, of two the even one: `torch.round`."""
    up = tl.floor(x + 0.5)
    odd = up - 2.0 * tl.floor(up * 0.5)
    return tl.where(up - x == 0.5, up - odd, up)


@triton.jit
def class_row(value, scalars, first_row, pos, NP: tl.constexpr):
    """`class_rows` of `encode_fields`: the row of a current class in the table; -1 where there is a number."""
    index = half_even((value - tl.load(scalars + INPUT_BASE * NP + pos)) * tl.load(scalars + INPUT_INVERSE * NP + pos))
    index = tl.where(index == index, index, 0.0)
    index = tl.minimum(tl.maximum(index, 0.0), tl.load(scalars + INPUT_LAST * NP + pos)).to(tl.int32)
    return tl.where(first_row >= 0, first_row + index, -1)


@triton.jit
def gather_rows(table, row, D: tl.constexpr):
    """``(R, D)``: rows of a table; 0 where the row is -1."""
    at = row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    return tl.load(table + at, mask=(row >= 0)[:, None], other=0.0)


@triton.jit
def tokens(
    channel, current, drawn, scaled, vectors, embedding, told, pos, N: tl.constexpr, NP: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """The tokens ``(R, D)`` at the start of a pass: `encode_fields`, what was drawn, and the noisy numbers."""
    at = pos[:, None] * D + tl.arange(0, D)[None, :]
    x = tl.load(vectors + BASE_TOKEN * NP * D + at)
    x += channel[:, None] * tl.load(vectors + WEIGHT_TOKEN * NP * D + at)
    x += gather_rows(embedding, current, D)
    x += gather_rows(told, drawn, D)
    return x + scaled[:, None] * tl.load(vectors + NOISE_TOKEN * NP * D + at)


@triton.jit
def decode(sample, now, ended, scalars, pos, NP: tl.constexpr):
    """`decode_fields_reference` with the normalisers of steps that end the episode, or not."""
    row = tl.where(ended, 1, 0) * NP + pos
    number = tl.load(scalars + SHIFT * NP + row) + tl.load(scalars + BASE * NP + pos) * now
    number += tl.load(scalars + STEP_SCALE * NP + row) * sample
    low = tl.load(scalars + LOW * NP + pos)
    bounded = tl.minimum(tl.maximum(number, low), tl.load(scalars + HIGH * NP + pos))
    return bounded + (number - number)  # NaN where it is not finite


@triton.jit
def sampler_update(sample, output, before, noise, at):
    """EDM's preconditioning of the network's output, and `sampler_update_reference`, by the numbers of a pass at `at`.

    Returns:
        The sample at the next noise level, and the denoised one.
    """
    denoised = sample * tl.load(at + 1) + output * tl.load(at + 2)
    sample = tl.load(at + 3) * sample + tl.load(at + 4) * denoised + tl.load(at + 5) * before
    return sample + tl.load(at + 6) * noise, denoised


# -- classes -----------------------------------------------------------------------------------------------------


@triton.jit
def chunk_logits(hidden, weight, bias, first, c0, count, D: tl.constexpr, CH: tl.constexpr):
    """Logits ``(E, CH)`` of the classes from `c0` on, in float32; -inf beyond the last class."""
    c = c0 + tl.arange(0, CH)
    row = (first + c).to(tl.int64)
    there = c < count
    w = tl.load(weight + row[:, None] * D + tl.arange(0, D)[None, :], mask=there[:, None], other=0.0)
    logits = tl.sum(hidden[:, None, :] * w[None, :, :], 2) + tl.load(bias + row, mask=there, other=0.0)[None, :]
    return tl.where(there[None, :], logits, float("-inf"))


@triton.jit
def draw_class(hidden, normal, weight, bias, first, count, D: tl.constexpr, CH: tl.constexpr, E: tl.constexpr):
    """`draw_class` of the reference over `class_logits`: index ``(E,)`` int32, and the sum of exponentials.

    The sum is NaN where the logits are.
    """
    uniform = 0.5 * (1.0 + tl.erf(normal * 0.7071067811865476))
    uniform = tl.minimum(tl.maximum(uniform, 1.1641532182693481e-10), 0.99999994)
    top = tl.full((E,), float("-inf"), tl.float32)
    total = tl.zeros((E,), tl.float32)
    for c0 in range(0, count, CH):
        logits = chunk_logits(hidden, weight, bias, first, c0, count, D, CH)
        higher = tl.maximum(top, tl.max(logits, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        top = higher
    index = tl.zeros((E,), tl.int32)
    last = tl.zeros((E,), tl.int32)
    before = tl.zeros((E,), tl.float32)
    for c0 in range(0, count, CH):
        c = c0 + tl.arange(0, CH)
        p = tl.exp(chunk_logits(hidden, weight, bias, first, c0, count, D, CH) - top[:, None])
        cdf = before[:, None] + tl.cumsum(p, 1)
        passed = (uniform * total)[:, None] > cdf
        index += tl.sum((passed & (c < count)[None, :]).to(tl.int32), 1)
        last = tl.maximum(last, tl.max(tl.where(p > 0.0, c[None, :], 0), 1))
        before += tl.sum(p, 1)
    return tl.minimum(index, last), total


@triton.jit
def nearest_class(wanted, value, first, count, CH: tl.constexpr, E: tl.constexpr):
    """The first of the classes whose values are nearest to `wanted` ``(E,)``."""
    best = tl.full((E,), float("inf"), tl.float32)
    index = tl.zeros((E,), tl.int32)
    for c0 in range(0, count, CH):
        c = c0 + tl.arange(0, CH)
        there = c < count
        distance = tl.abs(wanted[:, None] - tl.load(value + first + c, mask=there, other=0.0)[None, :])
        distance = tl.where(there[None, :], distance, float("inf"))
        near = tl.min(distance, 1)
        where = tl.min(tl.where(distance == near[:, None], c[None, :], 2147483647), 1)
        index = tl.where(near < best, where, index)
        best = tl.minimum(best, near)
    return index


@triton.jit
def draw_classes(
    first_head, last_head, normed, noise, drawn, drawn_value, held, wanted, heads, class_vectors, class_scalars, pos,
    ROWS: tl.constexpr, NP: tl.constexpr, D: tl.constexpr, R: tl.constexpr, CH: tl.constexpr, HOLDS: tl.constexpr,
):  # fmt: skip
    """Draw the heads of one pass, one after the other, each told of those before it.

    Returns:
        `drawn` ``(R,)`` int32 and `drawn_value` ``(R,)`` float32 with the drawn classes' rows and values in place.
    """
    E: tl.constexpr = R // NP
    weight = class_vectors + CLASS_WEIGHT * ROWS * D
    peer = class_vectors + CLASS_PEER * ROWS * D
    value = class_scalars + ROWS
    peers = tl.sum(tl.reshape(gather_rows(peer, drawn, D), (E, NP, D)), 1)
    for head in range(first_head, last_head):
        place = tl.load(heads + head * 3)
        first = tl.load(heads + head * 3 + 1)
        count = tl.load(heads + head * 3 + 2)
        here = pos == place
        hidden = tl.sum(tl.reshape(tl.where(here[:, None], normed, 0.0), (E, NP, D)), 1) + peers
        hidden = hidden / (1.0 + tl.exp(-hidden))
        normal = over_envs(tl.where(here, noise, 0.0), R, NP)
        index, total = draw_class(hidden, normal, weight, class_scalars, first, count, D, CH, E)
        if HOLDS:
            known = nearest_class(over_envs(tl.where(here, wanted, 0.0), R, NP), value, first, count, CH, E)
            index = tl.where(any_row(held & here, R, NP), known, index)
        row = first + index
        number = tl.load(value + row) + (total - total)  # NaN where the logits are
        drawn_value = tl.where(here, over_rows(number, R, NP), drawn_value)
        drawn = tl.where(here, over_rows(row, R, NP), drawn)
        peers += tl.load(peer + row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :])
    return drawn, drawn_value


# -- a whole step of the canvas ----------------------------------------------------------------------------------


@triton.jit
def next_values(
    now, noise, held, valid, pos, weights, head_tiles, hidden_tiles, biases, vectors, class_vectors, class_scalars,
    scalars, places, heads, passes,
    N: tl.constexpr, NP: tl.constexpr, D: tl.constexpr, H: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, NUM_HEADS: tl.constexpr, END: tl.constexpr, R: tl.constexpr, GR: tl.constexpr,
    HC: tl.constexpr, NS: tl.constexpr, CH: tl.constexpr, HOLDS: tl.constexpr, DESC: tl.constexpr,
    WEIGHT: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """The next values ``(R,)``: encode, K passes, decode.

    Args:
        now: ``(R,)`` float32, current values with the actions written.
        noise: ``(R,)`` float32, standard normals; 0 at padding.
        held: ``(R,)`` bool, positions that keep their value; not read without HOLDS.
        valid: ``(R,)`` bool, false at padding.
        pos: ``(R,)`` int32.
        weights, head_tiles, hidden_tiles: The packed weights ``(rows, D)``; descriptors of them with DESC.
        biases, vectors, class_vectors, class_scalars, scalars, places, heads, passes: See `KernelTables`.

    Returns:
        All NaN in an env that has anything that is not finite.
    """
    i = tl.arange(0, GR)
    MASKED: tl.constexpr = (GR > NP) or (N < NP)
    CONTAIN: tl.constexpr = GR > NP
    together = (i[:, None] // NP == i[None, :] // NP) & ((i % NP) < N)[None, :]
    known = (tl.load(scalars + KNOWN * NP + pos) > 0) & valid
    channel = (now - tl.load(scalars + CENTER * NP + pos)) * tl.load(scalars + SCALE * NP + pos)
    channel = tl.where(known, channel, 0.0)
    current = class_row(now, scalars, tl.where(known, tl.load(places + pos), -1), pos, NP)
    told = held & known  # what conditions the others
    shift = tl.load(scalars + SHIFT * NP + pos)
    step_scale = tl.load(scalars + STEP_SCALE * NP + pos)
    wanted = (now - shift - tl.load(scalars + BASE * NP + pos) * now) / tl.where(step_scale > 0, step_scale, 1.0)
    read_out = pos[:, None] * D + tl.arange(0, D)[None, :]
    sample = tl.zeros((R,), tl.float32)
    denoised = tl.zeros((R,), tl.float32)
    drawn = tl.full((R,), -1, tl.int32)
    drawn_value = tl.zeros((R,), tl.float32)
    for k in range(K):
        at = passes + k * PASS
        if HOLDS:
            sample = tl.where(told & (k > 0), wanted + tl.load(at + 7) * noise, sample)
        scaled = sample * tl.load(at)
        x = tokens(channel, current, drawn, scaled, vectors, class_vectors + CLASS_EMBEDDING * ROWS * D,
                   class_vectors + CLASS_TOLD * ROWS * D, pos, N, NP, D)  # fmt: skip
        for n in range(L):
            x = block(x, weights, head_tiles, hidden_tiles, biases, k * L + n, together, D, H, R, GR, HC, NS, MASKED,
                      CONTAIN, DESC, WEIGHT, IP)  # fmt: skip
        normed = normalise(x, D, False)
        output = tl.sum(normed * tl.load(vectors + READ_OUT * NP * D + read_out), 1)
        output += tl.load(scalars + READ_BIAS * NP + pos)
        sample, denoised = sampler_update(sample, output, denoised, noise * tl.load(scalars + START * NP + pos), at)
        if NUM_HEADS > 0:
            drawn, drawn_value = draw_classes(
                tl.load(heads + 3 * NUM_HEADS + k), tl.load(heads + 3 * NUM_HEADS + k + 1), normed, noise, drawn,
                drawn_value, told, wanted, heads, class_vectors, class_scalars, pos, ROWS, NP, D, R, CH, HOLDS,
            )  # fmt: skip
    sample = tl.where(drawn >= 0, drawn_value, sample)
    ended = tl.zeros((R,), tl.int1)
    if END >= 0:
        ended = over_rows(over_envs(tl.where(pos == END, sample, 0.0), R, NP), R, NP) > 0.5
    after = decode(sample, now, ended, scalars, pos, NP)
    broken = any_row(valid & ((channel - channel) + (after - after) != 0.0), R, NP)
    after = tl.where(over_rows(broken.to(tl.int32), R, NP) > 0, float("nan"), after)
    if HOLDS:
        after = tl.where(held, now, after)
    return after


@triton.jit
def resting(tick, period, ticks_per_step):
    """Positions that a step leaves as they are: where floor(tick / period) does not grow; see `changing_fields`."""
    return (tick + ticks_per_step) // period == tick // period


@triton.jit
def drawn_and_held(
    seed, episode, elapsed, tick, hold, period, ticks_per_step, env, inside, valid, pos,
    PERIODS: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """A step's noise ``(R,)``, 0 at padding, and the positions ``(R,)`` that keep their value through it."""
    key = tl.load(seed + env, mask=inside, other=0)
    number = tl.load(episode + env, mask=inside, other=0)
    noise = normal_at(key, number, tl.load(elapsed + env, mask=inside, other=0), pos, STREAM)
    held = tl.load(hold + pos) != 0
    if PERIODS:
        ticks = tl.load(tick + env, mask=inside, other=0)
        held = held | resting(ticks, tl.load(period + pos), ticks_per_step)
    return tl.where(valid, noise, 0.0), held


@triton.jit(do_not_specialize=["num_envs", "ticks_per_step"])
def canvas_step_kernel(
    values, tick, action, seed, episode, elapsed, out, num_envs, ticks_per_step, action_column, hold, period,
    weights, head_tiles, hidden_tiles, biases, vectors, class_vectors, class_scalars, scalars, places, heads, passes,
    A: tl.constexpr, PERIODS: tl.constexpr, STREAM: tl.constexpr,
    N: tl.constexpr, NP: tl.constexpr, D: tl.constexpr, H: tl.constexpr, L: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, NUM_HEADS: tl.constexpr, END: tl.constexpr, R: tl.constexpr, GR: tl.constexpr,
    HC: tl.constexpr, NS: tl.constexpr, CH: tl.constexpr, HOLDS: tl.constexpr, DESC: tl.constexpr,
    WEIGHT: tl.constexpr, IP: tl.constexpr,
):  # fmt: skip
    """`canvas_step_reference`: the next values of R / NP envs."""
    r = tl.arange(0, R)
    env = tl.program_id(0).to(tl.int64) * (R // NP) + r // NP
    pos = r % NP
    inside = env < num_envs
    valid = inside & (pos < N)
    at = env * N + pos
    before = tl.load(values + at, mask=valid, other=0.0)
    column = tl.load(action_column + pos)
    written = tl.load(action + env * A + column, mask=valid & (column >= 0), other=0.0)
    now = tl.where(column >= 0, written, before)
    noise, held = drawn_and_held(
        seed, episode, elapsed, tick, hold, period, ticks_per_step, env, inside, valid, pos, PERIODS, STREAM
    )
    after = next_values(
        now, noise, held, valid, pos, weights, head_tiles, hidden_tiles, biases, vectors,
        class_vectors, class_scalars, scalars, places, heads, passes, N, NP, D, H, L, K, ROWS, NUM_HEADS, END, R, GR,
        HC, NS, CH, HOLDS, DESC, WEIGHT, IP,
    )  # fmt: skip
    tl.store(out + at, after, mask=valid)
