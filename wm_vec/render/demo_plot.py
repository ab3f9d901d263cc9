"""The picture that ``wm-vec demo`` ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

NAMES = ("cart position [m]", "cart velocity [m/s]", "pole angle [rad]", "pole velocity [rad/s]")


def plot_demo(
    path: Path,
    *,
    drift: Mapping[str, np.ndarray],
    curve: Sequence[tuple[int, float]],
    trained: Sequence[float],
    random: Sequence[float],
    speed: float,
) -> None:
    """Draw imagined against real, the policy's progress, and what came of it. Needs matplotlib.

    Args:
        path: PNG to write.
        drift: ``real`` and ``imagined``, ``(T, 4)`` observations from the same start under the same actions.
        curve: Imagined steps so far, and the mean length of imagined episodes.
        trained: Real returns of the policy.
        random: Real returns of random actions.
        speed: Imagined env steps/s.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"CartPole, learned and imagined: {speed:,.0f} imagined env steps/s", fontsize=13)
    top, bottom = cast("Any", figure.subfigures(2, 1))
    for i, axes in enumerate(top.subplots(1, 4)):
        axes.plot(drift["real"][:, i], color="black", linewidth=3, alpha=0.35, label="real")
        axes.plot(drift["imagined"][:, i], color="tab:blue", linewidth=1.5, label="imagined")
        axes.set_title(NAMES[i], fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
    top.axes[0].legend(fontsize=8)
    learning, returns = bottom.subplots(1, 2)
    learning.plot([x for x, _ in curve], [y for _, y in curve], color="tab:blue")
    learning.set_title("policy trained in imagination: length of imagined episodes", fontsize=9)
    learning.set_xlabel("imagined env steps", fontsize=8)
    learning.set_ylabel("steps", fontsize=8)
    rng = np.random.default_rng(0)
    for place, (values, color) in enumerate(((random, "tab:gray"), (trained, "tab:blue"))):
        returns.bar(place, np.mean(values), color=color, alpha=0.4)
        returns.scatter(place + rng.uniform(-0.2, 0.2, len(values)), values, color=color, s=12)
        returns.annotate(f"{np.mean(values):.0f}", (place, np.mean(values)), ha="center", va="bottom", fontsize=11)
    returns.set_xticks([0, 1], ["random actions", "trained in imagination"])
    returns.set_title(f"return in the real CartPole-v1, {len(trained)} episodes each", fontsize=9)
    returns.set_ylim(0, 540)
    for axes in (learning, returns):
        axes.tick_params(labelsize=8)
    figure.savefig(path)
