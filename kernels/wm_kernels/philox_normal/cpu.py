"""The same words on the CPU through NumPy, whose small array operations cost a third of torch's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_kernels.philox_normal.reference import MASK32, MULTIPLIERS, ROUNDS, WEYL, normal_pairs

_MULTIPLIERS = np.array(MULTIPLIERS, dtype=np.uint64)[:, None, None]
_WEYL = np.array(WEYL, dtype=np.uint64)[:, None, None]
_MASK32 = np.uint64(MASK32)
_SHIFT32 = np.uint64(32)


def philox_words_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """`philox_words_reference` for tensors in host memory; the same bits."""
    even, odd = _lanes(seed, episode, step, num_words, stream)
    _, blocks, batch = even.shape
    words = np.empty((batch, blocks, 2, 2), np.int64)
    words[..., 0], words[..., 1] = even.T, (odd & _MASK32).T
    return torch.from_numpy(words.reshape(batch, blocks * 4))[:, :num_words]


def philox_normal_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` for tensors in host memory; the same bits."""
    radius, angle = (lane.astype(np.uint32) for lane in _lanes(seed, episode, step, num_normals, stream))
    _, blocks, batch = radius.shape
    pairs = normal_pairs(*(torch.from_numpy(lane.astype(np.float32)) for lane in (radius, angle))).numpy()
    normals = np.empty((batch, blocks, 2), np.complex64)
    for block in range(blocks):  # a copy at a time, since one that turns all axes at once takes four times as long
        normals[:, block, 0], normals[:, block, 1] = pairs[0, block], pairs[1, block]
    return torch.from_numpy(normals.view(np.float32).reshape(batch, blocks * 4))[:, :num_normals]


def _lanes(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """The even words and the odd ones, ``(2, blocks, B)`` uint64, blocks enough for `num_words`.

    Word ``4 * block + 2 * lane`` is ``even[lane, block]``, the one after it the low 32 bits of ``odd[lane, block]``.
    """
    batch, blocks = seed.shape[0], -(-num_words // 4)
    # Lane first and rows last, so that operations run over contiguous memory that stays in the cache: lane 0 of `even`
    # and `odd` holds the counter words c0 and c1, lane 1 holds c2 and c3. What `odd` and `key` hold above their low 32
    # bits does no harm: it is cleared before words are multiplied.
    even = np.empty((2, blocks, batch), np.uint64)
    odd = np.empty_like(even)
    product = np.empty_like(even)
    key = np.empty((2, 1, batch), np.uint64)
    even[0], odd[0] = _bits(step) & _MASK32, _bits(episode)
    even[1], odd[1] = np.arange(blocks, dtype=np.uint64)[:, None], stream & MASK32
    key[0, 0], key[1, 0] = _bits(seed), _bits(seed) >> _SHIFT32
    for _ in range(ROUNDS):
        np.multiply(even, _MULTIPLIERS, out=product)
        np.right_shift(product, _SHIFT32, out=even)
        np.bitwise_xor(odd, key, out=odd)
        np.bitwise_xor(even[::-1], odd, out=odd)
        np.bitwise_and(odd, _MASK32, out=odd)
        even, odd, product = odd, product[::-1], even
        np.add(key, _WEYL, out=key)
    return even, odd


def _bits(rows: Tensor) -> np.ndarray:
    """``(B,)`` int64 tensor -> uint64 array with the same 64 bits."""
    return rows.detach().numpy().view(np.uint64)
