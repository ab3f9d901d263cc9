"""Frames of every kind of space: their size, what is refused, what they cost, and painters that travel."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from tests.render.pixels import changed
from wm_vec.render.frames import FramePainter

UNBOUNDED = Box(-np.inf, np.inf, (3,))
EVERY_KIND = {
    "box": Box(-1, 1, (3,)),
    "box of one": Box(-1, 1, ()),
    "unbounded": Box(-np.inf, np.inf, (17,)),
    "some bounds": Box(np.array([-1, -np.inf, 0]), np.array([1, np.inf, np.inf]), dtype=np.float64),
    "whole numbers": Box(-(2**31), 2**31 - 1, (4,), np.int32),
    "matrix": Box(-1, 1, (3, 4)),
    "long": Box(-np.inf, np.inf, (376,)),
    "bytes": Box(0, 255, (128,), np.uint8),
    "grid": Box(0, 5, (20, 30)),
    "strip": Box(0, 5, (2, 300)),
    "tower": Box(0, 5, (300, 2)),
    "cube": Box(-2, 2, (4, 5, 6)),
    "five axes": Box(-2, 2, (2, 2, 3, 4, 5)),
    "constant": Box(3, 3, (2,)),
    "empty": Box(-1, 1, (0,)),
    "discrete": Discrete(6),
    "discrete with a start": Discrete(3, start=1000),
    "many classes": Discrete(1000, start=-500),
    "multidiscrete": MultiDiscrete([2, 9, 4], start=[5, -1, 0]),
    "multidiscrete grid": MultiDiscrete(np.full((2, 3), 4)),
    "many multidiscrete": MultiDiscrete([7] * 60),
    "uneven multidiscrete": MultiDiscrete([2, 9000]),
    "multibinary": MultiBinary(11),
    "multibinary grid": MultiBinary((3, 5)),
    "large multibinary": MultiBinary((40, 50)),
    "long multibinary": MultiBinary(2000),
    "text": spaces.Text(max_length=800, min_length=1),
    "sequence": spaces.Sequence(Discrete(9)),
    "graph": spaces.Graph(Box(-1, 1, (2,)), Discrete(3)),
    "one of": spaces.OneOf((Discrete(9), Box(-1, 1, (2,)))),
    "dict": Dict(a=Box(-1, 1, (3,)), b=Discrete(3)),
    "tuple": Tuple((Discrete(3), Tuple((MultiBinary(3), Box(-1, 1, (30,)))))),
    "empty dict": Dict(),
    "many entries": Dict({f"entry {i}": Box(-1, 1, (2,)) for i in range(40)}),
}
NEVER_CHANGES = ("constant", "empty", "empty dict")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_spaces_of_every_kind(kind: str) -> None:
    space = EVERY_KIND[kind]
    space.seed(5)
    painter = FramePainter(space)
    frames = [painter(space.sample()) for _ in range(5)]
    height, width, channels = frames[0].shape
    assert channels == 3
    assert height % 2 == width % 2 == 0
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert {frame.dtype for frame in frames} == {np.dtype(np.uint8)}
    assert any(changed(frames[0], frame).any() for frame in frames) != (kind in NEVER_CHANGES)
    assert 0.25 < width / height < 4
    # Earlier frames are the caller's own.
    kept = frames[0].copy()
    painter(space.sample())[:] = 0
    np.testing.assert_array_equal(frames[0], kept)
    again = painter(space.sample())
    assert (again == 255).mean() > 0.05, "the background is white"


WRONG = {
    "shape": (Box(-1, 1, (3,)), np.zeros(4), r"numbers of shape \(3,\).*got shape \(4,\), float64"),
    "batch": (Box(-1, 1, (3,)), np.zeros((1, 3)), r"\(3,\).*got shape \(1, 3\)"),
    "words": (Box(-1, 1, ()), "hello", r"shape \(\).*got shape \(\), <U5"),
    "dict for box": (Box(-1, 1, (3,)), {"a": 1}, "got a dict"),
    "tuple for box": (Box(-1, 1, (2,)), (0.1, 0.2), "got a tuple"),
    "box for dict": (Dict(a=Discrete(2)), np.zeros(2), r"keys \['a'\], got a ndarray"),
    "missing key": (Dict(a=Discrete(2), b=Discrete(2)), {"a": 1}, r"keys \['a', 'b'\], got \['a'\]"),
    "surplus key": (Dict(a=Discrete(2)), {"a": 1, "c": 2}, r"got \['a', 'c'\]"),
    "nested": (Dict(a=Tuple((Discrete(2), Box(0, 1, (2,))))), {"a": (0, np.zeros(3))}, r"observation\['a'\]\[1\] does"),
    "short tuple": (Tuple((Discrete(2), Discrete(2))), (1,), "tuple of 2 parts, got 1"),
    "no tuple": (Tuple((Discrete(2),)), 1, "tuple of 1 parts, got a int"),
    "class out of range": (Discrete(3, start=1), np.int64(0), r"classes of Discrete\(3, start=1\), got 0"),
    "class beyond": (MultiDiscrete([2, 3]), np.array([0, 3]), r"got \[0, 3\]"),
    "no whole number": (Discrete(3), 1.5, r"whole numbers of shape \(\).*got shape \(\), float64"),
    "switches": (MultiBinary(3), np.zeros(2), r"\(3,\).*got shape \(2,\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(what: str) -> None:
    space, observation, words = WRONG[what]
    with pytest.raises(ValueError, match=words):
        FramePainter(space)(observation)


def test_a_frame_depends_on_nothing_but_its_observation() -> None:
    painter = FramePainter(Tuple((UNBOUNDED, Discrete(2))))
    fine, other = ((np.array(x), np.int64(1)) for x in ([0.1, 0.2, 0.3], [1e5, -1e300, np.nan]))
    frame = painter(fine)
    with pytest.raises(ValueError, match="classes of"):
        painter((np.full(3, 1e5), np.int64(7)))
    painter(other)
    for one in painter(fine), FramePainter(painter.space)(fine):
        np.testing.assert_array_equal(one, frame)


def test_a_painter_is_pickled_and_copied_without_its_figure() -> None:
    space = Dict(a=Box(-1, 1, (3,)), b=Discrete(3))
    observation = {"a": np.array([0.5, -0.5, 0.1]), "b": np.int64(2)}
    painter = FramePainter(space)
    frame = painter(observation)
    packed = pickle.dumps(painter)
    assert len(packed) < 5000
    np.testing.assert_array_equal(pickle.loads(packed)(observation), frame)
    np.testing.assert_array_equal(copy.deepcopy(painter)(observation), frame)
    named = FramePainter(space["a"], ["x", "y", "z"])
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(named))(observation["a"]), FramePainter(space["a"], ["x", "y", "z"])(observation["a"])
    )


@pytest.mark.parametrize("kind", ["unbounded", "long", "grid", "large multibinary", "dict"])
def test_the_figure_is_laid_out_once_and_a_frame_costs_little(kind: str) -> None:
    space = EVERY_KIND[kind]
    space.seed(1)
    observations = [space.sample() for _ in range(20)]
    FramePainter(space)(observations[0])  # imports and fonts

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    painter = FramePainter(space)
    frame = np.median([seconds(lambda x=x: painter(x)) for x in observations])
    fresh = np.median([seconds(lambda x=x: FramePainter(space)(x)) for x in observations[:5]])
    assert frame < fresh / 4


def test_without_matplotlib_images_work_and_plots_name_the_extra() -> None:
    script = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
from gymnasium.spaces import Box
from wm_vec.render.frames import FramePainter
image = np.full((64, 64, 3), 7, np.uint8)
assert (FramePainter(Box(0, 255, image.shape, np.uint8))(image) == image).all()
try:
    FramePainter(Box(-1, 1, (3,)))
except ImportError as error:
    assert "pip install 'wm_vec[plot]'" in str(error), error
else:
    raise SystemExit("no error")
del sys.modules["matplotlib"]
assert FramePainter(Box(-1, 1, (3,)))(np.zeros(3)).shape[2] == 3
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps global state"
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr
