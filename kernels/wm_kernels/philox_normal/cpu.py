"""The same words on the CPU through NumPy, whose small array operations cost a third of torch's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_kernels.philox_normal.reference import MASK32, MULTIPLIERS, ROUNDS, WEYL, box_muller

_MULTIPLIERS = np.array(MULTIPLIERS, dtype=np.uint64)[:, None, None]
_WEYL = np.array(WEYL, dtype=np.uint64)[:, None, None]
_MASK32 = np.uint64(MASK32)
_SHIFT32 = np.uint64(32)


def philox_words_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """`philox_words_reference` for tensors in host memory; the same bits."""
    words = _words(seed, episode, step, num_words, stream)
    return torch.from_numpy(words.astype(np.int64))[:, :num_words]


def philox_normal_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` for tensors in host memory; the same bits."""
    words = _words(seed, episode, step, num_normals, stream)
    return box_muller(torch.from_numpy(words.astype(np.float32)))[:, :num_normals]


def _words(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> np.ndarray:
    """``(B, 4 * blocks)`` uint32, blocks enough for `num_words`."""
    batch, blocks = seed.shape[0], -(-num_words // 4)
    # Lane first and rows last, so that operations run over contiguous memory that stays in the cache: lane 0 of `even`
    # and `odd` holds the counter words c0 and c1, lane 1 holds c2 and c3.
    even = np.empty((2, blocks, batch), np.uint64)
    odd = np.empty_like(even)
    product = np.empty_like(even)
    low = np.empty_like(even)
    key = np.empty((2, 1, batch), np.uint64)
    even[0], odd[0] = _low32(step), _low32(episode)
    even[1], odd[1] = np.arange(blocks, dtype=np.uint64)[:, None], stream
    key[0, 0], key[1, 0] = _low32(seed), _bits(seed) >> _SHIFT32
    for _ in range(ROUNDS):
        np.multiply(even, _MULTIPLIERS, out=product)
        np.bitwise_and(product, _MASK32, out=low)
        np.right_shift(product, _SHIFT32, out=product)
        np.bitwise_xor(odd, key, out=odd)
        np.bitwise_xor(product[::-1], odd, out=even)
        odd, low = low[::-1], odd
        np.add(key, _WEYL, out=key)
        np.bitwise_and(key, _MASK32, out=key)
    words = np.empty((batch, blocks, 4), np.uint32)
    words[..., 0], words[..., 1], words[..., 2], words[..., 3] = even[0].T, odd[0].T, even[1].T, odd[1].T
    return words.reshape(batch, blocks * 4)


def _bits(rows: Tensor) -> np.ndarray:
    """``(B,)`` int64 tensor -> uint64 array with the same 64 bits."""
    return rows.detach().numpy().view(np.uint64)


def _low32(rows: Tensor) -> np.ndarray:
    return _bits(rows) & _MASK32
