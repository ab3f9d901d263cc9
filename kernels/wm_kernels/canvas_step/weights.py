"""A model's weights and constant tables, laid out for the operations of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from wm_kernels.canvas_step.tables import KernelTables
from wm_kernels.decode_fields import decode_fields
from wm_kernels.encode_fields import ClassInputs, encode_fields
from wm_kernels.predict import DenoiserWeights, predict


class PackedWeights(NamedTuple):
    """Everything of a model that a predict reads; a NamedTuple, which torch.compile can trace the making of.

    Attributes:
        known: ``(M, N)`` bool, what the context says.
        is_input: ``(N,)`` bool.
        center, scale, weight, known_bias, unknown_bias, classes: Of `encode_fields`.
        base, shift, step_scale, low, high: Of `decode_fields`; shift and scale ``(2, M, N)``, by whether the step ends
            the episode.
        end: The position of the class that says so; None where it makes no difference.
        modulation: ``(K, L, 6, D)`` float; see `predict`.
        denoiser: The network.
        sigmas: K noise levels, the last 0.
        kernel: The same as the kernels take it; None where none is to run.
    """

    known: Tensor
    is_input: Tensor
    center: Tensor
    scale: Tensor
    weight: Tensor
    known_bias: Tensor
    unknown_bias: Tensor
    classes: ClassInputs | None
    base: Tensor
    shift: Tensor
    step_scale: Tensor
    low: Tensor
    high: Tensor
    end: int | None
    modulation: Tensor
    denoiser: DenoiserWeights
    sigmas: tuple[float, ...]
    kernel: KernelTables | None = None

    def predict(self, values: Tensor, noise: Tensor, clamp_mask: Tensor | None = None) -> Tensor:
        """Sample the next values.

        Args:
            values: ``(B, N)`` float, current values in the fields' own units.
            noise: ``(B, N)`` standard normals.
            clamp_mask: ``(M, N)`` bool with M = B or 1: positions that keep their value through the step, and whose
                keeping conditions the others.

        Returns:
            ``(B, N)`` float, the next values.
        """
        canvas = encode_fields(
            values,
            self.known,
            self.center,
            self.scale,
            self.weight,
            self.known_bias,
            self.unknown_bias,
            self.classes,
        )
        told, held = None, None
        if clamp_mask is not None:
            told = clamp_mask & self.is_input
            scale = torch.where(self.step_scale[0] > 0, self.step_scale[0], 1.0)
            held = (values - self.shift[0] - self.base * values) / scale
        sample = predict(canvas, noise, self.modulation, self.denoiser, self.sigmas, told, held)
        shift, scale = self.shift[0], self.step_scale[0]
        if self.end is not None:
            ended = sample[:, self.end : self.end + 1] > 0.5
            shift, scale = torch.where(ended, self.shift[1], shift), torch.where(ended, self.step_scale[1], scale)
        decoded = decode_fields(sample.to(values.dtype), values, self.base, shift, scale, self.low, self.high)
        return decoded if clamp_mask is None else torch.where(clamp_mask, values, decoded)

    def clone(self) -> PackedWeights:
        """The same in storage of its own."""
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, self)

    def like(self, other: PackedWeights) -> bool:
        """Whether `copy_` can take `other`: the same positions carry classes, as many of them."""
        mine, theirs = (
            [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(packed)]
            for packed in (self, other)
        )
        return mine == theirs

    def copy_(self, other: PackedWeights) -> None:
        """Take the numbers of `other`, in place: what was captured over these tensors runs with them from then on."""
        for own, new in zip(tree_leaves(self), tree_leaves(other), strict=True):
            if isinstance(own, Tensor):
                own.copy_(new)
