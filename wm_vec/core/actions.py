"""The actions of all perspectives: checked, joined, sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_vec.core.perspective import ActionSpec, Perspective
from wm_vec.core.rng import STREAM_ACTION, CounterRNG


class JointAction:
    """What the dynamics takes: the perspectives' actions, flattened, side by side.

    Args:
        perspectives: In the order of the columns.
        dtype: Floating dtype of the joint action.
        device: Where actions must be.
        validate: Check values too, which reads them on the host.

    Attributes:
        may_diverge: Whether an action can be non-finite at all.
        owner: ``(A,)`` int64, the place of the perspective that each column of the joint action belongs to.
    """

    def __init__(
        self, perspectives: Sequence[Perspective], dtype: torch.dtype, device: torch.device, validate: bool
    ) -> None:
        self.perspectives, self.dtype, self.device, self.validate = tuple(perspectives), dtype, device, validate
        self._specs = [p.action for p in self.perspectives]
        exact = [dtype if spec.kind == "box" else torch.float64 for spec in self._specs]
        bounds = [
            torch.tensor((spec.low, spec.high), dtype=wide) for spec, wide in zip(self._specs, exact, strict=True)
        ]
        self._open = [not bool(bound.isfinite().all()) for bound in bounds]
        self._bounds = [bound.to(device) for bound in bounds]
        self.may_diverge = any(spec.kind == "box" for spec in self._specs)
        owner = [place for place, spec in enumerate(self._specs) for _ in range(spec.size)]
        self.owner = torch.tensor(owner, dtype=torch.int64, device=device)
        self._low = torch.tensor([x for spec in self._specs for x in spec.low], dtype=dtype, device=device)
        self._high = torch.tensor([x for spec in self._specs for x in spec.high], dtype=dtype, device=device)

    def check(self, action: Any, num_envs: int) -> list[Tensor]:
        """One checked ``(B, *shape)`` tensor per perspective.

        Args:
            action: Perspective name -> ``(B, *shape)``; of a single perspective also the tensor itself.
            num_envs: B.

        Raises:
            TypeError, ValueError: Not one action for each perspective, or one that its `ActionSpec` refuses.
        """
        names = [p.name for p in self.perspectives]
        if len(names) == 1 and not isinstance(action, Mapping):
            actions = [action]
        elif isinstance(action, Mapping) and {*action.keys()} == {*names}:
            actions = [action[name] for name in names]
        else:
            got = sorted(map(str, action.keys())) if isinstance(action, Mapping) else type(action).__name__
            raise ValueError(f"step: give one action for each of {names}, got {got}.")
        for spec, one in zip(self._specs, actions, strict=True):
            spec.check(one, num_envs, self.device, "step")
            if self.validate:
                spec.check_values(one, "step")
        return actions

    def join(self, actions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The joint action ``(B, A)`` as it is, and in the joint dtype within its bounds; class indices count from 0.

        NaN stays.
        """
        parts = [self._columns(action, spec) for action, spec in zip(actions, self._specs, strict=True)]
        joint = parts[0] if len(parts) == 1 else torch.cat([part.to(self.dtype) for part in parts], 1)
        return joint, torch.clamp(joint, self._low, self._high)

    def _columns(self, action: Tensor, spec: ActionSpec) -> Tensor:
        """One perspective's action ``(B, *shape)`` as ``(B, size)``, as it is; floating ones in the joint dtype."""
        if spec.offset:
            action = action.to(torch.int64) - spec.offset  # of narrower ones it would wrap
        if spec.kind == "box":
            action = action.to(self.dtype)
        return action.reshape(action.shape[0], spec.size)

    def sample(self, rng: CounterRNG, draw: int) -> dict[str, Tensor]:
        """Random actions ``(B, *shape)`` by perspective name.

        They spread as Gymnasium's do, see `box_numbers`. Bounds beyond the range of the joint dtype count as none.

        Args:
            rng: The envs' counters.
            draw: Another number below 2^24 gives other actions.
        """
        stream, size = STREAM_ACTION + (draw << 8), self._low.shape[0]
        words = rng.words(size, stream)
        sampled, first = {}, 0
        for perspective, (low, high), is_open in zip(self.perspectives, self._bounds, self._open, strict=True):
            spec = perspective.action
            mine = slice(first, first + spec.size)
            mixed, first, whole = words[:, mine], mine.stop, spec.kind == "discrete"
            if whole and all(b - a < 2**31 for a, b in zip(spec.low, spec.high, strict=True)):
                action = ((mixed * ((high - low).to(torch.int64) + 1)) >> 32) + low.to(torch.int64) + spec.offset
            else:
                uniform = mixed.double() * 2.0**-32 if whole else (mixed >> 8).float() * 2.0**-24
                normal = rng.normal(size, stream, low.dtype)[:, mine] if is_open else None
                action = box_numbers(low, high, uniform, normal, whole)
            sampled[perspective.name] = action.reshape(len(words), *spec.shape)
        return sampled

    def middle(self, num_envs: int) -> list[Tensor]:
        """An action ``(B, *shape)`` per perspective from the middle of its bounds, 0 where there are none."""
        middle = torch.where(self._high - self._low < 1e6, (self._low + self._high) / 2, 0.0)
        middle = middle.clamp(self._low, self._high)
        actions = []
        for spec, part in zip(self._specs, middle.split([spec.size for spec in self._specs]), strict=True):
            part = part.to(torch.int64) + spec.offset if spec.kind == "discrete" else part
            actions.append(part.expand(num_envs, -1).reshape(num_envs, *spec.shape))
        return actions


def box_numbers(low: Tensor, high: Tensor, uniform: Tensor, normal: Tensor | None, whole: bool = False) -> Tensor:
    """Numbers that spread as those of Gymnasium's `Box.sample`, all finite; nothing is read on the host.

    Uniform between two bounds, exponential from a single one, standard normal without any; whole numbers are the floor
    of these.

    Args:
        low, high: Bounds ``(...)``, infinite where there is none; of whole numbers float64.
        uniform: ``(B, ...)`` in [0, 1), float32 or float64.
        normal: ``(B, ...)`` standard normals in the dtype of the bounds; None where all bounds are finite.
        whole: Whether to give whole numbers.

    Returns:
        ``(B, ...)`` in the dtype of the bounds; int64 where whole.
    """
    last, high = high, high + whole
    portion, width = uniform.to(low.dtype), high - low
    # Between huge bounds the width overflows.
    drawn = torch.where(width.isfinite(), low + width * portion, low * (1 - portion) + high * portion)
    if normal is not None:
        excess = (-torch.log1p(-uniform)).to(low.dtype)
        beyond = torch.where(low.isfinite(), low + excess, torch.where(high.isfinite(), high - excess, normal))
        drawn = torch.where(low.isfinite() & high.isfinite(), drawn, beyond)
    return drawn.floor().clamp(low, last).to(torch.int64) if whole else drawn
