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
    """Write the report as a PNG: per policy open-loop errors, single steps, returns and a few trajectories.

    Args:
        report: What `check_reality` found.
        path: Where to write; its folder must exist.
    """
    from matplotlib.figure import Figure

    figure: Any = Figure((14, 0.6 + 6.6 * len(report.policies)), dpi=100, layout="constrained")
    steps = "" if report.n_denoise_steps is None else f", {report.n_denoise_steps} denoise steps"
    figure.suptitle(f"{report.env_id}: the imagined world against the real one{steps}", fontsize=15)
    parts = figure.subfigures(len(report.policies), 1, squeeze=False)[:, 0]
    for part, (name, policy) in zip(parts, report.policies.items(), strict=True):
        part.suptitle(f"policy: {name}", fontsize=12, fontweight="bold", x=0.01, ha="left")
        upper, lower = part.subfigures(2, 1, height_ratios=(1.35, 1))
        worst = [max((e for e in errors if e is not None), default=-1.0) for errors in policy.open_loop.error]
        order = sorted(range(len(worst)), key=lambda d: -worst[d])
        open_loop, single, returns = upper.subplots(1, 3)
        _open_loop(open_loop, policy, sorted(order[:MAX_CURVES]))
        (_classes if policy.one_step.classes else _residuals)(single, policy, sorted(order[:MAX_CURVES]))
        _returns(returns, policy)
        shown = sorted(order[:MAX_PATHS])
        for axes, d in zip(lower.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            samples = policy.samples
            draw_paths(axes, samples.real_paths[..., d], samples.imagined_paths[..., d], policy.open_loop.names[d])
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
    if figures.unit == "std":
        axes.set_yscale("log")
    ylabel = "RMSE / standard deviation" if figures.unit == "std" else "share of wrong classes"
    left = "" if counts[0] == counts[-1] else f", {counts[-1]} left at the end"
    _finish(axes, "Open loop: drift under the same actions", f"step ({counts[0]} episodes{left})", ylabel)


def _classes(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    """Shares of right classes."""
    c = policy.one_step.classes
    assert c is not None
    shares = (c.accuracy, c.persistence, c.most_likely, c.most_likely_with_action)
    names = ("the world", "standing still", "most likely\nnext", "most likely,\ngiven the action")
    known = {name: share for name, share in zip(names, shares, strict=True) if share is not None}
    bars = axes.bar(list(known), list(known.values()), color=[IMAGINED, *["#bbbbbb"] * (len(known) - 1)])
    axes.bar_label(bars, fmt="{:.1%}", fontsize=9)
    axes.set_ylim(0, 1.08)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title("One step: share of right classes")


def _residuals(axes: Any, policy: PolicyReport, shown: list[int]) -> None:
    """Imagined against real changes in one step."""
    samples, dimensions = policy.samples, policy.one_step.dimensions
    scale = samples.real_steps.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    real, imagined = samples.real_steps / scale, samples.imagined_steps / scale
    low, high = (float(x) for x in np.quantile(real, (0.001, 0.999)))
    # A few steps that are far off must not squeeze the others into a dot: they are drawn at the edge.
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    for i, d in enumerate(shown):
        r2 = "constant" if dimensions[d].r2 is None else f"R² {dimensions[d].r2:.4f}"
        x, y = np.clip(real[:, d], low, high), np.clip(imagined[:, d], low, high)
        axes.plot(x, y, ".", markersize=4, alpha=0.5, markeredgewidth=0, color=COLOURS[i])
        axes.plot([], [], "o", markersize=5, color=COLOURS[i], label=f"{dimensions[d].name}: {r2}")
    axes.plot([low, high], [low, high], color="black", linewidth=0.7, zorder=0)
    xlabel = "real change in one step / its standard deviation"
    _finish(axes, "One step: imagined against real change", xlabel, "imagined change")


def _returns(axes: Any, policy: PolicyReport) -> None:
    figures, samples = policy.returns, policy.samples
    both = np.concatenate([samples.real_returns, samples.imagined_returns])
    pad = 1e-3 * float(np.abs(both).max()) or 0.5  # returns that hardly differ must not fill the axis
    bins = np.linspace(both.min() - pad, both.max() + pad, 31)
    for name, values, colour in (
        ("real", samples.real_returns, REAL),
        ("imagined", samples.imagined_returns, IMAGINED),
    ):
        mean = float(values.mean())
        style = {"histtype": "stepfilled", "facecolor": (colour, 0.25), "edgecolor": colour, "linewidth": 1.6}
        axes.hist(values, bins, label=f"{name}: mean {mean:.4g}", **style)
        axes.axvline(mean, color=colour, linewidth=1.2, linestyle="--")
    alike = "alike" if figures.ks <= figures.ks_critical else "different"
    title = f"Returns: {alike} (KS {figures.ks:.2f}, 5 % level {figures.ks_critical:.2f})"
    _finish(axes, title, "return of a whole episode", "episodes")


def _finish(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
