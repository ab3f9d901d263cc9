"""A step before it is finished: what the dynamics proposes, in tensors or in host memory, and which gradients count."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, from_numpy

from wm_vec.core.host import HostTransition
from wm_vec.core.trees import Tree


class Proposal(NamedTuple):
    """What dynamics and perspectives make of a step, before it is finished."""

    leaves: list[Tensor]
    observation: Tree
    reward: Tensor
    terminated: Tensor
    truncated: Tensor | None
    info: dict[str, Any]


def on_host(proposal: Proposal) -> HostTransition:
    """A proposal of plain tensors in host memory, without gradients, read there."""
    leaves = [leaf.detach() if leaf.requires_grad else leaf for leaf in proposal.leaves]
    total = proposal.reward.sum().item()
    for leaf in leaves:
        if leaf.dtype.is_floating_point:
            total += leaf.sum().item()
    truncated = None if proposal.truncated is None else proposal.truncated.numpy()
    judged = proposal.reward.detach().numpy(), proposal.terminated.numpy().copy(), truncated
    return HostTransition(leaves, proposal.observation, *judged, total, proposal.info)


def off_host(out: HostTransition) -> Proposal:
    """The inverse."""
    truncated = None if out.truncated is None else from_numpy(out.truncated)
    judged = from_numpy(out.reward), from_numpy(out.terminated), truncated
    return Proposal(out.leaves, out.observation, *judged, out.info)


class GradientGate:
    """Keeps the gradients of diverged rows from everybody's parameters.

    A select hides a non-finite row on the way forward only: on the way back zero times infinity is NaN, which a shared
    policy would add up. What is admitted passes its gradient on in rows that stayed finite, and zero in the others.

    Attributes:
        closed: ``(B,)`` bool, the rows that diverged; set when the step is finished.
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
