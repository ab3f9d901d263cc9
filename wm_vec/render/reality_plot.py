"""The reality check as a picture. Needs matplotlib (the extra ``wm_vec[plot]``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_vec.train.rollout_metrics import SAME_RETURN

if TYPE_CHECKING:
    from wm_vec.train.evaluation_report import EvaluationReport, PolicyReport

MAX_DIMENSIONS = 4
"""Dimensions that get a panel of trajectories; of more, those that stray furthest."""
MAX_CURVES = 8
REAL, IMAGINED = "#222222", "#e4572e"
COLOURS = ("#1f77b4", "#e4572e", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#bcbd22", "#e377c2")


def plot_reality(report: EvaluationReport, path: str | os.PathLike[str]) -> None:
    """Write the report as a PNG: per policy open-loop errors, single steps, returns and a few trajectories.

    Args:
        report: What `evaluate_world` found.
        path: Where to write; its folder must exist.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 0.6 + 6.6 * len(report.policies)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    steps = "" if report.n_denoise_steps is None else f", {report.n_denoise_steps} denoise steps"
    figure.suptitle(f"{report.env_id}: the imagined world against the real one{steps}", fontsize=15)
    parts = figure.subfigures(len(report.policies), 1, squeeze=False)[:, 0]
    for part, (name, policy) in zip(parts, report.policies.items(), strict=True):
        _policy_panels(part, name, policy)
    figure.savefig(path)


def _policy_panels(part: Any, name: str, policy: PolicyReport) -> None:
    """Three panels of figures over a row of trajectories."""
    part.suptitle(f"policy: {name}", fontsize=12, fontweight="bold", x=0.01, ha="left")
    upper, lower = part.subfigures(2, 1, height_ratios=(1.35, 1))
    open_loop, single, returns = upper.subplots(1, 3)
    order = _by_error(policy)
    _open_loop(open_loop, policy, order[:MAX_CURVES])
    _single_steps(single, policy, order[:MAX_CURVES])
    _returns(returns, policy)
    shown = sorted(order[:MAX_DIMENSIONS])
    for axes, d in zip(np.atleast_1d(lower.subplots(1, len(shown))), shown, strict=True):
        _trajectories(axes, policy, d, legend=d == shown[0])


def _by_error(policy: PolicyReport) -> list[int]:
    """Dimensions in their order where all have room, else first those that stray furthest."""
    figures = policy.open_loop
    worst = [max((e for e in errors if e is not None), default=-1.0) for errors in figures.error]
    dimensions = list(range(len(worst)))
    return dimensions if len(worst) <= MAX_DIMENSIONS else sorted(dimensions, key=lambda d: -worst[d])


def _open_loop(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    figures = policy.open_loop
    steps = np.arange(1, len(figures.counts) + 1)
    for d in shown:
        error = np.array([np.nan if e is None else e for e in figures.error[d]])
        still = np.array([np.nan if e is None else e for e in figures.persistence[d]])
        colour = COLOURS[d % len(COLOURS)]
        axes.plot(steps, error, color=colour, linewidth=1.8, label=figures.names[d])
        axes.plot(steps, still, color=colour, linewidth=0.9, linestyle=":", alpha=0.8)
    axes.plot([], [], color="gray", linewidth=0.9, linestyle=":", label="standing still")
    if figures.unit == "std":
        axes.set_yscale("log")
        axes.set_ylabel("RMSE / standard deviation")
    else:
        axes.set_ylabel("share of wrong classes")
    counts = figures.counts
    left = "" if counts[0] == counts[-1] else f", {counts[-1]} left at the end"
    axes.set_xlabel(f"step ({counts[0]} episodes{left})")
    axes.set_title("Open loop: drift under the same actions")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)


def _single_steps(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    """Imagined against real residuals; for classes the shares of right answers."""
    figures, samples = policy.one_step, policy.samples
    if figures.classes is not None:
        c = figures.classes
        bars = {
            "the world": c.accuracy,
            "standing still": c.persistence,
            "most likely\nnext": c.most_likely,
            "most likely,\ngiven the action": c.most_likely_with_action,
        }
        known = {name: share for name, share in bars.items() if share is not None}
        axes.bar(list(known), list(known.values()), color=[IMAGINED, *["#bbbbbb"] * (len(known) - 1)])
        for i, share in enumerate(known.values()):
            axes.text(i, share, f"{share:.1%}", ha="center", va="bottom", fontsize=9)
        axes.set_ylim(0, 1.08)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title("One step: share of right classes")
        return
    scale = samples.real_steps.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    real, imagined = samples.real_steps / scale, samples.imagined_steps / scale
    low, high = (float(x) for x in np.quantile(real, (0.001, 0.999)))
    # A few steps that are far off must not squeeze the others into a dot: they are drawn at the edge.
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    inside = (np.clip(real, low, high) == real) & (np.clip(imagined, low, high) == imagined)
    for d in shown:
        dimension, colour = figures.dimensions[d], COLOURS[d % len(COLOURS)]
        r2 = "constant" if dimension.r2 is None else f"R² {dimension.r2:.4f}"
        x, y = np.clip(real[:, d], low, high), np.clip(imagined[:, d], low, high)
        near, far = inside[:, d], ~inside[:, d]
        axes.plot(x[near], y[near], ".", markersize=4, alpha=0.5, markeredgewidth=0, color=colour)
        axes.plot(x[far], y[far], "x", markersize=5, alpha=0.6, color=colour)
        axes.plot([], [], "o", markersize=5, color=colour, label=f"{dimension.name}: {r2}")
    axes.plot([low, high], [low, high], color="black", linewidth=0.7, zorder=0)
    edge = 0.03 * (high - low)
    axes.set_xlim(low - edge, high + edge)
    axes.set_ylim(low - edge, high + edge)
    if (outside := int((~inside[:, shown]).sum())) > 0:
        axes.text(0.98, 0.02, f"x: {outside} further out", transform=axes.transAxes, ha="right", fontsize=8)
    axes.set_xlabel("real change in one step / its standard deviation")
    axes.set_ylabel("imagined change")
    axes.set_title("One step: imagined against real change")
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.25)


def _returns(axes: Any, policy: PolicyReport) -> None:
    figures, samples = policy.returns, policy.samples
    both = np.concatenate([samples.real_returns, samples.imagined_returns])
    low, high = float(both.min()), float(both.max())
    if high - low < 2 * SAME_RETURN * max(abs(low), abs(high)) or high == low:
        low, high = low - 0.02 * abs(low) - 0.5, high + 0.02 * abs(high) + 0.5
    bins = np.linspace(low, high, 31)
    for label, values, colour, mean in (
        ("real", samples.real_returns, REAL, figures.real.mean),
        ("imagined", samples.imagined_returns, IMAGINED, figures.imagined.mean),
    ):
        axes.hist(values, bins, color=colour, alpha=0.25)
        axes.hist(values, bins, color=colour, histtype="step", linewidth=1.6, label=f"{label}: mean {mean:.4g}")
        axes.axvline(mean, color=colour, linewidth=1.2, linestyle="--")
    alike = "alike" if figures.ks <= figures.ks_critical else "different"
    axes.set_title(f"Returns: {alike} (KS {figures.ks:.2f}, 5 % level {figures.ks_critical:.2f})")
    axes.set_xlabel("return of a whole episode")
    axes.set_ylabel("episodes")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)


def _trajectories(axes: Any, policy: PolicyReport, d: int, legend: bool) -> None:
    samples = policy.samples
    steps = np.arange(len(samples.real_paths))
    for k in range(samples.real_paths.shape[1]):
        first = k == 0
        axes.plot(
            steps,
            samples.real_paths[:, k, d],
            color=REAL,
            linewidth=1.6,
            alpha=0.75,
            label="real" if first else None,
        )
        axes.plot(
            steps,
            samples.imagined_paths[:, k, d],
            color=IMAGINED,
            linewidth=1.4,
            linestyle=(0, (4, 2)),
            label="imagined" if first else None,
        )
    axes.set_title(policy.open_loop.names[d], fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if legend:
        axes.legend(fontsize=8)
