"""The denoiser's weights as the operations take them; NamedTuples, which torch.compile traces."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class BlockWeights(NamedTuple):
    """One transformer block of width D with an MLP of width H.

    Attributes:
        qkv_weight: ``(3 D, D)``, rows of queries, keys and values.
        qkv_bias: ``(3 D,)``.
        out_weight: ``(D, D)``.
        out_bias: ``(D,)``.
        up_weight: ``(H, D)``.
        up_bias: ``(H,)``.
        down_weight: ``(D, H)``.
        down_bias: ``(D,)``.
    """

    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor


class DenoiserWeights(NamedTuple):
    """The whole denoiser.

    Attributes:
        blocks: In order of application; a block shared by several loops stands here several times.
        noise_weight: ``(N, V, D)``, how the noisy next value enters its position's token; 0 for positions that are
            not predicted.
        head_weight: ``(N, V, D)``, each position's read-out.
        head_bias: ``(N, V)``.
        num_heads: Attention heads; D divides by it.
    """

    blocks: tuple[BlockWeights, ...]
    noise_weight: Tensor
    head_weight: Tensor
    head_bias: Tensor
    num_heads: int
