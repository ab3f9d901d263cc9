"""The specification of `predict`, `denoiser_block` and `sampler_update`.

Formulas: Karras, Aittala, Aila and Laine, "Elucidating the design space of diffusion-based generative models"
(EDM), NeurIPS 2022, table 1 with sigma_data = 1; DPM-Solver++ after Lu et al., 2022; adaptive layer normalisation
after Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023; squared ReLU after So et al.,
"Primer", NeurIPS 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_kernels.predict.weights import Attention, BlockWeights, ClassHead, DenoiserWeights

NORM_EPS = 1e-5


def denoiser_block_reference(
    tokens: Tensor, modulation: Tensor, weights: BlockWeights, num_heads: int, attention: Attention | None = None
) -> Tensor:
    """One pre-norm transformer block: attention over the canvas, then an MLP with squared ReLU.

    Args:
        tokens: ``(B, N, D)`` float.
        modulation: ``(..., 6, D)`` float that broadcasts to ``(B, 6, D)``: shift, 1 + scale and gate of the
            attention, then of the MLP. ``(6, D)`` where the noise level is common to all envs.
        weights: The block's weights.
        num_heads: Attention heads.
        attention: Which tokens attend to which, its summaries among the N; None for all to all.

    Returns:
        ``(B, N, D)`` float.
    """
    batch, positions, width = tokens.shape
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation.unsqueeze(-2).unbind(-3)
    normed = torch.addcmul(shift1, F.layer_norm(tokens, (width,), eps=NORM_EPS), scale1)
    qkv = F.linear(normed, weights.qkv_weight, weights.qkv_bias)
    heads = qkv.view(batch, positions, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
    mask = None if attention is None else attention.mask
    attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
    attended = attended.transpose(1, 2).reshape(batch, positions, width)
    tokens = torch.addcmul(tokens, gate1, F.linear(attended, weights.out_weight, weights.out_bias))
    normed = torch.addcmul(shift2, F.layer_norm(tokens, (width,), eps=NORM_EPS), scale2)
    hidden = F.relu(F.linear(normed, weights.up_weight, weights.up_bias)).square()
    return torch.addcmul(tokens, gate2, F.linear(hidden, weights.down_weight, weights.down_bias))


Block = Callable[[Tensor, Tensor, BlockWeights, int, Attention | None], Tensor]


def trunk_reference(
    tokens: Tensor, modulation: Tensor, weights: DenoiserWeights, block: Block = denoiser_block_reference
) -> Tensor:
    """One pass: all blocks under one entry of the modulation table, then the norm that every read-out shares.

    Summaries of `weights.attention` live in here alone.

    Args:
        tokens: ``(B, N, D)`` float.
        modulation: ``(L, 6, D)``, or ``(B, L, 6, D)`` with an entry per env.
        weights: The denoiser's weights.
        block: The implementation of `denoiser_block` to use.

    Returns:
        ``(B, N, D)`` float.
    """
    positions, attention = tokens.shape[1], weights.attention
    if attention is not None:
        tokens = torch.cat((tokens, attention.summary.expand(tokens.shape[0], -1, -1)), 1)
    for block_weights, block_modulation in zip(weights.blocks, modulation.unbind(-3), strict=True):
        tokens = block(tokens, block_modulation, block_weights, weights.num_heads, attention)
    return F.layer_norm(tokens[:, :positions], tokens.shape[-1:], eps=NORM_EPS)


def read_numbers(normed: Tensor, weights: DenoiserWeights) -> Tensor:
    """What the network says of every number, ``(B, N)``: its mean after the first pass, EDM's F after the others."""
    return (normed * weights.head_weight).sum(-1) + weights.head_bias


def class_logits(hidden: Tensor, head: ClassHead, peers: Tensor | None) -> Tensor:
    """Logits ``(B, C)`` of one position's class.

    The head reads its position and the sum over the classes drawn before it, through one nonlinearity: an
    autoregressive read-out after Larochelle and Murray, "The neural autoregressive distribution estimator", AISTATS
    2011.

    Args:
        hidden: ``(B, D)`` float, what the trunk gave at the head's position.
        head: The head.
        peers: ``(B, D)`` float, the sum of the `peer` rows of the classes drawn before; None for none.
    """
    return F.linear(F.silu(hidden if peers is None else hidden + peers), head.weight, head.bias)


def draw_class(probability: Tensor, normal: Tensor) -> Tensor:
    """Class indices ``(B,)`` int64 by inverse CDF; the uniform is Phi of the position's own normal.

    Args:
        probability: ``(B, C)`` float32.
        normal: ``(B,)`` standard normals.
    """
    cdf = probability.cumsum(-1)
    # Bounded away from 0 and 1, so that a class without mass at either end is never drawn.
    uniform = torch.special.ndtr(normal.float()).clamp(2.0**-33, 1 - 2.0**-24)
    return (uniform.unsqueeze(-1) * cdf[:, -1:] > cdf).sum(-1)


def sampler_coefficients(sigmas: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """The ``a, b, c`` of each step ``x <- a x + b D + c D_before`` down the falling levels `sigmas`, the last 0.

    DPM-Solver++(2M) (Lu et al., 2022) in EDM's terms: from the second level on, the denoised sample D is carried on
    along its change since the level before; the step to 0 takes D as it is.
    """
    coefficients = []
    for k, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        kept = sigma_next / sigma
        ratio = math.log(sigma / sigma_next) / (2 * math.log(sigmas[k - 1] / sigma)) if k and sigma_next else 0.0
        coefficients.append((kept, (1 - kept) * (1 + ratio), -(1 - kept) * ratio))
    return coefficients


def sampler_update_reference(
    noisy: Tensor, denoised: Tensor, before: Tensor, coefficients: tuple[float, float, float]
) -> Tensor:
    """The sample at the next noise level, ``a noisy + b denoised + c before``.

    Args:
        noisy: ``(B, N)`` float at the current noise level.
        denoised: ``(B, N)`` float, the denoiser's answer to it.
        before: ``(B, N)`` float, its answer at the level before.
        coefficients: ``a, b, c``, one step of `sampler_coefficients`.

    Returns:
        ``(B, N)`` float.
    """
    a, b, c = coefficients
    stepped = denoised if b == 1 else denoised * b
    stepped = stepped if a == 0 else torch.add(stepped, noisy, alpha=a)
    return stepped if c == 0 else torch.add(stepped, before, alpha=c)


def predict_reference(
    canvas: Tensor,
    noise: Tensor,
    modulation: Tensor,
    weights: DenoiserWeights,
    sigmas: tuple[float, ...],
    clamp_mask: Tensor | None = None,
    clamp_sample: Tensor | None = None,
    block: Block = denoiser_block_reference,
) -> Tensor:
    """Sample the next values of the whole canvas, in K passes through the same blocks.

    The first pass sees the context alone: it is the denoiser at infinite noise. It gives every number's mean, from
    which the diffusion starts, and the first classes are drawn from it, one after the other. A class that was drawn is
    told to the later passes as an addition to its position's token. Each of those denoises the numbers at one noise
    level. What else `weights.draws` names is drawn from the pass that it is named for.

    Args:
        canvas: ``(B, N, D)`` float, the context, encoded once.
        noise: ``(B, N)`` float, standard normals: a number's starting noise, or a class's uniform through Phi. The
            sampler runs in its dtype.
        modulation: ``(K, L, 6, D)`` float, a constant table: the first pass's entry, then one for each noise level.
        weights: The denoiser's weights.
        sigmas: K falling noise levels of which the last is 0; those of the passes after the first, then 0.
        clamp_mask: ``(M, N)`` bool with M = B or 1: positions whose next value is known beforehand.
        clamp_sample: ``(B, N)`` float, their values as a sample has them; needed with `clamp_mask`.
        block: The implementation of `denoiser_block` to use.

    Returns:
        ``(B, N)`` float, a sample: normalised numbers, and the values that the drawn classes stand for. The gradient of
        such a value is that of its expectation.
    """
    coefficients = sampler_coefficients(sigmas)
    drawn: list[Tensor] = []
    peers, before = None, noise
    normed = trunk_reference(canvas, modulation[0], weights, block)
    denoised = read_numbers(normed, weights).to(noise.dtype)
    sample = torch.addcmul(denoised, noise, weights.start_scale)
    for k, heads in enumerate(weights.draws):
        if k > 0:
            sigma = sigmas[k - 1]
            norm = math.sqrt(1.0 + sigma * sigma)
            sample = _with_known(sample, noise, sigma, clamp_mask, clamp_sample)
            scaled = (sample / norm).to(canvas.dtype).unsqueeze(-1)
            tokens = torch.addcmul(canvas, scaled, weights.noise_weight)
            normed = trunk_reference(tokens, modulation[k], weights, block)
            output = read_numbers(normed, weights).to(noise.dtype)
            before, denoised = denoised, torch.add(sample / (norm * norm), output, alpha=sigma / norm)
            sample = sampler_update_reference(sample, denoised, before, coefficients[k - 1])
        told = []
        for head in heads:
            place = head.position
            probability = torch.softmax(class_logits(normed[:, place], head, peers).float(), -1)
            index = draw_class(probability, noise[:, place])
            if clamp_mask is not None and clamp_sample is not None:
                held = (clamp_sample[:, place, None] - head.value).abs().argmin(-1)
                index = torch.where(clamp_mask[:, place], held, index)
            expected = probability @ head.value.float()
            drawn.append(head.value[index] + (expected - expected.detach()))  # NaN where the logits are
            told.append(head.told[index])
            peers = head.peer[index] if peers is None else peers + head.peer[index]
        if told and k + 1 < len(weights.draws):
            canvas = canvas.index_add(
                1, weights.class_positions[len(drawn) - len(told) : len(drawn)], torch.stack(told, 1)
            )
    sample = _with_known(sample, noise, 0.0, clamp_mask, clamp_sample)
    if not drawn:
        return sample
    return sample.index_copy(1, weights.class_positions, torch.stack(drawn, 1).to(sample.dtype))


def changing_fields(tick: Tensor, period: Tensor, ticks_per_step: int) -> Tensor:
    """Positions ``(B, N)`` bool that change in a step of `ticks_per_step` ticks: where floor(tick / period) grows.

    Args:
        tick: ``(B,)`` int64, ticks before the step.
        period: ``(N,)`` int64, ticks between two changes of a position.
        ticks_per_step: Ticks that the step lasts.
    """
    tick = tick[:, None]
    return (tick + ticks_per_step) // period > tick // period


def _with_known(
    sample: Tensor, noise: Tensor, sigma: float, clamp_mask: Tensor | None, clamp_sample: Tensor | None
) -> Tensor:
    """`sample` with what is known beforehand in its place, as noisy as the rest."""
    if clamp_mask is None or clamp_sample is None:
        return sample
    return torch.where(clamp_mask, torch.add(clamp_sample, noise, alpha=sigma), sample)
