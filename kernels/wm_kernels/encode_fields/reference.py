"""The specification of `encode_fields`."""

from __future__ import annotations

import torch
from torch import Tensor


def encode_channels(values: Tensor, center: Tensor, scale: Tensor, num_bits: Tensor, num_channels: int) -> Tensor:
    """Field values as network channels: normalised numbers, and class indices as signed bits.

    Class indices become analog bits (Chen, Zhang and Hinton, "Analog Bits", ICLR 2023): bit v of the index as
    -1 or 1 in channel v. A two-class field is the affine map with center 0.5 and scale 2, so that worlds without
    larger classes need one channel and no bit arithmetic.

    Args:
        values: ``(B, N)`` float, in the fields' own units; class indices as whole numbers.
        center: ``(N,)`` float, subtracted from `values`.
        scale: ``(N,)`` float, multiplied after.
        num_bits: ``(N,)`` int64, bits of each position's class index; 0 for numbers.
        num_channels: V, the largest number of channels of any position.

    Returns:
        ``(B, N, V)`` float; channels that a position does not use are 0.
    """
    normalised = (values - center) * scale
    if num_channels == 1:
        return normalised.unsqueeze(-1)
    channel = torch.arange(num_channels, device=values.device)
    is_class = (num_bits > 0)[:, None]
    index = torch.where(is_class, values.unsqueeze(-1), 0.0).nan_to_num().to(torch.int64)
    bits = ((index >> channel) & 1).to(values.dtype) * 2 - 1
    used = (channel < num_bits[:, None]).to(values.dtype)
    first = (channel == 0).to(values.dtype)
    return torch.where(is_class, bits * used, normalised.unsqueeze(-1) * first)


def encode_fields_reference(
    values: Tensor,
    known: Tensor,
    center: Tensor,
    scale: Tensor,
    num_bits: Tensor,
    weight: Tensor,
    known_bias: Tensor,
    unknown_bias: Tensor,
) -> Tensor:
    """Write the current field values onto a fresh canvas, one token per position.

    Args:
        values: ``(B, N)`` float, in the fields' own units. What stands at unknown positions is never read into the
            result, NaN included.
        known: ``(M, N)`` bool with M = B or 1: which positions the context tells.
        center, scale, num_bits: As in `encode_channels`.
        weight: ``(N, V, D)`` float, each position's encoder.
        known_bias: ``(N, D)`` float, the token of a known zero: position, field and flag embeddings together.
        unknown_bias: ``(N, D)`` float, the token of an unknown value.

    Returns:
        ``(B, N, D)`` float, the canvas.
    """
    channels = encode_channels(values, center, scale, num_bits, weight.shape[1])
    known = known.unsqueeze(-1)
    if weight.shape[1] == 1:
        written = torch.addcmul(known_bias, channels, weight[:, 0])
    else:
        written = known_bias + torch.einsum("bnv,nvd->bnd", torch.where(known, channels, 0.0), weight)
    return torch.where(known, written, unknown_bias)
