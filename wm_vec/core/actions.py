"""The actions of all perspectives: checked, joined, sampled."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from wm_vec.core.perspective import ActionSpec, Perspective
from wm_vec.core.rng import STREAM_ACTION, CounterRNG

Rule = Literal["sum", "mean", "last"]


@dataclass(frozen=True)
class Sharing:
    """How a dynamics' action is made of columns that several perspectives write. Who has ended does not count.

    Attributes:
        sources: Of each column of the dynamics' action, the columns of the perspectives' actions, side by side, that
            write it, at least one each; sums are taken in this order.
        rules: Of each, what becomes of several: their sum, their mean or the last one.
        bounds: Of each the least and the most that it can be, which sums are clipped to; None for no bounds.
    """

    sources: tuple[tuple[int, ...], ...]
    rules: tuple[Rule, ...]
    bounds: tuple[tuple[float, float], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.rules) or not all(self.sources) or {*self.rules} - {*get_args(Rule)}:
            raise ValueError(f"Sharing: give each column its sources and a rule, got {self}.")


class JointAction:
    """What the dynamics takes: the perspectives' actions, flattened, side by side.

    Args:
        perspectives: In the order of the columns.
        dtype: Floating dtype of the joint action.
        device: Where actions must be.
        validate: Check values too, which reads them on the host.
        sharing: How the dynamics' action is made of them; None where each column is one of its own.

    Attributes:
        may_diverge: Whether an action can be non-finite at all.
        owner: ``(A,)`` int64, the place of the perspective that each column of the joint action belongs to.
    """

    def __init__(
        self,
        perspectives: Sequence[Perspective],
        dtype: torch.dtype,
        device: torch.device,
        validate: bool,
        sharing: Sharing | None = None,
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
        if sharing is not None and {c for sources in sharing.sources for c in sources} != {*range(len(owner))}:
            raise ValueError(f"sharing: the actions have {len(owner)} columns, each of which writes, got {sharing}.")
        if sharing is not None and len(self.perspectives) == 1:
            raise ValueError("sharing: it takes several perspectives to share a column; leave it out for one.")
        self._shared = None if sharing is None else _SharedColumns(sharing, dtype, device)

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
            action = {names[0]: action}
        check_names(action, names, "step")
        actions = [action[name] for name in names]
        for name, spec, one in zip(names, self._specs, actions, strict=True):
            where = "step" if len(names) == 1 else f"step: agent {name!r}"
            spec.check(one, num_envs, self.device, where)
            if self.validate:
                spec.check_values(one, where)
        return actions

    def join(self, actions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The joint action ``(B, A)`` as it is, and in the joint dtype within its bounds; class indices count from 0.

        NaN stays.
        """
        parts = [self._columns(action, spec) for action, spec in zip(actions, self._specs, strict=True)]
        joint = parts[0] if len(parts) == 1 else torch.cat([part.to(self.dtype) for part in parts], 1)
        return joint, torch.clamp(joint, self._low, self._high)

    def written(self, within_bounds: Tensor, idle: Tensor | None, current: Tensor | None) -> Tensor:
        """The dynamics' action.

        Args:
            within_bounds: ``(B, A)``, the perspectives' actions; see `join`.
            idle: ``(B, A)`` bool, those of perspectives that have ended; None for none.
            current: The dynamics' action by which it writes nothing, for columns that all is idle of. None, where it
                has no such action, takes the actions as they come.
        """
        idle = None if current is None else idle
        if self._shared is not None:
            return self._shared.combined(within_bounds, idle, current)
        return within_bounds if idle is None or current is None else torch.where(idle, current, within_bounds)

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


def check_names(action: Any, names: Sequence[str], where: str) -> None:
    """An action for each of `names`, and for nobody else.

    Raises:
        ValueError: No mapping, or one that lacks some or names others; the message says which.
    """
    if not isinstance(action, Mapping):
        raise ValueError(f"{where}: give one action for each of {[*names]}, got {type(action).__name__}.")
    given = [*action.keys()]
    missing = [name for name in names if name not in given]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        said = [f"there is none for {missing}"] if missing else []
        for name in unknown:
            close = difflib.get_close_matches(str(name), names, n=1)
            said.append(f"{name!r} does not act" + (f" (closest: {close[0]!r})" if close else ""))
        raise ValueError(f"{where}: give one action for each of {[*names]}; {', '.join(said)}.")


class _SharedColumns:
    """`Sharing` as tensors: a few operations whatever the number of columns."""

    def __init__(self, sharing: Sharing, dtype: torch.dtype, device: torch.device) -> None:
        most = max(map(len, sharing.sources))
        # A source that there is not is one that is idle.
        table = [[*sources, *[-1] * (most - len(sources))] for sources in sharing.sources]
        sources = [torch.tensor(column, device=device) for column in zip(*table, strict=True)]
        self._sources = [(source.clamp(min=0), source >= 0) for source in sources]
        self._adds = torch.tensor([rule != "last" for rule in sharing.rules], device=device)
        self._mean = torch.tensor([rule == "mean" for rule in sharing.rules], device=device)
        bounds = sharing.bounds or [(-math.inf, math.inf)] * len(sharing.rules)
        self._low, self._high = torch.tensor(bounds, dtype=dtype, device=device).unbind(1)

    def combined(self, given: Tensor, idle: Tensor | None, current: Tensor | None) -> Tensor:
        """``(B, M)`` of ``(B, A)``; `current` ``(B, M)`` where all sources are idle."""
        total = count = torch.zeros((), dtype=given.dtype, device=given.device)
        last = total if current is None else current
        for column, acts in self._sources:
            acts = acts if idle is None else acts & ~idle[:, column]
            value = given[:, column]
            total, count = total + torch.where(acts, value, 0.0), count + acts
            last = torch.where(acts, value, last)
        several = torch.where(self._mean, total / count.clamp(min=1.0), total).clamp(self._low, self._high)
        return torch.where(self._adds & (count > 0), several, last)


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
