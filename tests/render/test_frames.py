"""Plots of observations: what is seen in the pixels follows the values, and nothing else moves."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from wm_vec.render.frames import FramePainter, observation_frame, value_frame
from wm_vec.render.sheet import Block

BLUE, RED = (0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)
UNBOUNDED = Box(-np.inf, np.inf, (3,))


def inked(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a frame has exactly this colour, ``(H, W)``."""
    return (frame == colour).all(-1)


def rows_and_columns(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is set."""
    y, x = np.nonzero(mask)
    return int(y.min()), int(y.max()), int(x.min()), int(x.max())


def changed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one != other).any(-1)


def test_a_bar_grows_with_its_value() -> None:
    painter = FramePainter(Box(-1, 1, (2,)))
    quarter, half, whole = (inked(painter(np.array([x, 0.0])), BLUE).sum() for x in (0.25, 0.5, 1.0))
    assert half / quarter == pytest.approx(2, rel=0.05)
    assert whole / quarter == pytest.approx(4, rel=0.05)


def test_bars_lie_in_order_and_the_negative_ones_red_to_the_left() -> None:
    frame = observation_frame(np.array([0.5, -0.5]), Box(-1, 1, (2,)))
    _, blue_bottom, blue_left, blue_right = rows_and_columns(inked(frame, BLUE))
    red_top, _, red_left, red_right = rows_and_columns(inked(frame, RED))
    assert blue_bottom < red_top
    assert red_right < blue_left
    assert blue_right - blue_left == pytest.approx(red_right - red_left, abs=1)


def test_bars_start_at_the_end_that_is_nearest_to_zero() -> None:
    painter = FramePainter(Box(10, 20, (1,)))
    assert not inked(painter(np.array([10.0])), BLUE).any()
    assert inked(painter(np.array([20.0])), BLUE).sum() > inked(painter(np.array([15.0])), BLUE).sum() > 0


def test_each_value_has_the_scale_of_its_own_bounds() -> None:
    space = Box(np.array([-1.0, -100.0]), np.array([1.0, 100.0]), dtype=np.float64)
    frame = inked(observation_frame(np.array([0.5, 50.0]), space), BLUE)
    widths = {int(row.sum()) for row in frame if row.any()}
    assert len(widths) == 1
    # The ends of the second axis are written too, below its bar.
    narrower = Box(np.array([-1.0, -100.0]), np.array([1.0, 500.0]), dtype=np.float64)
    top, _, _, _ = rows_and_columns(changed(*(observation_frame(np.zeros(2), box) for box in (space, narrower))))
    assert top > rows_and_columns(frame)[0] + 20


def test_an_open_value_beside_bounded_ones_grows_alone() -> None:
    painter = FramePainter(Box(np.array([-1.0, -np.inf]), np.array([1.0, np.inf]), dtype=np.float64))
    before = painter(np.array([0.5, 0.0]))
    painter(np.array([0.5, 4000.0]))
    _, bottom, _, _ = rows_and_columns(inked(before, BLUE))
    after = painter(np.array([0.5, 0.0]))
    np.testing.assert_array_equal(before[: bottom + 1], after[: bottom + 1])
    assert changed(before, after).any(), "the second axis now says 5000"


def test_only_bars_and_numbers_move_within_finite_bounds() -> None:
    painter = FramePainter(Box(-1, 1, (4,)))
    frames = [painter(x) for x in np.random.default_rng(0).uniform(-1, 1, (20, 4))]
    moved = np.any([changed(frames[0], frame) for frame in frames], axis=0)
    _, bottom, left, right = rows_and_columns(moved)
    height, width = moved.shape
    # Names on the left and the axis below stay.
    assert left > 20
    assert right < width
    assert bottom < height - 20
    # Far beyond the bounds the bar ends where the axis ends.
    at_the_end, beyond = (rows_and_columns(inked(painter(np.full(4, x)), BLUE)) for x in (1.0, 50.0))
    assert at_the_end == beyond


def test_numbers_are_written_beside_the_bars() -> None:
    painter = FramePainter(Box(-1, 1, (1,)))
    # Beyond the bounds the bars are alike, only the numbers differ.
    one, other = painter(np.array([50.0])), painter(np.array([60.0]))
    top, bottom, left, _ = rows_and_columns(changed(one, other))
    bar_top, bar_bottom, _, bar_right = rows_and_columns(inked(one, BLUE))
    assert left > bar_right
    assert bar_top <= top < bottom <= bar_bottom


def test_the_ends_of_bars_cover_parts_of_pixels() -> None:
    frame = np.full((3, 8, 3), 255, np.uint8)
    Block(left=5.0, top=1.0, width=-2.75, height=1.0, colour="#000000").paint(frame)
    # From 2.25 to 5: three quarters of pixel 2, all of 3 and 4.
    assert frame[1, :, 0].tolist() == [255, 255, 64, 0, 0, 255, 255, 255]
    assert (frame[[0, 2]] == 255).all()


def test_an_open_axis_grows_and_stays() -> None:
    painter = FramePainter(UNBOUNDED)
    small, large = np.array([0.4, 0.0, 0.0]), np.array([0.0, 300.0, 0.0])
    early = painter(small)
    assert painter(large).shape == early.shape
    late = painter(small)
    assert inked(late, BLUE).sum() < 0.05 * inked(early, BLUE).sum()
    np.testing.assert_array_equal(painter(small), late)
    np.testing.assert_array_equal(FramePainter(UNBOUNDED)(small), early)


def test_half_open_axes_keep_their_finite_end() -> None:
    painter = FramePainter(Box(0, np.inf, (1,)))
    before = painter(np.array([0.05]))
    after = painter(np.array([4.0]))
    _, _, left_before, _ = rows_and_columns(inked(before, BLUE))
    _, _, left_after, right = rows_and_columns(inked(after, BLUE))
    assert left_before == left_after
    # The axis now ends at 5, so the bar covers four fifths of it.
    _, _, _, end = rows_and_columns(inked(painter(np.array([5.0])), BLUE))
    assert (right - left_after) / (end - left_after) == pytest.approx(0.8, abs=0.02)


def test_a_batch_has_the_same_axes_for_all() -> None:
    small, large = np.array([0.4, 0.0, 0.0]), np.array([0.0, 300.0, 0.0])
    painter = FramePainter(UNBOUNDED)
    frames = painter.batch([small, large])
    again = painter.batch([small, large])
    for one, other in zip(frames, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert inked(frames[0], BLUE).sum() < 0.1 * inked(FramePainter(UNBOUNDED)(small), BLUE).sum()
    assert painter.batch([]) == ()


def test_values_that_are_no_numbers_are_shown_as_such() -> None:
    painter = FramePainter(UNBOUNDED)
    plain = painter(np.array([0.05, 0.0, 0.0]))
    broken = painter(np.array([np.nan, 0.0, np.inf]))
    assert broken.shape == plain.shape
    top, bottom, _, _ = rows_and_columns(inked(plain, BLUE))
    assert not inked(broken, BLUE)[top : bottom + 1].any()
    np.testing.assert_array_equal(painter(np.array([0.05, 0.0, 0.0])), plain)
    grid = FramePainter(Box(-5, np.inf, (9, 9)))
    assert grid(np.full((9, 9), np.nan)).shape == grid(np.full((9, 9), 1e38)).shape


def test_a_line_shows_height_as_value() -> None:
    painter = FramePainter(Box(0, 30, (64,)))
    middles = []
    for value in (5.0, 15.0, 25.0):
        frame = painter(np.full(64, value)).astype(int)
        # The line's edges are soft; the area below it is far lighter.
        top, bottom, left, right = rows_and_columns((np.abs(frame - BLUE) < 80).all(-1))
        assert right - left > 200
        middles.append((top + bottom) / 2)
    assert middles[0] - middles[1] == pytest.approx(middles[1] - middles[2], abs=1)
    assert middles[0] - middles[2] > 80


def test_the_cells_of_a_heat_map_lie_in_rows_and_columns() -> None:
    painter = FramePainter(Box(-1, 1, (6, 8)))
    plain = painter(np.zeros((6, 8)))

    def place(row: int, column: int) -> tuple[int, int, int, int]:
        values = np.zeros((6, 8))
        values[row, column] = 1
        return rows_and_columns(changed(plain, painter(values)))

    corner, right, below, far = place(0, 0), place(0, 1), place(1, 0), place(5, 7)
    side = corner[1] - corner[0] + 1
    assert side == pytest.approx(corner[3] - corner[2] + 1, abs=1)
    assert right[2] - corner[2] == pytest.approx(side, abs=1)
    assert below[0] - corner[0] == pytest.approx(side, abs=1)
    assert far[0] - corner[0] == pytest.approx(5 * side, abs=5)
    assert far[2] - corner[2] == pytest.approx(7 * side, abs=7)


@pytest.mark.parametrize("shape", [(5, 9, 9), (9, 9, 5)])
def test_channels_are_tiles(shape: tuple[int, ...]) -> None:
    painter = FramePainter(Box(-1, 1, shape))
    plain = painter(np.zeros(shape))
    boxes = []
    for channel in range(5):
        values = np.zeros(shape)
        values[(channel,) if shape[0] == 5 else (..., channel)] = 1
        boxes.append(changed(plain, painter(values)))
    assert np.sum(boxes, axis=0).max() == 1
    areas = [box.sum() for box in boxes]
    assert min(areas) > 0.9 * max(areas) > 0


def test_a_class_lights_its_cell() -> None:
    painter = FramePainter(Discrete(4, start=-1))
    centres = []
    for value in range(-1, 3):
        lit = inked(painter(np.int64(value)), BLUE)
        centres.append(np.nonzero(lit)[1].mean())
    assert np.diff(centres) == pytest.approx([np.diff(centres)[0]] * 3, abs=2)
    assert centres[1] - centres[0] > 20


def test_many_classes_are_a_bar() -> None:
    painter = FramePainter(Discrete(500))
    quarter, half = (inked(painter(np.int64(x)), BLUE).sum() for x in (125, 250))
    assert half / quarter == pytest.approx(2, rel=0.05)


def test_switches_and_several_classes() -> None:
    painter = FramePainter(MultiBinary(20))
    lit = [inked(painter(np.arange(20) < k), BLUE).sum() for k in range(21)]
    assert lit[0] == 0
    assert (np.diff(lit) > 0).all()
    painter = FramePainter(MultiDiscrete([3, 5, 2]))
    plain = painter(np.array([0, 0, 0]))
    rows = [rows_and_columns(changed(plain, painter(np.array(v))))[:2] for v in ([1, 0, 0], [0, 4, 0], [0, 0, 1])]
    assert rows[0][1] < rows[1][0]
    assert rows[1][1] < rows[2][0]


def test_every_entry_has_a_panel_of_its_own() -> None:
    space = Dict(
        speed=Box(-1, 1, (2,)),
        mode=Discrete(3),
        lidar=Box(0, 1, (40,)),
        state=Dict(grid=Box(-1, 1, (9, 9)), contact=MultiBinary(4), wheels=Tuple((Box(-1, 1, (1,)), Discrete(300)))),
    )
    rest = {
        "speed": np.zeros(2),
        "mode": np.int64(0),
        "lidar": np.zeros(40),
        "state": {"grid": np.zeros((9, 9)), "contact": np.zeros(4, np.int8), "wheels": (np.zeros(1), np.int64(0))},
    }
    other = [
        {**rest, "speed": np.ones(2)},
        {**rest, "mode": np.int64(2)},
        {**rest, "lidar": np.ones(40)},
        {**rest, "state": {**rest["state"], "grid": np.ones((9, 9))}},
        {**rest, "state": {**rest["state"], "contact": np.ones(4, np.int8)}},
        {**rest, "state": {**rest["state"], "wheels": (np.ones(1), np.int64(0))}},
        {**rest, "state": {**rest["state"], "wheels": (np.zeros(1), np.int64(299))}},
    ]
    painter = FramePainter(space)
    plain = painter(rest)
    assert plain.shape[0] % 2 == plain.shape[1] % 2 == 0
    covered = np.zeros(plain.shape[:2], int)
    for observation in other:
        top, bottom, left, right = rows_and_columns(changed(plain, painter(observation)))
        covered[top : bottom + 1, left : right + 1] += 1
    assert covered.max() == 1, "panels overlap"


def test_titles_are_the_keys() -> None:
    one = observation_frame({"a": np.zeros(2)}, Dict(a=Box(-1, 1, (2,))))
    other = observation_frame({"b": np.zeros(2)}, Dict(b=Box(-1, 1, (2,))))
    _, bottom, _, right = rows_and_columns(changed(one, other))
    assert bottom < 24
    assert right < 40


def test_names_of_values_are_written() -> None:
    space, values = Box(-1, 1, (2,)), np.array([0.5, -0.5])
    named = FramePainter(space, ["pole angle", "speed"])(values)
    also = FramePainter(space, ["pole angle", "spend"])(values)
    _, _, _, right = rows_and_columns(changed(named, also))
    assert right < rows_and_columns(inked(named, RED))[2]
    with pytest.raises(ValueError, match="1 names"):
        FramePainter(space, ["speed"])
    with pytest.raises(ValueError, match="each value of a Box"):
        FramePainter(Discrete(2), ["a", "b"])


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
        observation_frame(observation, space)


def test_a_refused_observation_leaves_the_painter_as_it_was() -> None:
    painter = FramePainter(Tuple((UNBOUNDED, Discrete(2))))
    fine = (np.array([0.1, 0.2, 0.3]), np.int64(1))
    frame = painter(fine)
    with pytest.raises(ValueError, match="classes of"):
        painter((np.full(3, 1e5), np.int64(7)))
    np.testing.assert_array_equal(painter(fine), frame)


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


@pytest.mark.parametrize("kind", ["unbounded", "long", "grid", "large multibinary", "many entries"])
def test_a_frame_per_step_costs_little(kind: str) -> None:
    space = EVERY_KIND[kind]
    painter = FramePainter(space)
    space.seed(1)
    observations = [space.sample() for _ in range(20)]
    painter.batch(observations)  # the axes have grown
    took = []
    for observation in observations:
        start = time.perf_counter()
        painter(observation)
        took.append(time.perf_counter() - start)
    assert np.median(took) < 0.03


def test_named_values_without_a_space() -> None:
    few = {"cart.position": np.array([1.0]), "pole": np.array([-2.0, 0.5])}
    frame = value_frame(few)
    assert frame.shape == (240, 320, 3)
    assert inked(frame, BLUE).any()
    assert inked(frame, RED).any()
    assert changed(frame, value_frame({**few, "cart.position": np.array([0.5])})).any()
    many = {"field a": np.zeros(30), "field b": np.zeros((3, 4)), "field c": np.zeros(1)}
    plain = value_frame(many)
    boxes = [changed(plain, value_frame({**many, key: many[key] + 0.05})) for key in many]
    assert all(box.any() for box in boxes)
    assert np.sum(boxes, axis=0).max() == 1


def test_without_matplotlib_images_work_and_plots_name_the_extra() -> None:
    script = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
from gymnasium.spaces import Box
from wm_vec.render.frames import FramePainter, observation_frame, value_frame
from wm_vec.render.sheet import Block
image = np.full((64, 64, 3), 7, np.uint8)
assert (observation_frame(image, Box(0, 255, image.shape, np.uint8)) == image).all()
painter = FramePainter(Box(-1, 1, (3,)))
for draw in (lambda: painter(np.zeros(3)), lambda: value_frame({"a": np.zeros(1)})):
    try:
        draw()
    except ImportError as error:
        assert "pip install 'wm_vec[plot]'" in str(error), error
    else:
        raise SystemExit("no error")
del sys.modules["matplotlib"]
assert painter(np.zeros(3)).shape == (240, 320, 3)
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps global state"
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "done", done.stderr
