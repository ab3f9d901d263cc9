"""The reality check as a picture. Needs matplotlib (the extra ``wm_vec[plot]``)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from wm_vec.train.evaluation_report import EvaluationReport, PolicyReport

MAX_PATHS, MAX_CURVES = 4, 8
"""Dimensions that get a panel of trajectories, and curves in one panel; of more, those that stray furthest."""
REAL, IMAGINED = "#222222", "#e4572e"
COLOURS = ("#1f77b4", "#e4572e", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#bcbd22", "#e377c2")


def plot_evaluation(report: EvaluationReport, path: str | os.PathLike[str]) -> None:
    """Write the report as a PNG: per policy open-loop errors, single steps, ends, returns and a few trajectories.

    Args:
        report: What `evaluate_world` found.
        path: Where to write; its folder must exist.
    """
    from matplotlib.figure import Figure

    figure: Any = Figure((18, 0.6 + 6.6 * len(report.policies)), dpi=100, layout="constrained")
    steps = "" if report.n_denoise_steps is None else f", {report.n_denoise_steps} denoise steps"
    figure.suptitle(f"{report.env_id}: the imagined world against the real one{steps}", fontsize=15)
    parts = figure.subfigures(len(report.policies), 1, squeeze=False)[:, 0]
    for part, (name, policy) in zip(parts, report.policies.items(), strict=True):
        part.suptitle(f"policy: {name}", fontsize=12, fontweight="bold", x=0.01, ha="left")
        upper, lower = part.subfigures(2, 1, height_ratios=(1.35, 1))
        worst = [max((e for e in errors if e is not None), default=-1.0) for errors in policy.open_loop.error]
        order = sorted(range(len(worst)), key=lambda d: -worst[d])
        open_loop, single, ends, returns = upper.subplots(1, 4)
        curves = sorted(order[:MAX_CURVES])
        _open_loop(open_loop, policy, curves)
        (_residuals if policy.one_step.dimensions else _classes)(single, policy, curves)
        _ends(ends, policy)
        _returns(returns, policy)
        shown = sorted(order[:MAX_PATHS])
        for axes, d in zip(lower.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            real, imagined = policy.shown.real_paths, policy.shown.imagined_paths
            draw_paths(axes, real[..., d], imagined[..., d], policy.open_loop.names[d])
    figure.savefig(path)


def draw_paths(axes: Any, real: np.ndarray, imagined: np.ndarray, title: str) -> None:
    """Trajectories ``(T, k)`` of one dimension: real ones and those imagined from the same starts."""
    lines = axes.plot(real, color=REAL, linewidth=1.6, alpha=0.75)
    dashed = axes.plot(imagined, color=IMAGINED, linewidth=1.4, linestyle=(0, (4, 2)))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.legend([lines[0], dashed[0]], ["real", "imagined"], fontsize=8)


def _open_loop(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    figures = policy.open_loop
    counts = figures.counts
    error, still = (np.array(x, dtype=np.float64) for x in (figures.error, figures.persistence))  # None becomes NaN
    steps = np.arange(1, len(counts) + 1)
    for i, d in enumerate(shown):
        axes.plot(steps, error[d], color=COLOURS[i], linewidth=1.8, label=figures.names[d])
        axes.plot(steps, still[d], color=COLOURS[i], linewidth=0.9, linestyle=":", alpha=0.8)
    axes.plot([], [], color="gray", linewidth=0.9, linestyle=":", label="standing still")
    kinds = {"std": "RMSE / standard deviation", "mismatch": "share of wrong classes"}
    if "std" in figures.units:
        axes.set_yscale("log")
    ylabel = ", ".join(words for kind, words in kinds.items() if kind in figures.units)
    left = "" if counts[0] == counts[-1] else f", {counts[-1]} left at the end"
    _finish(axes, "Open loop: drift under the same actions", f"step ({counts[0]} episodes{left})", ylabel)


def _classes(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    """Shares of right classes."""
    names = policy.open_loop.names
    classes = [c for c in policy.one_step.classes if c.name in {names[d] for d in shown}]
    columns = ("world", "two samples agree", "standing still")
    shares = np.array([(c.accuracy, c.ceiling, c.persistence) for c in classes])
    for i, (column, colour) in enumerate(zip(columns, (IMAGINED, "#888888", "#cccccc"), strict=True)):
        bars = axes.bar(np.arange(len(classes)) + 0.27 * (i - 1), shares[:, i], 0.25, label=column, color=colour)
        axes.bar_label(bars, fmt="{:.1%}", fontsize=8)
    axes.set_xticks(range(len(classes)), [c.name for c in classes], fontsize=8)
    _finish(axes, "One step: share of right classes", "", "")


def _residuals(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    """Imagined against real changes in one step."""
    dimensions, steps = policy.one_step.dimensions, policy.shown
    spread = {d.name: d for d in policy.one_step.distributions if d.stochastic}
    scale = steps.real_steps.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    real, imagined = steps.real_steps / scale, steps.imagined_steps / scale
    low, high = (float(x) for x in np.quantile(real, (0.001, 0.999)))
    # A few steps that are far off must not squeeze the others into a dot: they are drawn at the edge.
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    names = {policy.open_loop.names[d] for d in shown}
    for i, d in enumerate(d for d in range(len(dimensions)) if dimensions[d].name in names):
        r2 = "constant" if dimensions[d].r2 is None else f"R² {dimensions[d].r2:.4f}"
        if chance := spread.get(dimensions[d].name):
            ratio = "-" if chance.variance_ratio is None else f"{chance.variance_ratio:.2f}"
            r2 = f"stochastic, variance x {ratio}, 90 % holds {chance.coverage_90:.0%}"
        x, y = np.clip(real[:, d], low, high), np.clip(imagined[:, d], low, high)
        axes.plot(x, y, ".", markersize=4, alpha=0.5, markeredgewidth=0, color=COLOURS[i])
        axes.plot([], [], "o", markersize=5, color=COLOURS[i], label=f"{dimensions[d].name}: {r2}")
    axes.plot([low, high], [low, high], color="black", linewidth=0.7, zorder=0)
    xlabel = "real change in one step / its standard deviation"
    _finish(axes, "One step: imagined against real change", xlabel, "imagined change")


def _ends(axes: Any, policy: PolicyReport) -> None:
    """Reliability of the chance of an end."""
    ends = policy.one_step.termination
    imagined = [b.imagined for b in ends.reliability]
    observed = np.array([(b.observed.value, b.observed.low, b.observed.high) for b in ends.reliability])
    reach = np.abs(observed[:, 1:].T - observed[:, 0])
    axes.errorbar(imagined, observed[:, 0], reach, fmt="o", color=IMAGINED, capsize=3, label="95 % interval")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.7, zorder=0, label="exact")
    rates = f"imagined {ends.imagined_rate.value:.2%}, real {ends.real_rate.value:.2%}"
    _finish(axes, f"Ends: {rates}", "imagined chance of an end", "share of real steps that end")


def _returns(axes: Any, policy: PolicyReport) -> None:
    figures, shown = policy.returns, policy.shown
    both = np.concatenate([shown.real_returns, shown.imagined_returns])
    pad = 1e-3 * float(np.abs(both).max()) or 0.5  # returns that hardly differ must not fill the axis
    bins = np.linspace(both.min() - pad, both.max() + pad, 31)
    for name, values, colour in (
        ("real", shown.real_returns, REAL),
        ("imagined", shown.imagined_returns, IMAGINED),
    ):
        mean = float(values.mean())
        style = {"histtype": "stepfilled", "facecolor": (colour, 0.25), "edgecolor": colour, "linewidth": 1.6}
        axes.hist(values, bins, label=f"{name}: mean {mean:.4g}", **style)
        axes.axvline(mean, color=colour, linewidth=1.2, linestyle="--")
    title = f"KS: returns {figures.ks:.2f}, lengths {figures.ks_lengths:.2f}; 1 % critical {figures.ks_critical:.2f}"
    _finish(axes, title, "return of a whole episode", "episodes")


def _finish(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
