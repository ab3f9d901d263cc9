"""Between field values in their own units and what the network reads and writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_kernels import encode_fields
from wm_kernels.encode_fields import encode_channels
from wm_vec.canvas import BoundSchema

UNKNOWN, KNOWN, SAME_TICK = 0, 1, 2
"""Flags of a context token: not told; the current value, from which the next is predicted; or a value of the very
tick that is predicted (used to fill in the rest of a partly observed world)."""


class FieldCodec(nn.Module):
    """Normalisers, encoders and embeddings of every position.

    Buffers, each ``(N,)`` with N positions: ``mean`` and ``std`` of the values, ``residual_mean`` and
    ``residual_std`` of their change in one step (1 and 0 until learned), ``low`` and ``high`` bounds, ``num_classes``
    and ``num_bits`` of categorical fields, ``is_output``, ``is_input``, ``period``, ``loss_weight``.
    """

    def __init__(self, bound: BoundSchema) -> None:
        super().__init__()
        fields = bound.bound_fields()
        n, d = bound.layout.num_positions, bound.layout.d_model

        def per_position(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            counts = torch.tensor([f.num_positions for f in fields])
            return torch.tensor(values, dtype=dtype).repeat_interleave(counts)

        num_classes = per_position([f.spec.num_classes or 0 for f in fields], torch.int64)
        bits = [(f.spec.num_classes - 1).bit_length() if f.spec.num_classes else 0 for f in fields]
        self.num_channels = max(1, *bits) if bits else 1
        output = per_position([f.spec.is_output for f in fields], torch.bool)
        tables = {
            "num_classes": num_classes,
            "num_bits": per_position(bits, torch.int64),
            "is_output": output,
            "is_input": per_position([f.spec.is_input for f in fields], torch.bool),
            "period": per_position([f.spec.period for f in fields], torch.int64),
            "loss_weight": per_position([f.spec.loss_weight for f in fields], torch.float32),
            "low": torch.tensor([b for f in fields for b in f.spec.bounds("low")]),
            "high": torch.tensor([b for f in fields for b in f.spec.bounds("high")]),
            "mean": torch.zeros(n),
            "std": torch.ones(n),
            "residual_mean": torch.zeros(n),
            "residual_std": torch.ones(n),
        }
        for name, table in tables.items():
            self.register_buffer(name, table)
        self.field_of_position: Tensor
        self.register_buffer("field_of_position", per_position(list(range(len(fields))), torch.int64), persistent=False)
        self.weight = nn.Parameter(torch.randn(n, self.num_channels, d) * 0.5)
        self.position_embedding = nn.Parameter(torch.randn(n, d) * 0.35)
        self.field_embedding = nn.Parameter(torch.randn(len(fields), d) * 0.35)
        self.flag_embedding = nn.Parameter(torch.randn(3, d) * 0.1)

    num_classes: Tensor
    num_bits: Tensor
    is_output: Tensor
    is_input: Tensor
    period: Tensor
    loss_weight: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor
    residual_mean: Tensor
    residual_std: Tensor

    def learned_buffers(self) -> list[Tensor]:
        """The buffers that training sets; the others follow from the schema."""
        return [self.mean, self.std, self.residual_mean, self.residual_std]

    @property
    def is_class(self) -> Tensor:
        """``(N,)`` bool: categorical positions."""
        return self.num_classes > 0

    def center_scale(self) -> tuple[Tensor, Tensor]:
        """The affine map of `encode_channels`, each ``(N,)``: two-class fields go to -1 and 1."""
        center = torch.where(self.is_class, 0.5, self.mean)
        return center, torch.where(self.is_class, 2.0, 1.0 / self.std)

    def biases(self) -> Tensor:
        """``(3, N, D)``: the token of a zero under each flag."""
        token = self.position_embedding + self.field_embedding[self.field_of_position]
        return token + self.flag_embedding[:, None]

    def encode(self, values: Tensor, known: Tensor, same_tick: Tensor | None = None) -> Tensor:
        """Context tokens ``(B, N, D)``.

        Args:
            values: ``(B, N)`` float in the fields' own units.
            known: ``(M, N)`` bool with M = B or 1.
            same_tick: ``(B,)`` bool: samples whose known values belong to the tick that is predicted.
        """
        biases = self.biases()
        center, scale = self.center_scale()
        canvas = encode_fields(values, known, center, scale, self.num_bits, self.weight, biases[KNOWN], biases[UNKNOWN])
        if same_tick is not None:
            flagged = (known & same_tick[:, None]).unsqueeze(-1)
            canvas = canvas + flagged * (self.flag_embedding[SAME_TICK] - self.flag_embedding[KNOWN])
        return canvas

    def affine(self, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``base, shift, scale`` of `decode_fields` for a context of `known` positions, each shaped like it.

        A known number is predicted as a residual on itself, an unknown one by its own value; what is not predicted
        stays as it is.
        """
        residual = known & self.is_output
        absolute = ~known & self.is_output
        base = 1.0 - absolute.to(self.mean.dtype)
        shift = torch.where(residual, self.residual_mean, torch.where(absolute, self.mean, 0.0))
        scale = torch.where(residual, self.residual_std, torch.where(absolute, self.std, 0.0))
        return base, shift, scale

    def target(self, values: Tensor, next_values: Tensor, known: Tensor) -> Tensor:
        """The clean sample ``(B, N, V)`` that decodes to `next_values`: the inverse of `decode_fields`."""
        base, shift, scale = self.affine(known)
        safe = torch.where(scale > 0, scale, 1.0)
        numbers = torch.where(scale > 0, (next_values - shift - base * values) / safe, 0.0)
        half = torch.full_like(self.mean, 0.5)
        bits = encode_channels(next_values, half, half * 4, self.num_bits, self.num_channels)
        first = torch.zeros(self.num_channels, device=values.device, dtype=values.dtype)
        first[0] = 1.0
        return torch.where(self.is_class[:, None], bits, numbers.unsqueeze(-1) * first)

    def output_bits(self) -> Tensor:
        """``(N,)`` int64: `num_bits` where the class is predicted, 0 elsewhere."""
        return torch.where(self.is_output, self.num_bits, 0)

    def used_channels(self) -> Tensor:
        """``(N, V)`` bool: the channels that each position uses."""
        channel = torch.arange(self.num_channels, device=self.num_bits.device)
        return channel < self.num_bits.clamp(min=1)[:, None]
