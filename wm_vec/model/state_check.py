"""Whether the numbers of a saved model are ones that training leaves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from wm_vec.model.canvas_model import CanvasModel

LARGEST_WEIGHT = 1e6
"""Products of larger ones overflow float32."""
LARGEST_VALUE = 1e30
"""Of a number in a field's own units."""
FROM_SCHEMA = ("is_output", "is_input", "period", "loss_weight", "low", "high")
LARGEST_BANK = 2**24
"""Numbers of a bank, ``M * N``."""
ROUNDING = 1e-2
"""Relative, of bfloat16."""


def check_state(model: CanvasModel, state: Mapping[str, Tensor], bank: Tensor | None = None) -> None:
    """Refuse numbers with which no world of this schema steps.

    Args:
        model: Of the schema; its weights do not matter.
        state: As ``model.state_dict()`` has it: the same names and shapes.
        bank: ``(M, N)`` initial states.

    Raises:
        ValueError: A bank of whole numbers or of more than `LARGEST_BANK`; weights or values that are not finite or
            far too large; deviations below 0; tables that contradict the schema; classes that a field does
            not have.
    """
    if bank is not None and not (bank.is_floating_point() and bank.numel() <= LARGEST_BANK):
        raise ValueError(f"'bank' must be at most {LARGEST_BANK} floats, got {tuple(bank.shape)} {bank.dtype}")
    buffers = dict(model.codec.named_buffers(prefix="codec"))
    for name, tensor in (state if bank is None else {**state, "bank": bank}).items():
        if name.removeprefix("codec.") in FROM_SCHEMA:
            if not torch.allclose(tensor.double().cpu(), buffers[name].double().cpu(), ROUNDING, 0.0):
                raise ValueError(f"{name!r} is not what the schema says")
        elif tensor.is_floating_point():
            least, most = (float(end) for end in tensor.aminmax())
            limit = LARGEST_VALUE if name in buffers or name == "bank" else LARGEST_WEIGHT
            if not (-limit < least and most < limit):
                raise ValueError(f"{name!r} has numbers from {least:g} to {most:g}")
            if name.endswith(("std", "spread")) and least < 0:
                raise ValueError(f"{name!r} cannot be {least:g}")
    _check_classes(model, state, bank)


def _check_classes(model: CanvasModel, state: Mapping[str, Tensor], bank: Tensor | None) -> None:
    codec, counts = model.codec, state["codec.num_classes"].tolist()
    fields = [(field.path, field.spec) for field in model.bound.bound_fields() for _ in range(field.num_positions)]
    for at, ((path, field), count, first) in enumerate(zip(fields, counts, codec.first_row.tolist(), strict=True)):
        few = field.max_values and (count == 0 or (2 if field.is_input else 1) <= count <= field.max_values)
        if count != (field.num_classes or 0) and not few:
            raise ValueError(f"'codec.num_classes' gives {path!r} {count} classes, for which it has no room")
        value, seen = (state[f"codec.{name}"][first : first + count].cpu() for name in ("class_value", "class_seen"))
        if count and not bool(seen.any()):
            raise ValueError(f"'codec.class_seen' has no class of {path!r}")
        if count > 1 and field.is_input and bool(value[0] == value[1]):
            raise ValueError(f"'codec.class_value' has one value twice for {path!r}")
        if field.num_classes and not field.max_values:
            classes = torch.arange(count).to(value)
            if not torch.allclose(value, classes, ROUNDING, 0.0):
                raise ValueError(f"'codec.class_value' has other values than classes for {path!r}")
            if bank is not None and not bool(torch.isin(bank[:, at].cpu(), classes.to(bank.dtype)).all()):
                raise ValueError(f"'bank' has values of {path!r} that are no classes")
