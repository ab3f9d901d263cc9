"""Frames, tables, plots and films. Imported on first use; what draws needs the extra ``wm_vec[plot]``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wm_vec.render.band import RolloutBand, animate_rollout, rollout_band
    from wm_vec.render.grid import render_grid
    from wm_vec.render.layout_plot import plot_layout, plot_topology
    from wm_vec.render.video import record_video

_HOME = {
    "RolloutBand": "band",
    "animate_rollout": "band",
    "plot_layout": "layout_plot",
    "plot_topology": "layout_plot",
    "record_video": "video",
    "render_grid": "grid",
    "rollout_band": "band",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wm_vec.render.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wm_vec.render' has no attribute {name!r}")
