"""Plots of observations: what is seen in the pixels follows the values, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from tests.render.pixels import BLUE, RED, changed, inked, rows_and_columns
from wm_vec.render.frames import FramePainter, observation_frame
from wm_vec.render.sheet import Block

UNBOUNDED = Box(-np.inf, np.inf, (3,))


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
