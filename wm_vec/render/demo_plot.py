"""The picture that ``wm-vec demo`` ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_vec.render.evaluation_plot import draw_paths

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
    """Draw imagined against real, the policy's progress, and its returns. Needs matplotlib.

    Args:
        path: PNG to write.
        drift: ``real`` and ``imagined``, ``(T, 4)`` observations from the same start under the same actions.
        curve: Imagined steps so far, and the mean length of imagined episodes.
        trained: Real returns of the policy.
        random: Real returns of random actions.
        speed: Imagined env steps/s.
    """
    from matplotlib.figure import Figure

    figure: Any = Figure((13, 7), dpi=100, layout="constrained")
    figure.suptitle(f"CartPole, learned and imagined: {speed:,.0f} imagined env steps/s", fontsize=14)
    top, bottom = figure.subfigures(2, 1)
    for i, axes in enumerate(top.subplots(1, 4)):
        draw_paths(axes, drift["real"][:, i : i + 1], drift["imagined"][:, i : i + 1], NAMES[i])
    learning, returns = bottom.subplots(1, 2)
    learning.plot(*zip(*curve, strict=True))
    learning.set(title="policy trained in imagination: length of imagined episodes")
    learning.set(xlabel="imagined env steps", ylabel="steps")
    rng = np.random.default_rng(0)
    for place, (values, colour) in enumerate(((random, "tab:gray"), (trained, "tab:blue"))):
        returns.bar(place, np.mean(values), color=colour, alpha=0.4)
        returns.scatter(place + rng.uniform(-0.2, 0.2, len(values)), values, color=colour, s=12)
    means = f"random actions: {np.mean(random):.0f}", f"trained in imagination: {np.mean(trained):.0f}"
    returns.set_xticks([0, 1], means, fontsize=12)
    returns.set(title=f"return in the real CartPole-v1, {len(trained)} episodes each", ylim=(0, 540))
    figure.savefig(path)
