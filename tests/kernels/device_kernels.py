"""Each device function as a kernel of its own."""

import sys

import triton
import triton.language as tl

from wm_kernels.canvas_step import kernel  # noqa: F401 - imported, it may be in place of the one below

CANVAS = sys.modules["wm_kernels.canvas_step.kernel"]
block, tokens, class_row, decode = CANVAS.block, CANVAS.tokens, CANVAS.class_row, CANVAS.decode
sampler_update, draw_class, PASS = CANVAS.sampler_update, CANVAS.draw_class, CANVAS.PASS
CENTER, SCALE, KNOWN = CANVAS.CENTER, CANVAS.SCALE, CANVAS.KNOWN
EMBEDDING, TOLD = CANVAS.CLASS_EMBEDDING, CANVAS.CLASS_TOLD


@triton.jit
def block_kernel(
    x, out, weights, biases, number, N: tl.constexpr, NP: tl.constexpr, D: tl.constexpr, H: tl.constexpr,
    R: tl.constexpr, GR: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, R)[:, None] * D + tl.arange(0, D)[None, :]
    i = tl.arange(0, GR)
    together = (i[:, None] // NP == i[None, :] // NP) & ((i % NP) < N)[None, :]
    y = block(
        tl.load(x + at), weights, weights, weights, biases, number, together, D, H, R, GR, 32, 1, True, True, False,
        tl.float32, "ieee",
    )  # fmt: skip
    tl.store(out + at, y)


@triton.jit
def tokens_kernel(
    values, scaled, told, out, vectors, class_vectors, scalars, places, ROWS: tl.constexpr, N: tl.constexpr,
    NP: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    r = tl.arange(0, R)
    pos = r % NP
    valid = pos < N
    now = tl.load(values + r // NP * N + pos, mask=valid, other=0.0)
    known = (tl.load(scalars + KNOWN * NP + pos) > 0) & valid
    channel = tl.where(known, (now - tl.load(scalars + CENTER * NP + pos)) * tl.load(scalars + SCALE * NP + pos), 0.0)
    current = class_row(now, scalars, tl.where(known, tl.load(places + pos), -1), pos, NP)
    noisy = tl.load(scaled + r // NP * N + pos, mask=valid, other=0.0)
    x = tokens(
        channel, current, tl.load(told + r), noisy, vectors, class_vectors + EMBEDDING * ROWS * D,
        class_vectors + TOLD * ROWS * D, pos, N, NP, D,
    )  # fmt: skip
    tl.store(out + r[:, None] * D + tl.arange(0, D)[None, :], x)


@triton.jit
def class_row_kernel(values, out, scalars, places, N: tl.constexpr, NP: tl.constexpr, R: tl.constexpr):
    r = tl.arange(0, R)
    pos = r % NP
    now = tl.load(values + r // NP * N + pos, mask=pos < N, other=0.0)
    tl.store(out + r, class_row(now, scalars, tl.load(places + pos), pos, NP))


@triton.jit
def decode_kernel(sample, now, out, scalars, ended, NP: tl.constexpr):
    pos = tl.arange(0, NP)
    tl.store(out + pos, decode(tl.load(sample + pos), tl.load(now + pos), pos * 0 + ended > 0, scalars, pos, NP))


@triton.jit
def sampler_kernel(sample, output, before, noise, out, passes, k, R: tl.constexpr):
    r = tl.arange(0, R)
    after, denoised = sampler_update(
        tl.load(sample + r), tl.load(output + r), tl.load(before + r), tl.load(noise + r), passes + k * PASS
    )
    tl.store(out + r, after)
    tl.store(out + R + r, denoised)


@triton.jit
def draw_kernel(
    hidden, normal, weight, bias, index, total, count, D: tl.constexpr, CH: tl.constexpr, E: tl.constexpr
):  # fmt: skip
    e = tl.arange(0, E)
    h = tl.load(hidden + e[:, None] * D + tl.arange(0, D)[None, :])
    h = h / (1.0 + tl.exp(-h))
    drawn, mass = draw_class(h, tl.load(normal + e), weight, bias, 0, count, D, CH, E)
    tl.store(index + e, drawn)
    tl.store(total + e, mass)
