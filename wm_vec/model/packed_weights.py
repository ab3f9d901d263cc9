"""A model's weights and constant tables, laid out for the operations of a predict."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from wm_kernels import DenoiserWeights, decode_fields, encode_fields, predict
from wm_vec.compat import tree_leaves, tree_map
from wm_vec.model.codec import FieldCodec


class PackedWeights(NamedTuple):
    """Everything of a model that a predict reads; a NamedTuple, which torch.compile can trace the making of.

    Attributes:
        codec: Bounds, bits and classes of the positions.
        known: ``(M, N)`` bool, what the context says.
        relative: ``(M, N)`` bool, positions that are predicted as residuals on their current value.
        center, scale, weight, known_bias, unknown_bias: Of `encode_fields`.
        base, shift, residual_scale, output_bits: Of `decode_fields`.
        modulation: ``(K, L, 6, D)`` float; see `predict`.
        denoiser: The network.
        sigmas: K + 1 noise levels.
        heun: Second-order sampler.
    """

    codec: FieldCodec
    known: Tensor
    relative: Tensor
    center: Tensor
    scale: Tensor
    weight: Tensor
    known_bias: Tensor
    unknown_bias: Tensor
    base: Tensor
    shift: Tensor
    residual_scale: Tensor
    output_bits: Tensor
    modulation: Tensor
    denoiser: DenoiserWeights
    sigmas: tuple[float, ...]
    heun: bool

    def predict(self, values: Tensor, noise: Tensor, clamp_mask: Tensor | None = None) -> Tensor:
        """Sample the next values.

        Args:
            values: ``(B, N)`` float, current values in the fields' own units.
            noise: ``(B, N * V)`` standard normals.
            clamp_mask: ``(M, N)`` bool with M = B or 1: positions that keep their value through the step, and whose
                keeping conditions the others.

        Returns:
            ``(B, N)`` float, the next values.
        """
        codec = self.codec
        canvas = encode_fields(
            values, self.known, self.center, self.scale, codec.num_bits, self.weight, self.known_bias, self.unknown_bias
        )
        sample = predict(
            canvas,
            noise.view(*values.shape, -1),
            self.modulation,
            self.denoiser,
            self.sigmas,
            self.heun,
            clamp_mask,
            None if clamp_mask is None else codec.target(values, values, self.relative),
        )
        decoded = decode_fields(
            sample,
            values,
            self.base,
            self.shift,
            self.residual_scale,
            codec.low,
            codec.high,
            self.output_bits,
            codec.num_classes,
        )
        return decoded if clamp_mask is None else torch.where(clamp_mask, values, decoded)

    def clone(self) -> PackedWeights:
        """The same in storage of its own."""
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self)

    def copy_(self, other: PackedWeights) -> None:
        """Take the numbers of `other`, in place: what was captured over these tensors runs with them from then on."""
        for own, new in zip(tree_leaves(self), tree_leaves(other), strict=True):
            if isinstance(own, Tensor):
                own.copy_(new)
