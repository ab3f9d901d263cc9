"""Pictures of layout and topology: what they show is the layout and the mask."""

import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from wm_vec.canvas import Field, Topology, compile_schema
from wm_vec.render import plot_layout, plot_topology
from wm_vec.render.layout_plot import COLUMNS, HEARD, JOINED

FIRM = {"health": Field(), "financials": {"revenue": Field(w=9), "debt": Field(w=4)}, "staff": {"mood": Field(w=21)}}
BOUND = compile_schema({"regime": Field(w=2), "acme": FIRM, "rival": FIRM}, d_model=32)


def image_of(figure):
    return figure.axes[0].images[0].get_array()


def test_the_layout_shows_every_position_in_its_groups_colour_and_fields_apart():
    canvas = image_of(plot_layout(BOUND)).reshape(-1, 3)
    assert len(canvas) == -(-BOUND.layout.num_positions // COLUMNS) * COLUMNS
    assert bool((canvas[BOUND.layout.num_positions :] == 1).all()), "nothing lies after the last position"
    fields = BOUND.bound_fields()
    shown = [np.unique(canvas[field.indices()], axis=0) for field in fields]
    assert all(len(colours) == 1 for colours in shown)
    assert len({tuple(colours[0]) for colours in shown}) == len(fields)
    labels = [text.get_text() for text in plot_layout(BOUND).axes[0].get_legend().get_texts()]
    assert labels[:3] == ["(the root): 2 from 0", "acme: 1 from 2", "acme.financials: 13 from 3"]


def test_the_topology_shows_the_mask():
    image = image_of(plot_topology(BOUND))
    topology = Topology.of(BOUND)
    mask = topology.mask[topology.order][:, topology.order].numpy()
    summary = (topology.order >= BOUND.layout.num_positions).numpy()
    joins = summary[:, None] | summary
    assert np.array_equal((image == to_rgb(HEARD)).all(-1), mask & ~joins)
    assert np.array_equal((image == to_rgb(JOINED)).all(-1), mask & joins)
    labels = [label.get_text() for label in plot_topology(BOUND).axes[0].get_yticklabels()]
    assert labels == ["(the root)", *topology.groups[1:]]


@pytest.mark.parametrize("plot", [plot_layout, plot_topology])
def test_pictures_are_written_and_bad_input_is_refused(plot, tmp_path, monkeypatch):
    plot(BOUND, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TypeError, match="bound must be a BoundSchema"):
        plot({"x": Field()})
    with pytest.raises(FileNotFoundError, match="no folder"):
        plot(BOUND, tmp_path / "nowhere" / "picture.png")
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        plot(BOUND, tmp_path / "picture.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'wm_vec\[plot\]'"):
        plot(BOUND)
