"""Spaces as fields: shapes, bounds and their way through a checkpoint."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_vec.canvas import EnvSignature, UnsupportedSpaceError
from wm_vec.canvas.signature import space_field, space_from_dict, space_to_dict

INF = math.inf


@pytest.mark.parametrize(
    ("shape", "h", "w"), [((), 1, 1), ((1,), 1, 1), ((5,), 1, 5), ((3, 4), 3, 4), ((2, 3, 4), 6, 4)]
)
def test_a_box_takes_one_position_per_number(shape, h, w):
    field = space_field(Box(-1.0, 1.0, shape), "observation")
    assert (field.h, field.w) == (h, w)
    assert field.bounds("low") == (-1.0,) * (h * w)
    assert field.num_classes is None


def test_bounds_lie_row_major():
    low = np.arange(6, dtype=np.float32).reshape(2, 3)
    field = space_field(Box(low, low + 0.5), "observation")
    assert field.bounds("low") == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert field.bounds("high") == (0.5, 1.5, 2.5, 3.5, 4.5, 5.5)


def test_bounds_at_the_end_of_float32_are_none():
    field = space_field(gym.make("CartPole-v1").observation_space, "observation")
    assert field.bounds("high")[1] == INF
    assert field.bounds("low")[3] == -INF
    assert field.bounds("high")[0] == pytest.approx(4.8)


BOUND = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(BOUND, BOUND)
def test_float64_bounds_stay_inside_after_float32(a, b):
    low, high = min(a, b), max(a, b)
    space = Box(low, high, (1,), np.float64)
    field = space_field(space, "observation")
    (inner_low,), (inner_high,) = field.bounds("low"), field.bounds("high")
    for bound in (inner_low, inner_high):
        if math.isfinite(bound):
            assert float(np.float32(bound)) == bound, "the model's float32 holds the bound exactly"
    if math.isfinite(inner_low):
        assert low <= inner_low < inner_high <= high
        # And none is given away: the next float32 outwards lies outside.
        assert float(np.nextafter(np.float32(inner_low), np.float32(-INF))) < low
        assert float(np.nextafter(np.float32(inner_high), np.float32(INF))) > high


def test_a_constant_number_needs_no_bounds():
    field = space_field(Box(np.array([0.0, 1.0], np.float32), np.array([0.0, 2.0], np.float32)), "observation")
    assert field.bounds("low") == (-INF, 1.0)


@pytest.mark.parametrize(("space", "classes"), [(Discrete(4), 4), (Discrete(3, start=-1), 3), (Discrete(1), 2)])
def test_a_discrete_space_is_one_categorical_position(space, classes):
    field = space_field(space, "action", is_output=False)
    assert (field.num_positions, field.num_classes, field.is_output) == (1, classes, False)


@pytest.mark.parametrize(
    "space",
    [
        MultiDiscrete([2, 3]),
        MultiBinary(3),
        Dict({"a": Discrete(2)}),
        Tuple([Discrete(2)]),
        Text(4),
        Box(0.0, 1.0, (0,)),
        Box(0.0, 1.0, (3, 0)),
    ],
)
def test_spaces_that_a_canvas_cannot_take(space):
    with pytest.raises(UnsupportedSpaceError, match="observation"):
        space_field(space, "observation")


def test_images_are_refused_with_their_size():
    signature = EnvSignature(Box(0, 255, (96, 96, 3), np.uint8), Discrete(2), env_id="Pixels-v0")
    with pytest.raises(UnsupportedSpaceError, match=r"Pixels-v0 needs 27651 positions.*4096"):
        signature.schema(32)


def test_the_four_fields_of_an_environment():
    signature = EnvSignature.of_env("CartPole-v1")
    bound = signature.schema(32)
    assert bound.field_names == ["observation", "action", "reward", "terminated"]
    assert bound.layout.num_positions == 7
    assert signature.max_episode_steps == 500
    assert signature.env_id == "CartPole-v1"
    assert not bound["action"].spec.is_output
    assert not bound["reward"].spec.is_input
    assert bound["terminated"].spec.num_classes == 2


def test_unknown_environments_are_gymnasiums_to_refuse():
    with pytest.raises(gym.error.Error, match="CartPoleX"):
        EnvSignature.of_env("CartPoleX-v1")


SPACES = [
    Discrete(5),
    Discrete(3, start=7),
    Discrete(2, start=-1),
    Box(-1.0, 1.0, ()),
    Box(-INF, INF, (2, 3)),
    Box(np.array([-INF, 0.1]), np.array([3.0, INF]), dtype=np.float64),
    Box(0.1, 0.7, (2,), np.float32),
    Box(0, 255, (2, 2), np.uint8),
    Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64),
    Box(0, 2**62 + 1, (1,), np.int64),
    Box(-1.0, 1.0, (1,), np.float16),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space):
    again = space_from_dict(json.loads(json.dumps(space_to_dict(space), allow_nan=False)))
    assert again == space
    assert again.dtype == space.dtype


def test_signatures_survive_json():
    signature = EnvSignature.of_env("Pendulum-v1")
    assert EnvSignature.from_dict(json.loads(json.dumps(signature.to_dict(), allow_nan=False))) == signature
    endless = EnvSignature(Discrete(2), Discrete(2))
    assert EnvSignature.from_dict(json.loads(json.dumps(endless.to_dict()))) == endless
