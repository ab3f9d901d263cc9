"""Observed values as a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MAX_BARS = 24


def value_frame(named: Mapping[str, np.ndarray]) -> np.ndarray:
    """A bar for each observed value, ``(240, 320, 3)`` uint8. Needs matplotlib (the extra ``wm_vec[plot]``).

    Args:
        named: Field path -> values.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels, values = [], []
    for path, array in named.items():
        flat = np.ravel(array)
        labels += [f"{path}[{i}]" if flat.size > 1 else path for i in range(flat.size)]
        values += [float(x) for x in flat]
    labels, values = labels[:MAX_BARS], values[:MAX_BARS]
    figure = Figure(figsize=(3.2, 2.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh(range(len(values)), values, color=["#1f77b4" if v >= 0 else "#d62728" for v in values])
    axes.set_yticks(range(len(values)), labels, fontsize=6)
    axes.tick_params(axis="x", labelsize=6)
    axes.axvline(0, color="black", linewidth=0.5)
    axes.invert_yaxis()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
