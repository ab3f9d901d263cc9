"""The specification of `predict`, `denoiser_block` and `sampler_update`.

Formulas: Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based generative models"
(EDM), NeurIPS 2022, table 1 with sigma_data = 1; adaptive layer normalisation after Peebles and Xie, "Scalable
diffusion models with transformers", ICCV 2023; squared ReLU after So et al., "Primer", NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_kernels.predict.weights import BlockWeights, DenoiserWeights

NORM_EPS = 1e-5


def denoiser_block_reference(tokens: Tensor, modulation: Tensor, weights: BlockWeights, num_heads: int) -> Tensor:
    """One pre-norm transformer block: attention over the canvas, then an MLP with squared ReLU.

    Args:
        tokens: ``(B, N, D)`` float.
        modulation: ``(..., 6, D)`` float that broadcasts to ``(B, 6, D)``: shift, 1 + scale and gate of the
            attention, then of the MLP. ``(6, D)`` where the noise level is common to all rows.
        weights: The block's weights.
        num_heads: Attention heads.

    Returns:
        ``(B, N, D)`` float.
    """
    batch, positions, width = tokens.shape
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unsqueeze(-2).unbind(-3)
    normed = torch.addcmul(shift1, F.layer_norm(tokens, (width,), eps=NORM_EPS), scale1)
    qkv = F.linear(normed, weights.qkv_weight, weights.qkv_bias)
    heads = qkv.view(batch, positions, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
    attended = attended.transpose(1, 2).reshape(batch, positions, width)
    tokens = torch.addcmul(tokens, gate1, F.linear(attended, weights.out_weight, weights.out_bias))
    normed = torch.addcmul(shift2, F.layer_norm(tokens, (width,), eps=NORM_EPS), scale2)
    hidden = F.relu(F.linear(normed, weights.up_weight, weights.up_bias)).square()
    return torch.addcmul(tokens, gate2, F.linear(hidden, weights.down_weight, weights.down_bias))


Block = Callable[[Tensor, Tensor, BlockWeights, int], Tensor]


def denoise_reference(
    canvas: Tensor,
    noisy: Tensor,
    sigma: Tensor | float,
    modulation: Tensor,
    weights: DenoiserWeights,
    block: Block = denoiser_block_reference,
) -> Tensor:
    """EDM's preconditioned denoiser: the clean sample that `noisy` most likely came from.

    Args:
        canvas: ``(B, N, D)`` float, the encoded context.
        noisy: ``(B, N, V)`` float, the clean sample plus sigma times a standard normal.
        sigma: The noise level: a float common to all envs, or ``(B, 1, 1)`` float.
        modulation: ``(L, 6, D)``, or ``(B, L, 6, D)`` with a noise level per row.
        weights: The denoiser's weights.
        block: The implementation of `denoiser_block` to use.

    Returns:
        ``(B, N, V)`` float.
    """
    if isinstance(sigma, float) and noisy.shape[-1] == 1:
        # One noise level and one channel: the factors ride along in operations that there are anyway.
        variance = 1.0 + sigma * sigma
        norm: Any = math.sqrt(variance)
        tokens = torch.addcmul(canvas, noisy, weights.noise_weight[:, 0], value=1.0 / norm)
        output = _blocks(tokens, modulation, weights, block)
        return torch.add(noisy / variance, output, alpha=sigma / norm)
    norm = math.sqrt(1.0 + sigma * sigma) if isinstance(sigma, float) else torch.sqrt(1.0 + sigma * sigma)
    scaled = noisy / norm
    if noisy.shape[-1] == 1:
        tokens = torch.addcmul(canvas, scaled, weights.noise_weight[:, 0])
    else:
        tokens = canvas + torch.einsum("bnv,nvd->bnd", scaled, weights.noise_weight)
    return (scaled + sigma * _blocks(tokens, modulation, weights, block)) / norm


def _blocks(tokens: Tensor, modulation: Tensor, weights: DenoiserWeights, block: Block) -> Tensor:
    """All blocks and the read-out: ``(B, N, D)`` -> ``(B, N, V)``."""
    for block_weights, block_modulation in zip(weights.blocks, modulation.unbind(-3), strict=True):
        tokens = block(tokens, block_modulation, block_weights, weights.num_heads)
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS)
    if weights.head_weight.shape[1] == 1:
        return (normed * weights.head_weight[:, 0]).sum(-1, keepdim=True) + weights.head_bias
    return torch.einsum("bnd,nvd->bnv", normed, weights.head_weight) + weights.head_bias


def sampler_update_reference(noisy: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """One Euler step of EDM's probability-flow ODE, from `sigma` down to `sigma_next`.

    Args:
        noisy: ``(B, N, V)`` float at noise level `sigma`.
        denoised: ``(B, N, V)`` float, the denoiser's answer at `sigma`.
        sigma: Current noise level, above 0.
        sigma_next: Next noise level, 0 at the last step.

    Returns:
        ``(B, N, V)`` float at noise level `sigma_next`.
    """
    return denoised if sigma_next == 0 else torch.lerp(denoised, noisy, sigma_next / sigma)


def predict_reference(
    canvas: Tensor,
    noise: Tensor,
    modulation: Tensor,
    weights: DenoiserWeights,
    sigmas: tuple[float, ...],
    heun: bool = False,
    clamp_mask: Tensor | None = None,
    clamp_sample: Tensor | None = None,
    block: Block = denoiser_block_reference,
) -> Tensor:
    """Sample the next values of the whole canvas.

    Args:
        canvas: ``(B, N, D)`` float, the context, encoded once.
        noise: ``(B, N, V)`` float, standard normals.
        modulation: ``(K, L, 6, D)`` float, a constant table: the noise levels are common to all rows.
        weights: The denoiser's weights.
        sigmas: K + 1 falling noise levels, the last 0.
        heun: EDM's second-order correction, at the price of K - 1 more evaluations.
        clamp_mask: ``(M, N)`` bool with M = B or 1: positions whose next value is known beforehand.
        clamp_sample: ``(B, N, V)`` float, their values; needed with `clamp_mask`.
        block: The implementation of `denoiser_block` to use.

    Returns:
        ``(B, N, V)`` float, a sample.
    """
    sample = noise * sigmas[0]
    for k, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sample = _with_known(sample, noise, sigma, clamp_mask, clamp_sample)
        denoised = denoise_reference(canvas, sample, sigma, modulation[k], weights, block)
        stepped = sampler_update_reference(sample, denoised, sigma, sigma_next)
        if heun and sigma_next > 0:
            stepped = _with_known(stepped, noise, sigma_next, clamp_mask, clamp_sample)
            again = denoise_reference(canvas, stepped, sigma_next, modulation[k + 1], weights, block)
            slope = ((sample - denoised) / sigma + (stepped - again) / sigma_next) / 2
            stepped = sample + (sigma_next - sigma) * slope
        sample = stepped
    return _with_known(sample, noise, 0.0, clamp_mask, clamp_sample)


def _with_known(
    sample: Tensor, noise: Tensor, sigma: float, clamp_mask: Tensor | None, clamp_sample: Tensor | None
) -> Tensor:
    """`sample` with what is known beforehand in its place, as noisy as the rest."""
    if clamp_mask is None or clamp_sample is None:
        return sample
    return torch.where(clamp_mask.unsqueeze(-1), torch.add(clamp_sample, noise, alpha=sigma), sample)
