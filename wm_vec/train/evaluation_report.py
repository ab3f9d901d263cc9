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

from wm_vec.train.data import FEW_ENDS
from wm_vec.train.distribution_metrics import (
    N_SAMPLES,
    STOCHASTIC,
    ClassMetrics,
    DistributionMetrics,
    EndGivenClass,
    EndMetrics,
    Share,
    TransitionMetrics,
)
from wm_vec.train.metrics import DimensionMetrics, RewardMetrics
from wm_vec.train.rollout_metrics import ALPHA, EFFECT_FLOOR, Distribution, EffectMetrics, OpenLoopMetrics

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
        n_sampled: How many of them were imagined `N_SAMPLES` times.
        dimensions: Dimensions of numbers.
        distributions: Those of them that ever change, by several samples; and ``"reward"``, unless of few values.
        classes: Dimensions of classes.
        transitions: Where observations and actions are classes only; else None.
        reward: Of the same steps.
        termination: Of the same steps.
        end_given_class: Terminations by next class; empty where no real step ends.
        diverged: Steps in which the world broke down.
    """

    n_transitions: int
    n_sampled: int
    dimensions: list[DimensionMetrics]
    distributions: list[DistributionMetrics]
    classes: list[ClassMetrics]
    transitions: TransitionMetrics | None
    reward: RewardMetrics
    termination: EndMetrics
    end_given_class: list[EndGivenClass]
    diverged: int


@dataclass(frozen=True)
class Returns:
    """Returns of whole episodes, imagined and real, under the same policy.

    Attributes:
        real: In the real environment.
        imagined: In the world.
        ks: Two-sample Kolmogorov-Smirnov statistic of returns, from 0 (alike) to 1; see `returns_statistic`.
        ks_lengths: The same of episode lengths.
        ks_critical: What each would exceed in about 1 % of cases, were the two alike.
    """

    real: Distribution
    imagined: Distribution
    ks: float
    ks_lengths: float
    ks_critical: float


@dataclass(frozen=True)
class Shown:
    """What plots show; D dimensions, k trajectories of up to H steps. Not part of the JSON.

    Attributes:
        real_steps, imagined_steps: ``(m, C)``, residuals of held-out steps in the C dimensions of numbers.
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
    shown: Shown


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
            del policy["shown"]
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
    sampled = f"{N_SAMPLES} samples of {metrics.n_sampled:,} states and actions"
    parts: Lines = [Text(f"One step, {metrics.n_transitions:,} held-out transitions", style="italic")]
    by_chance = {d.name for d in metrics.distributions if d.stochastic}
    if fixed := [d for d in metrics.dimensions if d.name not in by_chance]:
        shown, note = _worst(fixed, [-2.0 if d.r2 is None else -d.r2 for d in fixed])
        rows = []
        for d in shown:
            exact = d.skill_linear is None and d.r2 is not None
            skill_linear = "fit is exact" if exact else _share(d.skill_linear)
            shares = (_share(d.r2), _share(d.skill_persistence), skill_linear, _share(d.linear_r2))
            rows.append([d.name, *shares, f"{d.rmse:.2g}"])
        columns = ["R2 of s'-s", "skill over standing still", "skill over linear fit", "linear fit's R2", "RMSE"]
        parts += _table(f"Deterministic dimensions of the world{note}", ["dimension"], columns, rows)
    # What the world takes for certain but does not get right belongs here too.
    if spread := [d for d in metrics.distributions if d.stochastic or 1 - d.mean_r2 >= STOCHASTIC]:
        worst, note = _worst(spread, [abs(d.coverage_90 - 0.9) for d in spread])
        single = {"reward": metrics.reward.r2, **{d.name: d.r2 for d in metrics.dimensions}}
        rows = []
        for s in worst:
            covered = (_percent(s.coverage_50), _percent(s.coverage_90))
            explained = (_share(single[s.name]), _share(s.mean_r2), _number(s.variance_ratio, ".3f"))
            rows.append([s.name, "yes" if s.stochastic else "no", *explained, *covered])
        columns = ["stochastic", "sample R2", "R2 of the mean", "variance / real", "50 % cover", "90 % cover"]
        parts += _table(f"Distributions, {sampled}{note}", ["dimension"], columns, rows)
    if metrics.classes:
        classes, note = _worst(metrics.classes, [-c.accuracy for c in metrics.classes])
        rows = [[c.name, *(_percent(x) for x in (c.accuracy, c.ceiling, c.persistence))] for c in classes]
        columns = ["world", "two samples agree", "standing still"]
        parts += _table(f"Share of right classes, {sampled}{note}", ["dimension"], columns, rows)
    if t := metrics.transitions:
        seen = f"{_percent(t.impossible)} of the imagined are not among the real, {_percent(t.unseen)} of the real once"
        parts.append(Text(f"Transitions: {seen}; two real ones of a state and action agree in {_percent(t.ceiling)}"))
    parts += [_reward(metrics.reward), *_ends(metrics.termination, metrics.end_given_class)]
    if metrics.diverged:
        parts.append(Text(f"The world broke down in {metrics.diverged:,} steps", style="red"))
    return parts


def _reward(reward: RewardMetrics) -> Text:
    r2 = "the real one is constant" if reward.r2 is None else f"sample R2 {_share(reward.r2)}"
    text = f"Reward: {r2}, RMSE {reward.rmse:.2g}, largest error {reward.max_error:.2g}, mean "
    text += f"{reward.imagined_mean:.4g} (real {reward.real_mean:.4g})"
    if reward.exact is not None:
        text += (
            f"; {_percent(reward.exact)} exactly one of the {reward.n_values} real values, {_percent(reward.right)} "
        )
        text += f"the right one (two samples agree in {_percent(reward.ceiling)})"
    return Text(text)


def _ends(ends: EndMetrics, by_class: list[EndGivenClass]) -> Lines:
    rates = f"{_interval(ends.imagined_rate)} of steps, really {_interval(ends.real_rate)} ({ends.n_terminal:,} steps)"
    ceiling = f"an exact sampler of the imagined chances {_percent(ends.ceiling)} in both"
    parts: Lines = [
        Text(f"Ends: {rates}"),
        Text(f"Ends: recall {_percent(ends.recall)}, precision {_percent(ends.precision)}, {ceiling}"),
    ]
    if ends.n_terminal < FEW_ENDS:
        few = (
            f"With {ends.n_terminal} terminal steps these say little: give more --transitions, or a --policy that "
            "reaches ends."
        )
        parts.append(Text(few, style="yellow"))
    if len(ends.reliability) > 1:
        rows = [
            [f"{b.low:.0%} to {b.high:.0%}", f"{b.n:,.0f}", _percent(b.imagined), _interval(b.observed)]
            for b in ends.reliability
        ]
        columns = ("steps", "one more sample ends", "real steps end")
        parts += _table("Ends by imagined chance", ["other samples end"], columns, rows)
    for c in by_class:
        next_class = f"{c.name} to one of {c.n_classes} classes where real steps {c.group} end ({_percent(c.real)})"
        parts.append(Text(f"Ends given a step of {next_class}: imagined in {_percent(c.imagined)} of {c.n_imagined:,}"))
    return parts


def _open_loop(metrics: OpenLoopMetrics) -> Lines:
    steps = [s for s in SHOWN_STEPS if s <= len(metrics.counts)]
    kinds = {"std": "RMSE in standard deviations", "mismatch": "share of wrong classes"}
    unit = ", ".join(words for kind, words in kinds.items() if kind in metrics.units)
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
    found = [
        f"{what} {ks:.3f} ({'differ' if ks > returns.ks_critical else 'no difference found'})"
        for what, ks in (("returns", returns.ks), ("lengths", returns.ks_lengths))
    ]
    rows = []
    for name, d in (("real", returns.real), ("imagined", returns.imagined)):
        numbers = (d.mean, d.std, *d.quantiles.values(), d.mean_length)
        count = f"{d.n} ({d.cut} cut)" if d.cut else str(d.n)
        rows.append([name, count, *(_number(x, ".1f" if abs(x) >= 10 else ".3g") for x in numbers)])
    levels = [f"{float(q):.0%}" for q in returns.real.quantiles]
    title = f"Whole episodes: KS of {', '.join(found)}; critical {returns.ks_critical:.3f} at {ALPHA:.0%}"
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


def _interval(share: Share) -> str:
    return f"{share.value:.2%} [{share.low:.2%}, {share.high:.2%}]"


def _percent(value: float | None) -> str:
    return _number(value, ".2%")
