"""Real environments as ids, envs and callables, with observations of several parts: collected, learned, compared."""

from __future__ import annotations

import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from torch import nn

from wm_vec import ModelConfig, WorldModel, collect_transitions
from wm_vec.canvas import EnvSignature
from wm_vec.train.collect import real_steps
from wm_vec.train.data import DataError, flat_values
from wm_vec.train.episodes import Imagination, real_episodes
from wm_vec.train.evaluation import EvaluationError, evaluate_world

SMALL = {"n_transitions": 60, "n_starts": 4, "horizon": 3}


class Clock(gym.Env):
    """Shows the time: the hour (1 to 12) and the seconds as classes, the sum of all actions as a number."""

    observation_space = Dict(
        {
            "time": Tuple((Discrete(12, start=1), MultiDiscrete([6, 10]))),
            "sum": Box(-np.inf, np.inf, (1,), np.float32),
        }
    )
    action_space = Discrete(3, start=-1)

    def __init__(self, day: int = 7) -> None:
        self.day, self.elapsed = day, 0

    def seen(self):
        return {
            "time": (np.int64(self.hour), np.array(divmod(self.elapsed % 60, 10))),
            "sum": np.array([self.sum], np.float32),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hour, self.elapsed, self.sum = int(self.np_random.integers(1, 13)), 0, 0.0
        return self.seen(), {}

    def step(self, action):
        self.elapsed, self.sum = self.elapsed + 1, self.sum + int(action)
        return self.seen(), self.sum, self.elapsed == self.day, False, {}


def same(one, other):
    assert set(one.keys(True, True)) == set(other.keys(True, True))
    return all(torch.equal(one[key], other[key]) for key in one.keys(True, True))


def test_ids_envs_and_callables_give_the_same_steps():
    options = {"seed": 3, "num_envs": 4}
    by_id = collect_transitions("Blackjack-v1", 50, env_kwargs={"natural": True}, **options)
    made = gym.make("Blackjack-v1", natural=True)
    assert same(by_id, collect_transitions(made, 50, **options))
    assert same(by_id, collect_transitions(lambda: gym.make("Blackjack-v1", natural=True), 50, **options))
    kwargs = {"natural": True, "sab": True}
    by_kwargs = collect_transitions(gym.envs.toy_text.BlackjackEnv, 50, env_kwargs=kwargs, **options)
    assert same(by_id, by_kwargs)


def test_an_env_itself_is_left_as_it_is():
    env = gym.wrappers.TimeLimit(Clock(), 5)
    env.reset(seed=0)
    env.step(1)
    steps = collect_transitions(env, 40, num_envs=3)
    assert bool(steps["next", "truncated"].any()), "its wrappers count"
    assert (env.unwrapped.elapsed, env.unwrapped.sum) == (1, 1.0)


def test_parts_stand_by_name_and_episodes_end_before_any_reset():
    steps = collect_transitions(Clock, 60, num_envs=3)
    assert steps["observation", "time", "0"].dtype == steps["observation", "time", "1"].dtype == torch.int64
    assert steps["observation", "sum"].shape == (60, 1)
    ended = steps["next", "terminated"][:, 0]
    assert steps["next", "observation", "time", "1"][ended].tolist() == [[0, 7]] * 6
    assert steps["observation", "time", "1"][steps["is_init"][:, 0]].unique().tolist() == [0]
    moved = steps["next", "observation", "sum"] - steps["observation", "sum"]
    assert torch.equal(moved[:, 0], steps["action"].float())


def test_parts_lie_on_the_canvas_in_the_order_of_their_fields():
    world = WorldModel.from_env(Clock)
    names = ["observation.sum", "observation.time.0", "observation.time.1.0", "observation.time.1.1"]
    assert world.bound.field_names == [*names, "action", "reward", "terminated"]
    steps = collect_transitions(Clock, 30, num_envs=2)
    data = world.as_data(steps)
    for columns, part, first in ((0, "sum", 0), (1, ("time", "0"), 1), ([2, 3], ("time", "1"), 0)):
        key = ("observation", *((part,) if isinstance(part, str) else part))
        expected = steps[key].reshape(30, -1) - first
        assert torch.equal(data.values[:, columns].reshape(30, -1), expected.float())
        assert torch.equal(data.next_values[:, columns].reshape(30, -1), steps["next", *key].reshape(30, -1) - first)
    assert torch.equal(data.values[:, 4], steps["action"] + 1.0)


def test_policies_see_the_structure():
    def by_hour(observation):
        assert observation["time"][1].shape == (3, 2)
        return np.where(observation["time"][0] > 6, 1, -1)

    class ByHour(nn.Module):
        def forward(self, observation):
            assert observation["sum"].dtype is torch.float32
            return torch.where(observation["time"][0] > 6, 1, -1)

    options = {"seed": 1, "num_envs": 3}
    steps = collect_transitions(Clock, 30, by_hour, **options)
    assert torch.equal(steps["action"], torch.where(steps["observation", "time", "0"] > 6, 1, -1))
    assert same(steps, collect_transitions(Clock, 30, ByHour(), **options))


class Locked(Clock):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_envs_that_cannot_be_copied_and_callables_that_make_none():
    with pytest.raises(TypeError, match=r"cannot be copied.*Give a callable that makes one"):
        collect_transitions(Locked(), 4)
    assert len(collect_transitions(Locked, 4)) == 4
    one = Clock()
    with pytest.raises(ValueError, match="one env several times"):
        collect_transitions(lambda: one, 4, num_envs=2)
    assert len(collect_transitions(lambda: one, 4, num_envs=1)) == 4


@pytest.mark.parametrize(
    ("space", "batch", "message"),
    [
        (MultiDiscrete([2, 3]), torch.tensor([[0, 3]]), r"Each card must be a class index of MultiDiscrete.*got 3"),
        (MultiDiscrete([2, 3]), torch.zeros(1, 4), r"Each card must have 2 numbers"),
        (Tuple([Discrete(2), Discrete(3)]), (torch.tensor([0]), torch.tensor([3])), r"Each card\.1 must be a class"),
        (gym.spaces.MultiBinary(2), torch.tensor([[0, 2]]), "must be a class index"),
    ],
)
def test_parts_that_do_not_fit(space, batch, message):
    with pytest.raises(DataError, match=message):
        flat_values(space, batch, "card")


# -- against imagination --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This world is untrained")
def test_imagination_stands_where_the_real_env_stood():
    world = WorldModel.from_env(Clock, config=ModelConfig(num_blocks=1))
    imagination = Imagination(world.to_engine(1, autoreset_mode="disabled"))
    observation, action, *_ = next(real_steps(Clock, 5, None, 0))
    state = imagination._state_at(observation, 0)
    again = imagination.perspective.observe(state.dynamics["values"])
    for part, wanted in ((again["sum"], observation["sum"]), (again["time"][0], observation["time"][0])):
        np.testing.assert_array_equal(part.numpy(), wanted)
    imagined = imagination.steps(observation, np.stack([action, action]), 0)
    assert imagined.observation["time"][1].shape == (2, 5, 2)
    assert imagined.observation["time"][0].min() >= 1


@pytest.mark.filterwarnings("ignore:This world is untrained")
def test_an_evaluation_takes_an_env_and_names_parts():
    world = WorldModel.from_env(Clock, config=ModelConfig(num_blocks=1))
    report = evaluate_world(world, Clock(), policies={"one": lambda seen: np.ones(len(seen["sum"]))}, **SMALL)
    assert report.env_id == "environment"
    names = ["observation.sum", "observation.time.0", "observation.time.1.0", "observation.time.1.1"]
    assert report.policies["one"].open_loop.names == names
    returns = report.policies["one"].returns
    assert returns.real.mean == sum(range(8)), "the sum of the time, seven steps long"
    by_callable = evaluate_world(world, Clock, policies={"one": lambda seen: np.ones(len(seen["sum"]))}, **SMALL)
    assert by_callable.to_dict()["policies"] == report.to_dict()["policies"]


@pytest.mark.parametrize(
    "space",
    [
        Dict(time=Tuple((Discrete(12, start=1), MultiDiscrete([6, 9]))), sum=Clock.observation_space["sum"]),
        Dict(time=Tuple((Discrete(12), MultiDiscrete([6, 10]))), sum=Clock.observation_space["sum"]),
        Dict(time=Clock.observation_space["time"], total=Clock.observation_space["sum"]),
        Clock.observation_space["time"],
    ],
)
def test_worlds_of_other_parts_are_no_match(space):
    world = WorldModel.from_signature(EnvSignature(space, Clock.action_space))
    with pytest.raises(EvaluationError, match="has the observation space"):
        evaluate_world(world, Clock, **SMALL)


def test_whole_episodes_of_an_env():
    episodes = real_episodes(Clock(day=4), 3, lambda seen: np.ones(3), keep=2, seed=0)
    assert episodes.lengths.tolist() == [4, 4, 4]
    assert episodes.returns.tolist() == [10.0, 10.0, 10.0]
    assert [step[2]["sum"][:, 0].tolist() for step in episodes.steps] == [[1.0] * 3, [2.0] * 3]
