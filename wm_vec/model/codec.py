"""Between field values in their own units and what the network reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wm_kernels import ClassInputs, changing_fields, encode_fields
from wm_vec.canvas import BoundSchema

UNKNOWN, KNOWN, SAME_TICK = 0, 1, 2
"""Flags of a context token: not told; the current value, from which the next is predicted; or a value of the very
tick that is predicted (used to fill in the rest of a partly observed world)."""


class ClassPosition(NamedTuple):
    """A position that carries classes: its place, its first row in the table of classes and their number."""

    position: int
    first_row: int
    num_classes: int

    @property
    def rows(self) -> slice:
        """Its part of the table."""
        return slice(self.first_row, self.first_row + self.num_classes)


class FieldCodec(nn.Module):
    """Normalisers, classes, encoders and embeddings of every position.

    A position carries a number, or one of few values: a class. The classes of all positions are the R rows of one
    table, in which a field with `max_values` has room for as many.

    Buffers:
        mean, std: ``(N,)``, of the values; std is 0 of what was constant, which stays what it is.
        step_mean, step_std: ``(2, N)``, of a number's change in one step, likewise; of what is no input, of its next
            value, then apart for steps that do not end an episode and steps that do.
        spread: ``(N,)``, variance of a number about its mean given the context, without rare jumps; of a sample.
        low, high: ``(N,)``, bounds in the fields' own units.
        num_classes: ``(N,)`` int64, 0 for numbers, 1 for what always had one value.
        class_value: ``(R,)``, the value that each class stands for.
        class_seen: ``(R,)`` bool, whether the data have it; the others are never drawn.
        is_output, is_input, period, loss_weight: ``(N,)``, of the fields.

    Attributes:
        classes: The predicted positions that carry classes, in the order in which they are drawn: those that lead, the
            other inputs, then those that are no input.
        class_inputs: The positions whose current value is a class.
        num_first: How many of them come before those that are no input.
        has_numbers: Whether any number is predicted.
        end: The position that leads, if it is one; else None.
        by_end: Whether any number has normalisers of its own for steps that end the episode.
    """

    num_classes: Tensor
    is_output: Tensor
    is_input: Tensor
    period: Tensor
    loss_weight: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor
    step_mean: Tensor
    step_std: Tensor
    spread: Tensor
    class_value: Tensor
    class_seen: Tensor
    field_of_position: Tensor
    first_row: Tensor

    def __init__(self, bound: BoundSchema) -> None:
        super().__init__()
        fields = bound.bound_fields()
        n, d = bound.layout.num_positions, bound.layout.d_model
        # Tables are made on the host, which reads them, also where parameters are on another device or on "meta".
        counts, made_on = torch.tensor([f.num_positions for f in fields], device="cpu"), torch.get_default_device()

        def per_position(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device="cpu").repeat_interleave(counts)

        num_classes = per_position([f.spec.num_classes or 0 for f in fields], torch.int64)
        max_values = per_position([f.spec.max_values for f in fields], torch.int64)
        room = torch.maximum(num_classes, max_values)
        first_row = room.cumsum(0) - room
        rows = [*(torch.arange(float(n), device="cpu") for n in room.tolist()), torch.zeros(1, device="cpu")]
        class_value = torch.cat(rows)  # never empty
        self._leads, self._is_input, self._is_output = (
            per_position([getattr(f.spec, name) for f in fields], torch.bool).tolist()
            for name in ("leads", "is_input", "is_output")
        )
        self._first_rows, self.max_values = first_row.tolist(), max_values.tolist()
        tables = {
            "num_classes": num_classes,
            "is_output": per_position([f.spec.is_output for f in fields], torch.bool),
            "is_input": per_position([f.spec.is_input for f in fields], torch.bool),
            "period": per_position([f.spec.period for f in fields], torch.int64),
            "loss_weight": per_position([f.spec.loss_weight for f in fields], torch.float32),
            "low": torch.tensor([b for f in fields for b in f.spec.bounds("low")], device="cpu"),
            "high": torch.tensor([b for f in fields for b in f.spec.bounds("high")], device="cpu"),
            "mean": torch.zeros(n),
            "std": torch.ones(n),
            "step_mean": torch.zeros(2, n),
            "step_std": torch.ones(2, n),
            "spread": torch.zeros(n),
            "class_value": class_value,
            "class_seen": torch.ones(len(class_value), dtype=torch.bool),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.to(made_on))
        field_of_position = per_position(list(range(len(fields))), torch.int64)
        self.register_buffer("field_of_position", field_of_position.to(made_on), persistent=False)
        self.register_buffer("first_row", first_row.to(made_on), persistent=False)
        self.weight = nn.Parameter(torch.randn(n, d) * 0.5)
        self.embedding = nn.Parameter(torch.randn(len(class_value), d) * 0.5)
        self.position_embedding = nn.Parameter(torch.randn(n, d) * 0.35)
        self.field_embedding = nn.Parameter(torch.randn(len(fields), d) * 0.35)
        self.flag_embedding = nn.Parameter(torch.randn(3, d) * 0.1)
        self.classes: tuple[ClassPosition, ...]
        self.read_classes(num_classes.tolist())

    def learned_buffers(self) -> list[Tensor]:
        """The buffers that training sets; the others follow from the schema."""
        normalisers = [self.mean, self.std, self.step_mean, self.step_std, self.spread]
        return [*normalisers, self.num_classes, self.class_value, self.class_seen]

    def read_classes(self, counts: Sequence[int] | None = None) -> None:
        """Bring what says which positions carry classes up to `num_classes`, or to these `counts`; reads the host."""
        self.counts = tuple(self.num_classes.tolist() if counts is None else counts)
        found = [ClassPosition(at, self._first_rows[at], count) for at, count in enumerate(self.counts) if count > 1]
        drawn = [c for c in found if self._is_output[c.position]]
        first = [c for c in drawn if self._leads[c.position]]
        self.end = first[0].position if len(first) == 1 else None
        first += [c for c in drawn if self._is_input[c.position] and c not in first]
        self.classes = (*first, *(c for c in drawn if c not in first))
        self.num_first = len(first)
        self.class_inputs = tuple(c for c in found if self._is_input[c.position])
        numbers = [at for at, count in enumerate(self.counts) if self._is_output[at] and count == 0]
        self.has_numbers = bool(numbers)
        self.by_end = self.end is not None and not all(self._is_input[at] for at in numbers)

    @property
    def is_class(self) -> Tensor:
        """``(N,)`` bool: positions that carry classes, or always the same value."""
        return self.num_classes > 0

    @property
    def is_number(self) -> Tensor:
        """``(N,)`` bool: positions that are predicted as numbers."""
        return self.is_output & ~self.is_class

    def changing(self, tick: Tensor, ticks_per_step: int) -> Tensor:
        """``(B, N)`` bool on the device of `tick` ``(B,)``: what a step from there changes; see `changing_fields`."""
        return changing_fields(tick, self.period.to(tick.device), ticks_per_step)

    def group(self, place: ClassPosition) -> tuple[bool, bool]:
        """Positions of one group share one part of the loss: those that lead, the other inputs, and the rest."""
        return self._leads[place.position], self._is_input[place.position]

    def class_index(self, values: Tensor, which: Sequence[ClassPosition]) -> Tensor:
        """``(B, n)`` int64: the classes nearest to the values ``(B, N)`` of n positions."""
        nearest = [
            (values[:, c.position, None] - self.class_value[c.rows]).abs().argmin(-1)
            if self.max_values[c.position]
            else values[:, c.position].round().to(torch.int64)
            for c in which
        ]
        return torch.stack(nearest, 1) if nearest else values.new_zeros(values.shape[0], 0, dtype=torch.int64)

    def input_tables(self) -> ClassInputs | None:
        """How `encode_fields` finds classes: by an affine map, since those of a field with `max_values` are two."""
        if not self.class_inputs:
            return None
        device = self.mean.device
        positions, first, count = (
            torch.tensor(column, device=device) for column in zip(*self.class_inputs, strict=True)
        )
        base = self.class_value[first]
        inv_step = 1 / (self.class_value[first + 1] - base)
        return ClassInputs(positions, first, base, inv_step, (count - 1).to(base.dtype), self.embedding)

    def biases(self) -> Tensor:
        """``(3, N, D)``: the token of a zero under each flag."""
        token = self.position_embedding + self.field_embedding[self.field_of_position]
        return token + self.flag_embedding[:, None]

    def inverse_std(self) -> Tensor:
        """``(N,)``: ``1 / std``, 0 where that is: the network reads nothing of what was constant."""
        return torch.where(self.std > 0, 1.0 / self.std, 0.0)

    def number_weight(self) -> Tensor:
        """``(N, D)``: `weight`, 0 at classes."""
        return self.weight * ~self.is_class[:, None]

    def encode(self, values: Tensor, known: Tensor, same_tick: Tensor) -> Tensor:
        """Context tokens ``(B, N, D)``.

        Args:
            values: ``(B, N)`` float in the fields' own units.
            known: ``(M, N)`` bool with M = B or 1.
            same_tick: ``(B,)`` bool: samples whose known values belong to the tick that is predicted.
        """
        biases = self.biases()
        tables = self.number_weight(), biases[KNOWN], biases[UNKNOWN], self.input_tables()
        canvas = encode_fields(values, known, self.mean, self.inverse_std(), *tables)
        flagged = (known & same_tick[:, None]).unsqueeze(-1)
        return canvas + flagged * (self.flag_embedding[SAME_TICK] - self.flag_embedding[KNOWN])

    def affine(self, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``base (M, N)``, ``shift`` and ``scale (2, M, N)`` of `decode_fields` for a context of `known` ``(M, N)``.

        A known number is predicted as a residual on itself, an unknown one and one that is no input by its own value, a
        class by the value it stands for; what is not predicted stays as it is. The first axis is whether the step ends
        the episode.
        """
        residual, absolute = known & self.is_number, ~known & self.is_number
        constant = self.is_output & (self.num_classes == 1)
        drawn = self.is_output & (self.num_classes > 1)
        value = self.class_value[self.first_row]
        base = (~(absolute | self.is_output & self.is_class)).to(self.mean.dtype)
        stepped = residual | (absolute & ~self.is_input)
        shift = torch.where(stepped, self.step_mean[:, None], torch.where(absolute, self.mean, 0.0))
        scale = torch.where(stepped, self.step_std[:, None], torch.where(absolute, self.std, 0.0))
        return base, torch.where(constant, value, shift), torch.where(drawn, 1.0, scale)

    def target(self, values: Tensor, next_values: Tensor, known: Tensor) -> Tensor:
        """The clean numbers ``(B, N)`` that decode to `next_values`; 0 at classes."""
        base, shift, scale = self.affine(known)
        if self.end is None or not self.by_end:
            shift, scale = shift[0], scale[0]
        else:
            ended = next_values[:, self.end : self.end + 1] > 0.5
            shift, scale = torch.where(ended, shift[1], shift[0]), torch.where(ended, scale[1], scale[0])
        safe = torch.where(scale > 0, scale, 1.0)
        return torch.where(self.is_number & (scale > 0), (next_values - shift - base * values) / safe, 0.0)
