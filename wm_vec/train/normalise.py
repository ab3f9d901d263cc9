"""A codec's normalisers, fitted to data."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_vec.model.codec import FieldCodec
from wm_vec.train.data import WorldData

RESOLUTION = 2.0**-23
"""Of float32: what varies less, relative to the field's values, is rounding."""
REFIT_RATIO = 5.0
"""A known position is fitted again when new data spread this many times wider than what it was fitted to."""


MIN_ENDS = 16
"""Ends of episodes from which on what is no input is measured apart for them."""
STEPS_PER_VALUE = 10
"""Steps for each distinct value from which on these values are taken for all that there are."""


@torch.no_grad()
def fit_normalisers(codec: FieldCodec, data: WorldData, keep_fitted: bool, ticks_per_step: int = 1) -> None:
    """Set the classes, and the means and standard deviations of values and of what is predicted of them, in place.

    Args:
        codec: Whose buffers are set; ``(N,)`` each.
        data: Steps to measure.
        keep_fitted: Leave positions that have been fitted before as they are, unless the data spread far wider:
            a trained network's weights are in these units. Classes are only added to.
        ticks_per_step: Ticks of the fields' periods that a step lasts.
    """
    _fit_classes(codec, data, keep_fitted)
    is_input = codec.is_input.cpu()
    due = codec.changing(data.tick, ticks_per_step)
    everything = torch.cat((data.values, data.next_values)), torch.cat((data.known, data.next_known))
    value_mean, spread, value_count = _moments(*everything)
    size = torch.sqrt(value_mean.square() + spread.square())
    constant = is_input & (value_count > 1) & (spread <= RESOLUTION * size)  # however few of its steps were measured

    def fit(mean: Tensor, std: Tensor, table: Tensor, mask: Tensor) -> None:
        new_mean, new_std, count = _moments(table, mask)
        new_std = torch.where(new_std <= RESOLUTION * size, 0.0, new_std)
        take = (torch.tensor(codec.max_values) > 0) | (torch.tensor(codec.counts) == 0)
        take = (take & ((count > 1) | constant)).to(mean.device)
        new_mean, new_std = new_mean.to(mean), new_std.to(std)
        if keep_fitted:
            unfitted = (mean == 0) & (std == 1)
            take &= unfitted | (new_std > REFIT_RATIO * std) | ((new_mean - mean).abs() > REFIT_RATIO * std)
        mean.copy_(torch.where(take, new_mean, mean))
        std.copy_(torch.where(take, new_std, std))

    fit(codec.mean, codec.std, *everything)
    step = torch.where(is_input, data.next_values - data.values, data.next_values)
    measured = data.next_known & due & (data.known | ~is_input)
    ended = data.next_values[:, codec.end] > 0.5 if codec.end is not None else torch.zeros(len(data), dtype=torch.bool)
    for of_end in (False, True):
        apart = (ended == of_end)[:, None] | is_input
        fit(
            codec.step_mean[int(of_end)],
            codec.step_std[int(of_end)],
            step,
            measured & (apart | (ended.sum() < MIN_ENDS)),
        )


def _fit_classes(codec: FieldCodec, data: WorldData, keep_fitted: bool) -> None:
    """Which positions carry few values and which these are; which classes there are at all."""
    counts, room = list(codec.counts), codec.max_values
    for at, first in enumerate(codec.first_row.tolist()):
        if room[at] == 0 and counts[at] == 0:
            continue
        columns = ((data.values, data.known), (data.next_values, data.next_known), (data.starts, data.starts_known))
        found = torch.cat([table[:, at][known[:, at]] for table, known in columns])
        if room[at] == 0:
            seen = torch.bincount(found.long(), minlength=counts[at])[: counts[at]] > 0
            rows = codec.class_seen[first : first + counts[at]]
            rows.copy_((seen.to(rows.device) | (rows & keep_fitted)) if bool(seen.any()) else rows)
        elif keep_fitted and counts[at] == 0:
            continue  # numbers stay numbers
        else:
            held = codec.class_value[first : first + (counts[at] if keep_fitted else 0)].cpu()
            values = found.to(held).unique()
            new = values[~torch.isin(values, held)]
            values = torch.cat((held, new))
            fits = len(values) <= room[at] and int(data.next_known[:, at].sum()) >= STEPS_PER_VALUE * len(new)
            least = 2 if codec.is_input[at] else 1
            counts[at] = len(values) if fits and len(values) >= least else 0
            codec.class_value[first : first + counts[at]] = values[: counts[at]].to(codec.class_value)
    codec.num_classes.copy_(torch.tensor(counts))
    codec.read_classes(counts)


def _moments(table: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and count of the masked entries of each column, in float64."""
    weight = mask.double()
    count = weight.sum(0)
    mean = (table.double() * weight).sum(0) / count.clamp(min=1)
    variance = ((table.double() - mean).square() * weight).sum(0) / count.clamp(min=1)
    return mean, variance.sqrt(), count
