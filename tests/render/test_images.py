"""Image-like observations come back pixel for pixel, whatever their layout."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from wm_vec.render.frames import FramePainter
from wm_vec.render.images import find_image

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (64, 72, 3), dtype=np.uint8)
OLD = RNG.integers(0, 256, (64, 72, 3), dtype=np.uint8)
GRAY, OLD_GRAY = RGB[..., 0], OLD[..., 0]
GRAY_RGB = np.stack([GRAY, GRAY, GRAY], axis=-1)


def first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack([image[..., c] for c in range(image.shape[-1])]))


LAYOUTS = {
    "H W 3": (RGB, RGB),
    "3 H W": (first(RGB), RGB),
    "H W 4, RGBA": (np.concatenate([RGB, OLD[..., :1]], axis=-1), RGB),
    "H W": (GRAY, GRAY_RGB),
    "H W 1": (GRAY[..., None], GRAY_RGB),
    "1 H W": (GRAY[None], GRAY_RGB),
    "4 H W, stacked": (np.stack([OLD_GRAY, OLD_GRAY, OLD_GRAY, GRAY]), GRAY_RGB),
    "2 H W, stacked": (np.stack([OLD_GRAY, GRAY]), GRAY_RGB),
    "H W 5, stacked": (np.stack([OLD_GRAY] * 4 + [GRAY], axis=-1), GRAY_RGB),
    "6 H W, stacked": (np.concatenate([first(OLD), first(RGB)]), RGB),
    "12 H W, stacked": (np.concatenate([first(OLD)] * 3 + [first(RGB)]), RGB),
    "H W 9, stacked": (np.concatenate([OLD, OLD, RGB], axis=-1), RGB),
    "4 H W 3, stacked frames": (np.stack([OLD, OLD, OLD, RGB]), RGB),
    "2 3 H W, stacked frames": (np.stack([first(OLD), first(RGB)]), RGB),
    "4 H W 1, stacked frames": (np.stack([OLD_GRAY] * 3 + [GRAY])[..., None], GRAY_RGB),
}


def bytes_space(shape: tuple[int, ...]) -> Box:
    return Box(0, 255, shape, np.uint8)


def unit_space(shape: tuple[int, ...], dtype: type = np.float32) -> Box:
    return Box(0, 1, shape, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_every_layout_comes_back_pixel_for_pixel(layout: str, dtype: type) -> None:
    array, expected = LAYOUTS[layout]
    space = bytes_space(array.shape)
    if dtype is not np.uint8:
        array, space = (array / 255).astype(dtype), unit_space(array.shape, dtype)
    assert find_image(space) == ()
    before = array.copy()
    frame = FramePainter(space)(array)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, expected)
    frame[:] = 0
    np.testing.assert_array_equal(array, before)


def test_gymnasiums_own_frame_stack_shows_the_newest_frame() -> None:
    import gymnasium as gym
    from gymnasium.wrappers import FrameStackObservation

    class Pictures(gym.Env):
        observation_space, action_space = bytes_space(RGB.shape), Discrete(2)

        def reset(self, *, seed=None, options=None):
            return OLD, {}

        def step(self, action):
            return RGB, 0.0, False, False, {}

    env = FrameStackObservation(Pictures(), 4)
    env.reset()
    observation = env.step(0)[0]
    np.testing.assert_array_equal(FramePainter(env.observation_space)(observation), RGB)


def test_small_images_grow_by_whole_factors_and_sides_are_even() -> None:
    small = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    frame = FramePainter(bytes_space(small.shape))(small)
    # 13 is the least factor that brings 5 to 64; 65 x 91 are odd.
    assert frame.shape == (66, 92, 3)
    for y in range(65):
        for x in range(91):
            assert (frame[y, x] == small[y // 13, x // 13]).all()
    np.testing.assert_array_equal(frame[65, :91], frame[64, :91])
    np.testing.assert_array_equal(frame[:, 91], frame[:, 90])


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        ((84, 84), (84, 84, 3)),
        ((210, 160, 3), (210, 160, 3)),
        ((3, 65, 97), (66, 98, 3)),
        ((32, 32), (64, 64, 3)),
        ((63, 64), (126, 128, 3)),
        ((2, 600), (2, 600, 3)),  # scaled up, it would be longer than anybody's screen
        ((3, 4, 4), (64, 64, 3)),
        ((4, 4, 3), (64, 64, 3)),
        ((1, 28, 28), (84, 84, 3)),
    ],
)
def test_sizes(shape: tuple[int, ...], frame: tuple[int, ...]) -> None:
    assert FramePainter(bytes_space(shape))(np.zeros(shape, np.uint8)).shape == frame


def test_fractions_are_rounded_and_numbers_beyond_the_range_clipped() -> None:
    image = np.zeros((64, 64), np.float32)
    image[0, :6] = [np.nan, -3, 7, np.inf, 0.31, 0.999]  # 79.05 and 254.745
    frame = FramePainter(unit_space((64, 64)))(image)
    assert frame[0, :6, 0].tolist() == [0, 0, 255, 255, 79, 255]


IMAGE, OTHER = bytes_space((64, 64, 3)), Box(-1, 1, (3,))
SPACES = [
    (Dict(camera=IMAGE, image=OTHER, pixels=IMAGE), ("pixels",)),
    (Dict(rgb=IMAGE, image=IMAGE, pixels=IMAGE), ("image",)),
    (Dict(camera=IMAGE, rgb=IMAGE), ("rgb",)),
    (Dict(position=OTHER, view=IMAGE), ("view",)),
    (Dict(position=OTHER, a=Dict(speed=OTHER, lens=IMAGE)), ("a", "lens")),
    (Dict(aaa=IMAGE, zzz=Dict(rgb=IMAGE)), ("zzz", "rgb")),
    (Tuple((OTHER, IMAGE)), (1,)),
    (Dict(camera=IMAGE, pixels=Tuple((IMAGE, IMAGE))), ("pixels", 0)),
    (unit_space((8, 8)), ()),
    (Discrete(4), None),
    (OTHER, None),
    (Dict(position=OTHER, mode=Discrete(2)), None),
    (Box(0, 1, (64, 64, 3), np.uint8), None),
    (Box(-1, 1, (64, 64, 3)), None),
    (Box(0, 255, (64, 64, 3), np.int16), None),
    (Box(0, 255, (128,), np.uint8), None),
    (Box(0, 1, (5, 3)), None),  # features
    (Box(0, 1, (10, 10, 6)), None),  # a small grid of six features
    (Box(0, 1, (10, 10, 4)), None),
    (Box(0, 255, (64, 64, 64), np.uint8), None),
    (Box(0, 255, (2, 2, 64, 64, 3), np.uint8), None),
    (Box(0, 255, (0, 64, 64, 3), np.uint8), None),
]


@pytest.mark.parametrize(("space", "path"), SPACES)
def test_which_entry_is_the_image(space, path) -> None:
    assert find_image(space) == path


def test_the_image_of_nested_spaces_is_shown() -> None:
    space = Dict(position=OTHER, parts=Tuple((Discrete(3), Dict(view=bytes_space(RGB.shape)))))
    observation = {"position": np.zeros(3, np.float32), "parts": (np.int64(1), {"view": RGB})}
    np.testing.assert_array_equal(FramePainter(space)(observation), RGB)
    frames = [FramePainter(space)(o) for o in (observation, {**observation, "parts": (np.int64(1), {"view": OLD})})]
    np.testing.assert_array_equal(frames[0], RGB)
    np.testing.assert_array_equal(frames[1], OLD)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (np.zeros((64, 63, 3), np.uint8), r"\(64, 64, 3\).*got shape \(64, 63, 3\), uint8"),
        (np.zeros((3, 64, 64), np.uint8), r"\(64, 64, 3\).*got shape \(3, 64, 64\)"),
        ({"image": np.zeros((64, 64, 3))}, "got a dict"),
        (None, "got shape"),
    ],
)
def test_an_image_of_another_shape_is_refused(observation, words) -> None:
    with pytest.raises(ValueError, match=words):
        FramePainter(IMAGE)(observation)
    with pytest.raises(ValueError, match=r"observation\['view'\].*" + words):
        FramePainter(Dict(view=IMAGE))({"view": observation})
