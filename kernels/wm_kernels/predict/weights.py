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


class ClassHead(NamedTuple):
    """One position that carries one of C classes.

    Attributes:
        position: Its place on the canvas.
        weight: ``(C, D)``, the read-out of the logits.
        bias: ``(C,)``; so low at classes that are never drawn that their probability is 0.
        value: ``(C,)``, the value that each class stands for.
        told: ``(C, D)``, what a drawn class adds to its position's token in later passes.
        peer: ``(C, D)``, what it adds to what the heads drawn after it read.
    """

    position: int
    weight: Tensor
    bias: Tensor
    value: Tensor
    told: Tensor
    peer: Tensor


class Attention(NamedTuple):
    """Which tokens attend to which, where not all do; among them are S summaries, which follow the N positions.

    Attributes:
        summary: ``(S, D)``, the summaries' tokens before the first block.
        mask: ``(N + S, N + S)`` bool, whether a query (first axis) attends to a key.
        queries: ``(T, Q)`` int64, the same in tiles: their queries.
        keys: ``(T, K)`` int64, the keys that those of a tile share.
        tile_mask: ``(T, Q, K)`` bool, which query of a tile attends to which of its keys.
        places: ``(N + S,)`` int64, where each token is among the ``T * Q`` queries.
    """

    summary: Tensor
    mask: Tensor
    queries: Tensor
    keys: Tensor
    tile_mask: Tensor
    places: Tensor


class DenoiserWeights(NamedTuple):
    """The whole denoiser.

    Attributes:
        blocks: In order of application; a block shared by several loops stands here several times.
        noise_weight: ``(N, D)``, how the noisy next number enters its position's token; 0 where no number is predicted.
        head_weight: ``(N, D)``, each number's read-out.
        head_bias: ``(N,)``.
        start_scale: ``(N,)``, standard deviation about its mean at which a number's denoising starts.
        draws: For each of the K passes the heads that are drawn from it, in order.
        class_positions: ``(n,)`` int64, the positions of all heads, in the order of `draws`.
        num_heads: Attention heads; D divides by it.
        attention: Which positions attend to which; None for all to all.
    """

    blocks: tuple[BlockWeights, ...]
    noise_weight: Tensor
    head_weight: Tensor
    head_bias: Tensor
    start_scale: Tensor
    draws: tuple[tuple[ClassHead, ...], ...]
    class_positions: Tensor
    num_heads: int
    attention: Attention | None = None
