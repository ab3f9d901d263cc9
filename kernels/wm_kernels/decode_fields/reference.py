"""The specification of `decode_fields`."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_fields_reference(
    sample: Tensor,
    values: Tensor,
    base: Tensor,
    shift: Tensor,
    scale: Tensor,
    low: Tensor,
    high: Tensor,
    num_bits: Tensor,
    num_classes: Tensor,
) -> Tensor:
    """Read the next field values off a sample.

    A number becomes ``base * values + shift + scale * sample``, clamped to its bounds: with base 1 a residual on
    the current value, with base 0 a value of its own, with base 1 and scale 0 the value that was there. A class
    index is read from the signs of its bits; indices past the last class give the last class. What is not finite gives
    NaN.

    Args:
        sample: ``(B, N, V)`` float.
        values: ``(B, N)`` float, the current values in their own units.
        base, shift, scale: ``(M, N)`` float with M = B or 1.
        low, high: ``(N,)`` float, bounds in the fields' own units; infinite where there are none.
        num_bits: ``(N,)`` int64, bits of the class index; 0 for numbers, and for classes that are not predicted.
        num_classes: ``(N,)`` int64, classes of the position; 0 for numbers.

    Returns:
        ``(B, N)`` float, the next values.
    """
    numbers = torch.addcmul(torch.addcmul(shift, base, values), scale, sample[..., 0])
    # A number less itself is 0, or NaN where it is not finite: what diverged must stay visible behind the bounds, and
    # behind a comparison, by which NaN would read as an unset bit.
    visible = numbers - numbers
    if sample.shape[-1] == 1:
        classes = (sample[..., 0] > 0).to(values.dtype)
    else:
        channel = torch.arange(sample.shape[-1], device=sample.device)
        used = channel < num_bits[:, None]
        index = (((sample > 0) & used).to(torch.int64) << channel).sum(-1)
        classes = torch.minimum(index, (num_classes - 1).clamp(min=0)).to(values.dtype)
        visible = visible + torch.where(used, sample - sample, 0.0).sum(-1)
    return torch.where(num_bits > 0, classes, torch.clamp(numbers, low, high)) + visible
