"""Spaces as fields: shapes, bounds and their way through a checkpoint."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_vec import collect_transitions
from wm_vec.canvas import EnvSignature, UnsupportedSpaceError
from wm_vec.canvas.schema import SchemaError
from wm_vec.canvas.signature import MAX_DEPTH, space_fields, space_from_dict, space_to_dict

INF = math.inf


def space_field(space, role, **options):
    """The only field of a space, which goes by the role alone."""
    ((name, field),) = space_fields(space, role, **options).items()
    assert name == role
    return field


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
        assert float(np.float32(bound)) == bound, "the model's float32 holds the bound exactly"
    # None is given away: the next float32 outwards lies outside.
    assert float(np.nextafter(np.float32(inner_low), np.float32(-INF))) < low
    assert float(np.nextafter(np.float32(inner_high), np.float32(INF))) > high
    if inner_low < inner_high:
        assert low <= inner_low
        assert inner_high <= high
    assert inner_low <= inner_high, "where no float32 lies between, both are the one below"


def test_a_constant_number_is_its_own_bounds():
    field = space_field(Box(np.array([0.0, 1.0], np.float32), np.array([0.0, 2.0], np.float32)), "observation")
    assert (field.bounds("low"), field.bounds("high")) == ((0.0, 1.0), (0.0, 2.0))


@pytest.mark.parametrize(("low", "high"), [(1e31, 1e32), (-1e32, -1e31), (-INF, INF)])
def test_bounds_beyond_all_numbers_are_none(low, high):
    field = space_field(Box(low, high, (1,), np.float64), "observation")
    assert (field.bounds("low"), field.bounds("high")) == ((-INF,), (INF,))


@pytest.mark.parametrize(("space", "classes"), [(Discrete(4), 4), (Discrete(3, start=-1), 3), (Discrete(1), 1)])
def test_a_discrete_space_is_one_categorical_position(space, classes):
    field = space_field(space, "action", is_output=False)
    assert (field.num_positions, field.num_classes, field.is_output) == (1, classes, False)


@pytest.mark.parametrize(
    ("space", "classes", "h", "w"),
    [
        (MultiBinary(3), 2, 1, 3),
        (MultiBinary((2, 3)), 2, 2, 3),
        (MultiDiscrete([4, 4]), 4, 1, 2),
        (MultiDiscrete([[2], [2]], start=[[5], [7]]), 2, 2, 1),
    ],
)
def test_elements_with_as_many_classes_are_one_field(space, classes, h, w):
    field = space_field(space, "observation")
    assert (field.num_classes, field.h, field.w) == (classes, h, w)


HAND = Dict(
    {
        "cards": MultiDiscrete([13, 4, 1]),
        "bets": Tuple([Box(0.0, 5.0, (2,)), Dict({"all": Discrete(2)})]),
        "flags": MultiBinary(2),
    }
)


def test_parts_are_fields_by_keys_and_places():
    fields = space_fields(HAND, "observation")
    assert {path: (f.num_positions, f.num_classes) for path, f in fields.items()} == {
        "observation.bets.0": (2, None),  # a Dict sorts its keys
        "observation.bets.1.all": (1, 2),
        "observation.cards.0": (1, 13),
        "observation.cards.1": (1, 4),
        "observation.cards.2": (1, 1),
        "observation.flags": (2, 2),
    }
    assert fields["observation.bets.0"].bounds("high") == (5.0, 5.0)


def nested(depth):
    return Discrete(2) if depth == 0 else Tuple([nested(depth - 1)])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Text(4), r"observation space is Text.*takes Box, Discrete, MultiDiscrete and MultiBinary"),
        (Dict({"a": Sequence(Discrete(2))}), r"observation\.a space is Sequence"),
        (Tuple([Graph(Discrete(2), None)]), r"observation\.0 space is Graph"),
        (Box(0.0, 1.0, (0,)), "no elements"),
        (Box(0.0, 1.0, (3, 0)), "no elements"),
        (Tuple([]), "no elements"),
        (Dict({"a.b": Discrete(2), "a": Dict({"b": Discrete(3)})}), r"name 'observation\.a\.b': rename one"),
        (nested(MAX_DEPTH + 1), "at most 8 deep"),
        (Discrete(4097), "has 4097 classes; a position takes at most 4096"),
        (MultiDiscrete([3, 5000]), "has 5000 classes; a position takes at most 4096"),
        (Dict({("a", 1): Discrete(2)}), "keys of Dict spaces must be strings"),
    ],
)
def test_spaces_that_a_canvas_cannot_take(space, message):
    with pytest.raises(UnsupportedSpaceError, match=message):
        space_fields(space, "observation")


@pytest.mark.parametrize(
    "space", [Tuple([Discrete(2)]), Dict({"a": Discrete(2)}), Text(3), MultiDiscrete([2, 3], start=[0, 1])]
)
def test_actions_that_a_canvas_cannot_take(space):
    with pytest.raises(UnsupportedSpaceError, match="action space is"):
        EnvSignature(Discrete(2), space).schema(32)


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


def test_a_world_of_parts_has_a_field_for_each():
    assert EnvSignature.of_env("Blackjack-v1").schema(32).field_names == [
        *("observation.0", "observation.1", "observation.2"),
        *("action", "reward", "terminated"),
    ]


class Still(gym.Env):
    observation_space, action_space = MultiBinary(2), MultiBinary(3)

    def __init__(self, closes=None):
        self.closes = closes

    def close(self):
        self.closes.append(self)


def test_an_env_that_is_made_already_is_left_open():
    closes = []
    signature = EnvSignature.of_env(gym.wrappers.TimeLimit(Still(closes), 30))
    assert (signature.max_episode_steps, signature.env_id) == (30, None)
    assert signature.action_space == MultiBinary(3)
    assert closes == []
    assert EnvSignature.of_env(Still, {"closes": closes}).max_episode_steps is None
    assert len(closes) == 1, "one that was made here is closed"


def test_of_envs_from_gymnasium_the_id_is_known_unless_they_are_wrapped():
    env = gym.make("CartPole-v1", max_episode_steps=7)
    assert EnvSignature.of_env(env) == EnvSignature(env.observation_space, env.action_space, 7, "CartPole-v1")
    assert EnvSignature.of_env(gym.wrappers.FlattenObservation(gym.make("Blackjack-v1"))).env_id is None


@pytest.mark.parametrize(
    ("env", "env_kwargs", "message"),
    [
        (3, {}, "registered Gymnasium id, a gymnasium.Env, or a callable that makes one; got int"),
        (Still(), {"closes": []}, "env_kwargs go with an id or a callable"),
        (lambda: 3, {}, "must make a gymnasium.Env, got int"),
    ],
)
def test_what_is_no_environment(env, env_kwargs, message):
    with pytest.raises(TypeError, match=message):
        collect_transitions(env, 3, env_kwargs=env_kwargs)


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
    MultiBinary(3),
    MultiBinary((2, 3)),
    MultiDiscrete([2, 3], start=[-1, 4]),
    MultiDiscrete(np.array([[2, 3]], np.int32), dtype=np.int32),
    HAND,
    Dict([("z", Discrete(2)), ("a", Tuple([]))]),
    nested(MAX_DEPTH),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space):
    again = space_from_dict(json.loads(json.dumps(space_to_dict(space), allow_nan=False)))
    assert again == space
    assert again.dtype == space.dtype
    assert list(getattr(again, "spaces", ())) == list(getattr(space, "spaces", ())), "parts in the same order"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (space_to_dict(nested(MAX_DEPTH + 1)), "deeper than 8"),
        ({"kind": "multi_binary", "shape": [10**9]}, r"shape \[1000000000\]; at most 4096"),
        ({"kind": "box", "shape": [2**40], "dtype": "float32", "low": [], "high": []}, "at most 4096"),
        ({"kind": "graph"}, "kind 'graph'"),
    ],
)
def test_saved_spaces_are_bounded(data, message):
    with pytest.raises(SchemaError, match=message):
        space_from_dict(data)


def test_signatures_survive_json():
    signature = EnvSignature.of_env("Pendulum-v1")
    assert EnvSignature.from_dict(json.loads(json.dumps(signature.to_dict(), allow_nan=False))) == signature
    endless = EnvSignature(Discrete(2), Discrete(2))
    assert EnvSignature.from_dict(json.loads(json.dumps(endless.to_dict()))) == endless
