"""The same words on the CPU through NumPy, whose small array operations cost a third of torch's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_kernels.philox_normal.reference import MASK32, MULTIPLIERS, ROUNDS, WEYL, box_muller

_MULTIPLIERS = np.array(MULTIPLIERS, dtype=np.uint64)[:, None]
_MASK32 = np.uint64(MASK32)
_SHIFT32 = np.uint64(32)
_KEY_STEPS = np.array([[(w * r) & MASK32 for w in WEYL] for r in range(ROUNDS)], dtype=np.uint64)[..., None]


def philox_words_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """`philox_words_reference` for tensors in host memory; the same bits."""
    batch, blocks = seed.shape[0], -(-num_words // 4)
    count = batch * blocks
    # Lane first, so that every operation runs over contiguous memory: row 0 holds c0 or c1, row 1 holds c2 or c3.
    even = np.empty((2, count), np.uint64)
    odd = np.empty((2, count), np.uint64)
    even[0] = _per_block(step, blocks) & _MASK32
    even[1].reshape(batch, blocks)[:] = np.arange(blocks, dtype=np.uint64)
    odd[0] = _per_block(episode, blocks) & _MASK32
    odd[1] = stream
    key = _per_block(seed, blocks)
    keys = (np.stack((key & _MASK32, key >> _SHIFT32)) + _KEY_STEPS) & _MASK32  # (rounds, 2, count)
    product = np.empty_like(even)
    low = np.empty_like(even)
    for round_keys in keys:
        np.multiply(even, _MULTIPLIERS, out=product)
        np.bitwise_and(product, _MASK32, out=low)
        np.right_shift(product, _SHIFT32, out=product)
        np.bitwise_xor(odd, round_keys, out=odd)
        np.bitwise_xor(product[::-1], odd, out=even)
        odd, low = low[::-1], odd
    words = np.empty((count, 4), np.int64)
    words[:, 0], words[:, 1], words[:, 2], words[:, 3] = even[0], odd[0], even[1], odd[1]
    return torch.from_numpy(words).view(batch, blocks * 4)[:, :num_words]


def _per_block(rows: Tensor, blocks: int) -> np.ndarray:
    """``(B,)`` int64 tensor -> ``(B * blocks,)`` uint64 array with the same 64 bits."""
    bits = rows.detach().numpy().view(np.uint64)
    return bits if blocks == 1 else bits.repeat(blocks)


def philox_normal_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` for tensors in host memory; the same bits."""
    return box_muller(philox_words_cpu(seed, episode, step, num_normals + num_normals % 2, stream))[:, :num_normals]
