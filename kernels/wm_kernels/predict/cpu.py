"""`predict` on the CPU without a graph: the same arithmetic in place, over as many envs as fit the cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_kernels.predict.reference import NORM_EPS, predict_reference
from wm_kernels.predict.weights import Attention, BlockWeights, DenoiserWeights

ENVS_IN_CACHE = 256
"""Envs whose activations stay in a core's second-level cache at D = 32."""
TILES_PAY = 0.5
"""Share of all pairs below which attention goes tile by tile: at a fifth it was faster than under a mask on all, where
tiles hold more pairs than there are, slower."""


def denoiser_block_cpu(
    tokens: Tensor, modulation: Tensor, weights: BlockWeights, num_heads: int, attention: Attention | None = None
) -> Tensor:
    """`denoiser_block_reference` for a modulation ``(6, D)`` that all envs share, and no gradient.

    A third of the reference's time goes into temporaries; here the activation is squared in place and the shared
    shift and scale ride along in the layer norm.
    """
    batch, positions, width = tokens.shape
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unbind(0)
    normed = F.layer_norm(tokens, (width,), scale1, shift1, eps=NORM_EPS)
    qkv = F.linear(normed, weights.qkv_weight, weights.qkv_bias)
    if attention is not None and attention.tile_mask.numel() < TILES_PAY * attention.mask.numel():
        attended = _attend_in_tiles(qkv, num_heads, attention)
    else:
        heads = qkv.view(batch, positions, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
        mask = None if attention is None else attention.mask
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, positions, width)
    tokens = torch.addcmul(tokens, gate1, F.linear(attended, weights.out_weight, weights.out_bias))
    normed = F.layer_norm(tokens, (width,), scale2, shift2, eps=NORM_EPS)
    hidden = F.linear(normed, weights.up_weight, weights.up_bias).relu_()
    hidden.mul_(hidden)
    return tokens.addcmul_(gate2, F.linear(hidden, weights.down_weight, weights.down_bias))


def _attend_in_tiles(qkv: Tensor, num_heads: int, attention: Attention) -> Tensor:
    """``(B, N, D)``, what the tokens of queries, keys and values ``(B, N, 3 D)`` gather under the attention's mask.

    Each tile attends to its own keys instead of all under a mask, in half the time at 900 positions in 20 groups.
    """
    batch, width = qkv.shape[0], qkv.shape[2] // 3
    places = attention.queries.flatten(), attention.keys.flatten(), attention.keys.flatten()
    # Tiles come first and envs beside the heads, so that all of them share the tile's mask.
    shape = len(attention.queries), -1, batch * num_heads, width // num_heads
    parts = zip(qkv.transpose(0, 1).split(width, -1), places, strict=True)
    queries, keys, values = (part.index_select(0, place).view(shape).transpose(1, 2) for part, place in parts)
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attention.tile_mask[:, None])
    return attended.transpose(1, 2).reshape(-1, batch, width).transpose(0, 1).index_select(1, attention.places)


def predict_cpu(
    canvas: Tensor,
    noise: Tensor,
    modulation: Tensor,
    weights: DenoiserWeights,
    sigmas: tuple[float, ...],
    clamp_mask: Tensor | None = None,
    clamp_sample: Tensor | None = None,
) -> Tensor:
    """`predict_reference` for tensors in host memory that need no gradient."""
    batch = canvas.shape[0]
    if batch <= ENVS_IN_CACHE:
        return predict_reference(
            canvas, noise, modulation, weights, sigmas, clamp_mask, clamp_sample, denoiser_block_cpu
        )
    parts = []
    for start in range(0, batch, ENVS_IN_CACHE):
        envs = slice(start, start + ENVS_IN_CACHE)
        mask = clamp_mask if clamp_mask is None or clamp_mask.shape[0] == 1 else clamp_mask[envs]
        known = None if clamp_sample is None else clamp_sample[envs]
        part = predict_reference(
            canvas[envs], noise[envs], modulation, weights, sigmas, mask, known, denoiser_block_cpu
        )
        parts.append(part)
    return torch.cat(parts)
