"""What an evaluation found: numbers as plain data, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from wm_vec.train.metrics import ClassMetrics, DimensionMetrics, RewardMetrics, TerminationMetrics
from wm_vec.train.rollout_metrics import EFFECT_FLOOR, Distribution, EffectMetrics, OpenLoopMetrics

MAX_ROWS = 16
"""Dimensions that a table lists; of more, the worst are shown."""
SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
Lines = list[Text | Table]
T = TypeVar("T")


@dataclass(frozen=True)
class OneStep:
    """Single steps on held-out transitions of the real environment.

    Attributes:
        n_transitions: How many.
        dimensions: One entry per dimension of a Box observation; empty for a Discrete one.
        classes: For a Discrete observation; None for a Box.
        reward: Of the same steps.
        termination: Of the same steps.
        diverged: Steps in which the world broke down.
    """

    n_transitions: int
    dimensions: list[DimensionMetrics]
    classes: ClassMetrics | None
    reward: RewardMetrics
    termination: TerminationMetrics
    diverged: int


@dataclass(frozen=True)
class Returns:
    """Returns of whole episodes, imagined and real, under the same policy.

    Attributes:
        real: In the real environment.
        imagined: In the world.
        ks: Two-sample Kolmogorov-Smirnov statistic, from 0 (alike) to 1; see `returns_statistic`.
        ks_critical: What `ks` would exceed in about 5 % of cases, were the two alike.
    """

    real: Distribution
    imagined: Distribution
    ks: float
    ks_critical: float


@dataclass(frozen=True)
class Samples:
    """What plots show; D dimensions, k trajectories of up to H steps. Not part of the JSON.

    Attributes:
        real_steps, imagined_steps: ``(m, D)``, residuals of held-out steps.
        real_paths, imagined_paths: ``(H + 1, k, D)`` with the common start; NaN after the real episode's end.
        real_returns, imagined_returns: ``(n,)``.
    """

    real_steps: np.ndarray
    imagined_steps: np.ndarray
    real_paths: np.ndarray
    imagined_paths: np.ndarray
    real_returns: np.ndarray
    imagined_returns: np.ndarray


@dataclass(frozen=True)
class PolicyReport:
    """The figures under one policy. `effects` is None where the real environment's state cannot be set."""

    one_step: OneStep
    open_loop: OpenLoopMetrics
    effects: list[EffectMetrics] | None
    returns: Returns
    samples: Samples


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        env_id: The real environment.
        n_denoise_steps: K of the imagined steps; None for a dynamics that has none.
        seed: As given.
        seconds: Wall time.
        policies: By name; ``"random"`` first.
    """

    env_id: str
    n_denoise_steps: int | None
    seed: int
    seconds: float
    policies: dict[str, PolicyReport]

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data that JSON can hold; None where a figure is not defined."""
        data = asdict(self)
        for policy in data["policies"].values():
            del policy["samples"]
        return data

    def table(self) -> Group:
        """The metrics for people, as something that a rich console prints."""
        steps = "" if self.n_denoise_steps is None else f", {self.n_denoise_steps} denoise steps"
        title = f"{self.env_id}: imagined against real{steps}, {self.seconds:.1f} s"
        parts: Lines = [Text(title, style="bold")]
        for name, policy in self.policies.items():
            parts.append(Text(f"\nPolicy: {name}", style="bold cyan"))
            parts += _one_step(policy.one_step)
            parts += _open_loop(policy.open_loop)
            if policy.effects:
                parts += _effects(policy.effects)
            parts += _returns(policy.returns)
        return Group(*parts)


def _one_step(metrics: OneStep) -> Lines:
    parts: Lines = []
    title = f"One step, {metrics.n_transitions:,} held-out transitions"
    if metrics.classes is not None:
        c = metrics.classes
        right = [_percent(x) for x in (c.accuracy, c.persistence, c.most_likely, c.most_likely_with_action)]
        kinds = ("world", "standing still", "most likely next", "most likely next, given the action")
        parts += _table(f"{title}: share of right classes", [], kinds, [right])
    if metrics.dimensions:
        shown, note = _worst(metrics.dimensions, [-2.0 if d.r2 is None else -d.r2 for d in metrics.dimensions])
        rows = []
        for d in shown:
            exact = d.skill_linear is None and d.r2 is not None
            skill_linear = "fit is exact" if exact else _share(d.skill_linear)
            shares = (_share(d.r2), _share(d.skill_persistence), skill_linear, _share(d.linear_r2))
            rows.append([d.name, *shares, f"{d.rmse:.2g}"])
        columns = ("R2 of s'-s", "skill over standing still", "skill over linear fit", "linear fit's R2", "RMSE")
        parts += _table(title + note, ["dimension"], columns, rows)
    reward, ends = metrics.reward, metrics.termination
    r2 = "the real one is constant" if reward.r2 is None else f"R2 {_share(reward.r2)}"
    parts.append(Text(f"Reward: {r2}, RMSE {reward.rmse:.2g}, largest error {reward.max_error:.2g}"))
    terminal = f"{_percent(ends.terminal_accuracy)} of {ends.terminal_count:,} terminal steps"
    others = f"{_percent(ends.other_accuracy)} of {ends.other_count:,} others"
    parts.append(Text(f"Termination: right in {terminal}, in {others}"))
    if metrics.diverged:
        parts.append(Text(f"The world broke down in {metrics.diverged:,} steps", style="red"))
    return parts


def _open_loop(metrics: OpenLoopMetrics) -> Lines:
    steps = [s for s in SHOWN_STEPS if s <= len(metrics.counts)]
    unit = "RMSE in standard deviations" if metrics.unit == "std" else "share of wrong classes"
    worst_error = [max((e for e in errors if e is not None), default=0.0) for errors in metrics.error]
    shown, note = _worst(range(len(metrics.names)), worst_error)
    rows = [[metrics.names[d], *(_number(metrics.error[d][s - 1], ".3g") for s in steps)] for d in shown]
    rows.append(["(episodes left)", *(str(metrics.counts[s - 1]) for s in steps)])
    title = f"Open loop, same start and actions: {unit}{note}"
    return _table(title, ["after steps"], [str(s) for s in steps], rows)


def _effects(effects: list[EffectMetrics]) -> Lines:
    rows = []
    for e in effects:
        relative = [_number(x, ".3f") for x in (e.relative_size, e.relative_error)]
        rows.append([e.actions, e.name, f"{e.real:.3g}", f"{e.imagined:.3g}", _percent(e.sign_agreement), *relative])
    title = (
        "Effect of the action from the same states, in standard deviations of s'-s "
        f"(signs where it is at least {EFFECT_FLOOR:.0%} of its usual size)"
    )
    columns = ("real", "imagined", "same sign", "relative size", "relative error")
    return _table(title, ["actions", "dimension"], columns, rows)


def _returns(returns: Returns) -> Lines:
    alike = "alike" if returns.ks <= returns.ks_critical else "different"
    rows = []
    for name, d in (("real", returns.real), ("imagined", returns.imagined)):
        numbers = (d.mean, d.std, *d.quantiles.values(), d.mean_length)
        count = f"{d.n} ({d.cut} cut)" if d.cut else str(d.n)
        rows.append([name, count, *(_number(x, ".1f" if abs(x) >= 10 else ".3g") for x in numbers)])
    levels = [f"{float(q):.0%}" for q in returns.real.quantiles]
    title = f"Returns of whole episodes: KS {returns.ks:.3f}, {alike} at 5 % ({returns.ks_critical:.3f})"
    return _table(title, [""], ["episodes", "mean", "std", *levels, "mean length"], rows)


def _worst(items: Sequence[T], badness: Sequence[float]) -> tuple[Sequence[T], str]:
    """All of a few items in their order; of many the worst, and a note that says so."""
    if len(items) <= MAX_ROWS:
        return items, ""
    ranked = sorted(range(len(items)), key=lambda i: -badness[i])
    return [items[i] for i in ranked[:MAX_ROWS]], f", the worst {MAX_ROWS} of {len(items)} dimensions"


def _table(title: str, words: Iterable[str], numbers: Iterable[str], rows: Iterable[Sequence[str]]) -> Lines:
    """A table under its title; rich would wrap the table's own title to the table's width."""
    columns = (Column(name, justify="right") for name in numbers)
    table = Table(*words, *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return [Text(title, style="italic"), table]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _share(value: float | None) -> str:
    """Four digits, so that 0.999 and 1 differ."""
    return _number(value, ".4f" if value is None or value > -100 else ".2g")


def _percent(value: float | None) -> str:
    return _number(value, ".2%")
