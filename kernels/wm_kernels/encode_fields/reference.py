"""The specification of `encode_fields`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ClassInputs(NamedTuple):
    """The n positions whose current value is a class, as a row of one table of R classes.

    Attributes:
        positions: ``(n,)`` int64, places on the canvas.
        first_row: ``(n,)`` int64, where a position's classes begin in the table.
        base: ``(n,)`` float, the value of its first class.
        inv_step: ``(n,)`` float, one over the difference between the values of two neighbouring classes.
        last: ``(n,)`` float, the index of its last class.
        embedding: ``(R, D)`` float, the table.
    """

    positions: Tensor
    first_row: Tensor
    base: Tensor
    inv_step: Tensor
    last: Tensor
    embedding: Tensor


def class_rows(values: Tensor, classes: ClassInputs) -> Tensor:
    """``(B, n)`` int64, the table's row of each current class; of NaN the first.

    Args:
        values: ``(B, N)`` float, in the fields' own units.
        classes: Where they are.
    """
    index = torch.round((values[:, classes.positions] - classes.base) * classes.inv_step).nan_to_num(0.0)
    return classes.first_row + torch.minimum(index.clamp(min=0.0), classes.last).to(torch.int64)


def encode_fields_reference(
    values: Tensor,
    known: Tensor,
    center: Tensor,
    scale: Tensor,
    weight: Tensor,
    known_bias: Tensor,
    unknown_bias: Tensor,
    classes: ClassInputs | None = None,
) -> Tensor:
    """Write the current field values onto a fresh canvas, one token per position.

    Args:
        values: ``(B, N)`` float, in the fields' own units. What stands at unknown positions is never read into the
            result, NaN included.
        known: ``(M, N)`` bool with M = B or 1: which positions the context tells.
        center, scale: ``(N,)`` float; a number enters as ``(value - center) * scale``.
        weight: ``(N, D)`` float, each number's encoder; 0 at classes.
        known_bias: ``(N, D)`` float, the token of a known zero: position, field and flag embeddings together.
        unknown_bias: ``(N, D)`` float, the token of an unknown value.
        classes: The positions that carry classes; None for none.

    Returns:
        ``(B, N, D)`` float, the canvas.
    """
    written = torch.addcmul(known_bias, ((values - center) * scale).unsqueeze(-1), weight)
    if classes is not None:
        written = written.index_add(1, classes.positions, classes.embedding[class_rows(values, classes)])
    return torch.where(known.unsqueeze(-1), written, unknown_bias)
