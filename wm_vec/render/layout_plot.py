"""The layout of a canvas and its topology as pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_vec.canvas import BoundSchema, Topology
from wm_vec.plain import check_type
from wm_vec.render.video import check_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 32
"""Positions side by side."""
PALE = 0.55
"""How far every second field of a group is on the way to white."""
HEARD, JOINED = "#1f77b4", "#e4572e"
"""Where positions attend to each other, and where a summary does or is attended to."""


def plot_layout(bound: BoundSchema, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw the canvas: its positions row by row, in the colour of their group, every second field paler.

    Args:
        bound: The compiled schema, ``world.bound``.
        path: PNG to write; None for none.

    Returns:
        The figure, of matplotlib.

    Raises:
        ImportError: matplotlib is missing.
        FileNotFoundError: There is no such folder.
        ValueError: Another file.
    """
    figure = _figure("plot_layout", bound, path)
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    groups: dict[str, list[int]] = {}  # positions, by group
    for field in bound.bound_fields():
        groups.setdefault(field.path.rpartition(".")[0], []).extend(field.indices())
    colours = dict(zip(groups, colormaps["turbo"](np.linspace(0.05, 0.95, len(groups)))[:, :3], strict=True))
    rows = -(-bound.layout.num_positions // COLUMNS)
    canvas = np.ones((rows * COLUMNS, 3))
    for i, field in enumerate(bound.bound_fields()):
        colour = colours[field.path.rpartition(".")[0]]
        canvas[field.indices()] = colour + (1 - colour) * PALE * (i % 2)
    figure.set_size_inches(10, 0.8 + 0.22 * max(rows, len(groups)))
    axes = figure.add_subplot()
    axes.imshow(canvas.reshape(rows, COLUMNS, 3), interpolation="nearest")
    axes.set_xticks(np.arange(-0.5, COLUMNS), minor=True)
    axes.set_yticks(np.arange(-0.5, rows), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.set_yticks(range(rows), [str(row * COLUMNS) for row in range(rows)], fontsize=8)
    axes.set_xticks([])
    axes.set_title(f"{len(bound)} fields, {bound.layout.num_positions} positions")
    labels = [
        Patch(color=colours[group], label=f"{_name(group)}: {len(places)} from {places[0]}")
        for group, places in groups.items()
    ]
    axes.legend(handles=labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    return _saved(figure, path)


def plot_topology(bound: BoundSchema, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw who attends to whom with ``topology="groups"``: queries down, keys across, group by group.

    Positions attend to each other in blue; where a summary attends or is attended to is red.

    Args:
        bound: The compiled schema, ``world.bound``.
        path: PNG to write; None for none.

    Returns:
        The figure, of matplotlib.

    Raises:
        ImportError: matplotlib is missing.
        FileNotFoundError: There is no such folder.
        ValueError: Too many groups, see `Topology`, or another file.
    """
    figure = _figure("plot_topology", bound, path)
    from matplotlib.colors import to_rgb

    topology = Topology.of(bound)
    order = topology.order
    mask, group = topology.mask[order][:, order].numpy(), topology.group[order].numpy()
    summary = (order >= bound.layout.num_positions).numpy()
    image = np.ones((*mask.shape, 3))
    image[mask] = to_rgb(HEARD)
    image[mask & (summary[:, None] | summary)] = to_rgb(JOINED)
    sizes = np.where(summary, max(1, len(mask) // 100), 1)  # a summary would be too thin to be seen
    image = image.repeat(sizes, 0).repeat(sizes, 1)
    ends = sizes.cumsum()[summary] - 0.5
    figure.set_size_inches(10, 8)
    axes = figure.add_subplot()
    axes.imshow(image, interpolation="nearest")
    for draw in (axes.axhline, axes.axvline):
        for end in ends[:-1]:
            draw(end, color="#999999", linewidth=0.4)
    names = [_name(topology.groups[number]) for number in group[summary]]
    middles = (np.concatenate(([-0.5], ends[:-1])) + ends) / 2
    axes.set_yticks(middles, names, fontsize=8)
    axes.set_xticks([])
    axes.set(xlabel="keys", ylabel="queries")
    share = f"{mask.sum() / len(mask):.0f} keys per query instead of {len(mask) - summary.sum()}"
    axes.set_title(f"{len(mask) - summary.sum()} positions, {summary.sum()} summaries: {share}")
    return _saved(figure, path)


def _figure(call: str, bound: BoundSchema, path: str | os.PathLike[str] | None) -> Any:
    check_type(bound, BoundSchema, f"{call}: bound", "A world's is `world.bound`.")
    if path is not None:
        check_file(path, call, (".png",))
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{call} draws with matplotlib, which is missing: pip install 'wm_vec[plot]'.") from error
    return Figure(dpi=100)


def _saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        figure.savefig(os.fsdecode(path), format="png", bbox_inches="tight")
    return figure


def _name(group: str) -> str:
    return group or "(the root)"
