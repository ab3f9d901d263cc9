"""A codec's normalisers, fitted to data."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_vec.model.codec import FieldCodec
from wm_vec.train.data import WorldData

CONSTANT_STD = 1e-3
"""Standard deviation given to what never changes, relative to its size: its prediction stays at its value."""
RESOLUTION = 2.0**-23
"""Of float32: what varies less, relative to the field's values, is rounding."""
REFIT_RATIO = 5.0
"""A known position is fitted again when new data spread this many times wider than what it was fitted to."""


@torch.no_grad()
def fit_normalisers(codec: FieldCodec, data: WorldData, keep_fitted: bool) -> None:
    """Set the means and standard deviations of values and residuals, in place.

    Args:
        codec: Whose buffers are set; ``(N,)`` each.
        data: Steps to measure.
        keep_fitted: Leave positions that have been fitted before as they are, unless the data spread far wider:
            a trained network's weights are in these units.
    """
    is_number = ~codec.is_class
    due = (data.tick[:, None] + 1) % codec.period.cpu() == 0
    everything = torch.cat((data.values, data.next_values)), torch.cat((data.known, data.next_known))
    change = data.next_values - data.values, data.known & data.next_known & due
    value_mean, spread, _ = _moments(*everything)
    size = torch.sqrt(value_mean.square() + spread.square())
    for mean, std, (table, mask) in (
        (codec.mean, codec.std, everything),
        (codec.residual_mean, codec.residual_std, change),
    ):
        new_mean, new_std, count = _moments(table, mask)
        around = torch.where(new_mean.abs() > RESOLUTION * size, new_mean.abs(), torch.where(spread > 0, spread, size))
        floor = CONSTANT_STD * torch.where(around > 0, around, 1.0)
        new_std = torch.where(new_std <= RESOLUTION * size, floor, new_std)
        take = is_number & (count > 1).to(is_number.device)
        new_mean, new_std = new_mean.to(mean), new_std.to(std)
        if keep_fitted:
            unfitted = (mean == 0) & (std == 1)
            take &= unfitted | (new_std > REFIT_RATIO * std) | ((new_mean - mean).abs() > REFIT_RATIO * std)
        mean.copy_(torch.where(take, new_mean, mean))
        std.copy_(torch.where(take, new_std, std))


def _moments(table: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and count of the masked entries of each column, in float64."""
    weight = mask.double()
    count = weight.sum(0)
    mean = (table.double() * weight).sum(0) / count.clamp(min=1)
    variance = ((table.double() - mean).square() * weight).sum(0) / count.clamp(min=1)
    return mean, variance.sqrt(), count
