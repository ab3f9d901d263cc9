"""Gradients of diverged envs, kept from shared parameters."""

from __future__ import annotations

from torch import Tensor


class GradientGate:
    """Keeps the gradients of diverged envs from everybody's parameters.

    A select hides a non-finite env on the way forward only: on the way back zero times infinity is NaN, which a shared
    policy would add up. What is admitted passes its gradient on in envs that stayed finite, and zero in the others.

    Attributes:
        closed: ``(B,)`` bool, the envs that diverged; set when the step is finished.
    """

    def __init__(self) -> None:
        self.closed: Tensor | None = None

    def admit(self, tensor: Tensor) -> Tensor:
        """`tensor` ``(B, ...)`` itself; a view of it with the gate behind it if it needs a gradient."""
        if not tensor.requires_grad:
            return tensor
        gated = tensor.view_as(tensor)
        gated.register_hook(self._hold_back)
        return gated

    def _hold_back(self, gradient: Tensor | None) -> Tensor | None:
        if gradient is None or self.closed is None:
            return gradient
        return gradient.masked_fill(self.closed.view(-1, *(1,) * (gradient.dim() - 1)), 0.0)
