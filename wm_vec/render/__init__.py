"""Frames, tables and plots. Imported on first use; what draws needs the extra ``wm_vec[plot]``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wm_vec.render.layout_plot import plot_layout, plot_topology

_HOME = {
    "plot_layout": "layout_plot",
    "plot_topology": "layout_plot",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wm_vec.render.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wm_vec.render' has no attribute {name!r}")
