"""The specification of `decode_fields`."""

from __future__ import annotations

import torch
from torch import Tensor


def decode_fields_reference(
    sample: Tensor, values: Tensor, base: Tensor, shift: Tensor, scale: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Read the next field values off a sample: ``base * values + shift + scale * sample``, clamped to the bounds.

    With base 1 that is a residual on the current value, with base 0 a value of its own, with base 1 and scale 0 the
    value that was there. A class has base 0 and scale 1: its sample is the value that it stands for. What is not
    finite gives NaN.

    Args:
        sample: ``(B, N)`` float.
        values: ``(B, N)`` float, the current values in their own units.
        base: ``(M, N)`` float with M = B or 1.
        shift, scale: ``(S, N)`` float with S = B or 1.
        low, high: ``(N,)`` float, bounds in the fields' own units; infinite where there are none.

    Returns:
        ``(B, N)`` float, the next values.
    """
    unbounded = torch.addcmul(torch.addcmul(shift, base, values), scale, sample)
    # A number less itself is 0, or NaN where it is not finite: what diverged must stay visible behind the bounds.
    return torch.clamp(unbounded, low, high) + (unbounded - unbounded)
