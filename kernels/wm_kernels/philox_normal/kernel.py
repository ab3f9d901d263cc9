"""Philox4x32-10 and its normals in Triton: the words of the reference bit by bit, the normals to rounding."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def philox_block(seed, episode, step, block, stream):
    """The four words of one block, uint32 of the arguments' common shape; see `philox_words_reference`.

    Args:
        seed, episode, step: int64; of the last two the low 32 bits count.
        block: int32.
        stream: int64, scalar or of that shape; its low 32 bits count.
    """
    lane = (block + (episode * 0).to(tl.int32)).to(tl.uint32)  # in the common shape
    zero = lane * 0
    c0, c1, c3 = (step + zero).to(tl.uint32), (episode + zero).to(tl.uint32), (stream + zero).to(tl.uint32)
    return tl.philox(seed, c0, c1, lane, c3)


@triton.jit
def normal_at(seed, episode, step, index, stream):
    """The standard normal number `index` of `philox_normal_reference`, float32 of the arguments' common shape."""
    w0, w1, w2, w3 = philox_block(seed, episode, step, index // 4, stream)
    second = (index % 4) >= 2
    radius = tl.where(second, w2, w0).to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt(tl.maximum(tl.log(radius) * -2.0, 0.0))
    angle = tl.where(second, w3, w1).to(tl.float32) * 1.4629180792671596e-09  # 2 pi / 2^32
    return radius * tl.where(index % 2 == 0, tl.cos(angle), tl.sin(angle))


@triton.jit
def word_at(seed, episode, step, index, stream):
    """The word number `index` of `philox_words_reference`, uint32 of the arguments' common shape."""
    w0, w1, w2, w3 = philox_block(seed, episode, step, index // 4, stream)
    lane = index % 4
    return tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))


@triton.jit(do_not_specialize=["num_envs", "num_numbers", "stream"])
def philox_kernel(
    seed, episode, step, out, num_envs, num_numbers, stream,
    NORMAL: tl.constexpr, ENVS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`philox_normal` (float32 `out`) or `philox_words` (int64 `out`): one program for ENVS x COLUMNS numbers."""
    env = tl.program_id(0).to(tl.int64) * ENVS + tl.arange(0, ENVS)
    index = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = env < num_envs
    key = tl.load(seed + env, mask=inside, other=0)[:, None]
    episode = tl.load(episode + env, mask=inside, other=0)[:, None]
    step = tl.load(step + env, mask=inside, other=0)[:, None]
    stored = inside[:, None] & (index < num_numbers)[None, :]
    at = out + env[:, None] * num_numbers + index[None, :]
    stream = stream.to(tl.int64)
    if NORMAL:
        tl.store(at, normal_at(key, episode, step, index[None, :], stream), mask=stored)
    else:
        tl.store(at, word_at(key, episode, step, index[None, :], stream).to(tl.int64), mask=stored)
