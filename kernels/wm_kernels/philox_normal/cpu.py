"""The same words on the CPU through NumPy, whose small array operations cost a third of torch's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wm_kernels.philox_normal.reference import MASK32, MULTIPLIERS, ROUNDS, WEYL, normal_pairs

_MULTIPLIERS = np.array(MULTIPLIERS, dtype=np.uint64)[:, None, None]
_WEYL = (np.arange(ROUNDS, dtype=np.uint64)[:, None] * np.array(WEYL, dtype=np.uint64)).astype(np.uint32)
_WEYL = _WEYL[:, :, None, None]
"""``(ROUNDS, 2, 1, 1)``: what every round adds to the key words, modulo 2^32."""


def philox_words_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """`philox_words_reference` for tensors in host memory; the same bits."""
    even, odd = _philox(seed, *_counters(episode, step, -(-num_words // 4), stream))
    _, blocks, batch = even.shape
    words = np.empty((batch, blocks, 2, 2), np.int64)
    words[..., 0], words[..., 1] = even.T, odd.T
    return torch.from_numpy(words.reshape(batch, blocks * 4))[:, :num_words]


def philox_normal_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` for tensors in host memory; the same bits."""
    return _normals(*_philox(seed, *_counters(episode, step, -(-num_normals // 4), stream)), num_normals)


def _counters(episode: Tensor, step: Tensor, blocks: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """The counter words c0 and c2, and c1 and c3, ``(2, blocks, B)`` uint32 each.

    Lane first and envs last, so that operations run over contiguous memory that stays in the cache.
    """
    even = np.empty((2, blocks, episode.shape[0]), np.uint32)
    odd = np.empty_like(even)
    even[0], odd[0] = _words(step)[:, 0], _words(episode)[:, 0]
    even[1], odd[1] = np.arange(blocks, dtype=np.uint32)[:, None], stream & MASK32
    return even, odd


def _philox(seed: Tensor, even: np.ndarray, odd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ten rounds over the counters that `_counters` gives.

    Returns:
        ``(2, blocks, B)`` uint32 each: ``even[lane, block]`` is word ``4 * block + 2 * lane``, ``odd[lane, block]`` the
        one after it.
    """
    # Two buffers by turns, since the low halves of a product are read in the next round.
    products = np.empty((2, *even.shape), np.uint64)
    halves = products.view(np.uint32).reshape(*products.shape, 2)[:, ::-1]
    turns = [(product, half[..., 0], half[..., 1]) for product, half in zip(products, halves, strict=True)]
    for number, key in enumerate(_words(seed).T[:, None] + _WEYL):
        product, low, high = turns[number % 2]
        np.multiply(even, _MULTIPLIERS, out=product)
        even, odd = np.bitwise_xor(high, np.bitwise_xor(odd, key)), low
    return even, odd


def _normals(even: np.ndarray, odd: np.ndarray, num_normals: int) -> Tensor:
    """``(B, num_normals)`` float32 of words as `_philox` gives them."""
    pairs = normal_pairs(*(torch.from_numpy(lane.astype(np.float32)) for lane in (even, odd)))
    return torch.view_as_real(pairs.permute(2, 1, 0)).flatten(1)[:, :num_normals]


def _words(numbers: Tensor) -> np.ndarray:
    """``(B,)`` int64 tensor -> its low and high 32 bits, ``(B, 2)`` uint32; no copy where it is contiguous."""
    return np.ascontiguousarray(numbers.detach().numpy()).view(np.uint32).reshape(-1, 2)
