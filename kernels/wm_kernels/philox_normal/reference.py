"""Philox4x32-10 in torch, and normals by Box and Muller.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and the test
vectors published with it (Random123). Words are kept as int64 in ``[0, 2^32)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK32 = 0xFFFFFFFF


def philox4x32_reference(counter: Tensor, key: Tensor) -> Tensor:
    """Ten rounds of Philox4x32.

    Args:
        counter: ``(..., 4)`` int64, words in ``[0, 2^32)``.
        key: ``(..., 2)`` int64, words in ``[0, 2^32)``; broadcasts against `counter`.

    Returns:
        ``(..., 4)`` int64, words in ``[0, 2^32)``.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    for k0, k1 in _round_keys(key):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return torch.stack((c0, c1, c2, c3), -1)


def _round_keys(key: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two key words of every round, ``(...)`` int64 each: a Weyl sequence modulo 2^32."""
    round_number = torch.arange(ROUNDS, device=key.device)
    words = [(key[..., i, None] + round_number * WEYL[i]) & MASK32 for i in range(2)]
    return zip(words[0].unbind(-1), words[1].unbind(-1), strict=True)


def _multiply(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product; the 64-bit wrap-around of int64 keeps every bit."""
    product = word * constant
    return (product >> 32) & MASK32, product & MASK32


def _counters(episode: Tensor, step: Tensor, blocks: int, stream: int) -> Tensor:
    """``(B, blocks, 4)`` int64, the counters ``(step, episode, block, stream)``."""
    block = torch.arange(blocks, device=episode.device).expand(episode.shape[0], blocks)
    own = [(number & MASK32)[:, None].expand_as(block) for number in (step, episode)]
    return torch.stack((*own, block, torch.full_like(block, stream & MASK32)), -1)


def _key(seed: Tensor) -> Tensor:
    """``(B, 1, 2)`` int64, the two words of 64-bit seeds."""
    return torch.stack((seed & MASK32, (seed >> 32) & MASK32), -1)[:, None, :]


def philox_words_reference(seed: Tensor, episode: Tensor, step: Tensor, num_words: int, stream: int) -> Tensor:
    """Random words that depend on an env's own seed, episode and step alone.

    The key is the 64-bit seed; the counter is ``(step, episode, block, stream)``, one block per four words.

    Args:
        seed: ``(B,)`` int64, all 64 bits used.
        episode: ``(B,)`` int64, low 32 bits used.
        step: ``(B,)`` int64, low 32 bits used.
        num_words: Words per env.
        stream: Which use the words are for, low 32 bits used; different streams never share numbers.

    Returns:
        ``(B, num_words)`` int64 in ``[0, 2^32)``.
    """
    counter = _counters(episode, step, -(-num_words // 4), stream)
    return philox4x32_reference(counter, _key(seed)).flatten(1)[:, :num_words]


def box_muller(words: Tensor) -> Tensor:
    """Standard normals from pairs of words: ``(..., 2n)`` whole numbers of any dtype -> ``(..., 2n)`` float32.

    Word ``2i`` gives the radius through a uniform in (0, 1], word ``2i + 1`` the angle.
    """
    pairs = words.to(torch.float32).unflatten(-1, (-1, 2))
    return torch.view_as_real(normal_pairs(pairs[..., 0], pairs[..., 1])).flatten(-2)


def normal_pairs(radius: Tensor, angle: Tensor) -> Tensor:
    """Pairs of standard normals from pairs of words, float32 ``(...)`` each -> complex64 ``(...)``."""
    radius = (radius * 2.0**-32 + 2.0**-33).log_().mul_(-2.0).clamp_min_(0.0).sqrt_()
    return torch.polar(radius, angle * (2.0**-32 * 2.0 * math.pi))


def philox_normal_reference(seed: Tensor, episode: Tensor, step: Tensor, num_normals: int, stream: int) -> Tensor:
    """Standard normals that depend on an env's own seed, episode and step alone.

    Args:
        seed, episode, step, stream: As in `philox_words_reference`.
        num_normals: Normals per env.

    Returns:
        ``(B, num_normals)`` float32.
    """
    words = philox_words_reference(seed, episode, step, num_normals + num_normals % 2, stream)
    return box_muller(words)[:, :num_normals]
