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
    even, odd = _philox(seed, *_counters(episode, step, -(-num_words // 4), stream))
    _, blocks, batch = even.shape
    words = np.empty((batch, blocks, 2, 2), np.int64)
    words[..., 0], words[..., 1] = even.T, odd.T
    return torch.from_numpy(words.reshape(batch, blocks * 4))[:, :num_words]


def philox_normal_cpu(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """`philox_normal_reference` for tensors in host memory; the same bits."""
    return _normals(*_philox(seed, *_counters(episode, step, -(-num_normals // 4), stream)), num_normals)


def philox_step_cpu(
    seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int, reset_stream: int
) -> tuple[Tensor, Tensor]:
    """`philox_step_reference` for tensors in host memory; the same bits."""
    noise = _counters(episode, step, -(-num_normals // 4), stream)
    reset = _counters(episode + 1, torch.zeros_like(step), 1, reset_stream)
    even, odd = _philox(seed, *(np.concatenate(pair, 1) for pair in zip(noise, reset, strict=True)))
    normals = _normals(even[:, :-1], odd[:, :-1], num_normals)
    return normals, torch.from_numpy(even[0, -1].astype(np.int64))


def _counters(episode: Tensor, step: Tensor, blocks: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """The counter words c0 and c2, and c1 and c3, ``(2, blocks, B)`` uint64 each.

    Lane first and envs last, so that operations run over contiguous memory that stays in the cache. The words c1 and c3
    may have bits above their low 32: they are cleared before they are multiplied.
    """
    even = np.empty((2, blocks, episode.shape[0]), np.uint64)
    odd = np.empty_like(even)
    even[0], odd[0] = _bits(step) & _MASK32, _bits(episode)
    even[1], odd[1] = np.arange(blocks, dtype=np.uint64)[:, None], stream & MASK32
    return even, odd


def _philox(seed: Tensor, even: np.ndarray, odd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ten rounds; the counters are written over.

    Returns:
        ``(2, blocks, B)`` uint64 each, below 2^32: ``even[lane, block]`` is word ``4 * block + 2 * lane``,
        ``odd[lane, block]`` the one after it.
    """
    product = np.empty_like(even)
    key = np.empty((2, 1, seed.shape[0]), np.uint64)
    key[0, 0], key[1, 0] = _bits(seed), _bits(seed) >> _SHIFT32
    for _ in range(ROUNDS):
        np.multiply(even, _MULTIPLIERS, out=product)
        np.right_shift(product, _SHIFT32, out=even)
        np.bitwise_xor(odd, key, out=odd)
        np.bitwise_xor(even[::-1], odd, out=odd)
        np.bitwise_and(odd, _MASK32, out=odd)
        even, odd, product = odd, product[::-1], even
        np.add(key, _WEYL, out=key)
    return even, odd & _MASK32


def _normals(even: np.ndarray, odd: np.ndarray, num_normals: int) -> Tensor:
    """``(B, num_normals)`` float32 of words as `_philox` gives them."""
    _, blocks, batch = even.shape
    # By way of uint32, which is converted to float32 twice as fast as uint64.
    lanes = (torch.from_numpy(lane.astype(np.uint32).astype(np.float32)) for lane in (even, odd))
    pairs = normal_pairs(*lanes).numpy()
    normals = np.empty((batch, blocks, 2), np.complex64)
    for block in range(blocks):  # a copy at a time, since one that turns all axes at once takes four times as long
        normals[:, block, 0], normals[:, block, 1] = pairs[0, block], pairs[1, block]
    return torch.from_numpy(normals.view(np.float32).reshape(batch, blocks * 4))[:, :num_normals]


def _bits(numbers: Tensor) -> np.ndarray:
    """``(B,)`` int64 tensor -> uint64 array with the same 64 bits."""
    return numbers.detach().numpy().view(np.uint64)
