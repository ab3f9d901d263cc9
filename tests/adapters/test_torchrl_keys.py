"""Where `TorchRLDynamics` finds things in TensorDicts, and what it makes of actions and terminations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from wm_vec.adapters import TorchRLDynamics
from wm_vec.envs import WorldModelVectorEnv


class Recorder(nn.Module):
    """Moves by what it is told, and keeps the action that it saw."""

    def forward(self, place, action):
        self.action = action
        return place + 1.0


def recorded(space, **options):
    module = Recorder()
    wrapped = TensorDictModule(module, in_keys=["observation", "action"], out_keys=["observation"])
    dynamics = TorchRLDynamics(
        wrapped,
        Box(-np.inf, np.inf, (1,)),
        space,
        initial_state=TensorDict({"observation": torch.zeros(1)}),
        reward_fn=lambda model, state, observation, action: state["observation"][:, 0] * 2,
        **options,
    )
    env = WorldModelVectorEnv.from_dynamics(dynamics, Box(-np.inf, np.inf, (1,)), space, num_envs=3)
    env.reset(seed=0)
    return env, module


def test_discrete_actions_one_hot_and_as_numbers():
    space = Discrete(3, start=-1)
    env, module = recorded(space, one_hot=True)
    env.step(torch.tensor([-1, 1, 0]))
    assert module.action.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert module.action.dtype is torch.float32
    env, module = recorded(space)
    assert env.step(torch.tensor([-1, 1, 0]))[1].tolist() == [2, 2, 2]
    assert module.action.tolist() == [-1, 1, 0]


def test_many_discrete_actions_one_hot_side_by_side():
    env, module = recorded(MultiDiscrete([2, 3]), one_hot=True)
    env.step(torch.tensor([[0, 2], [1, 0], [1, 1]]))
    assert module.action.tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0]]


def nested_module():
    """A state apart from a nested observation, a done probability, a figure for info, all under other names."""
    return TensorDictSequential(
        TensorDictModule(torch.add, in_keys=[("agent", "z"), "u"], out_keys=[("next", "agent", "z")]),
        TensorDictModule(lambda z: (2 * z, z[..., 0] > 1.5), [("next", "agent", "z")], ["pos", ("flags", "far")]),
        TensorDictModule(lambda z: z.sum(-1), [("next", "agent", "z")], [("next", "pay")]),
        TensorDictModule(lambda z: z.abs().sum(-1) / 10, [("next", "agent", "z")], [("next", "over")]),
        TensorDictModule(lambda z: z.std(-1), [("next", "agent", "z")], [("next", "stats", "spread")]),
    )


def test_nested_keys_and_dict_spaces():
    box = Box(-np.inf, np.inf, (2,), np.float32)
    seen = Dict(position=box, flags=Dict(far=Discrete(2)))
    start = TensorDict(
        {"agent": {"z": torch.tensor([0.5, 1.0])}, "pos": torch.ones(2), "flags": {"far": torch.tensor(False)}}
    )
    dynamics = TorchRLDynamics(
        nested_module(),
        seen,
        box,
        initial_state=start,
        state_keys=[("next", "agent", "z")],
        observation_key={"position": "pos", "flags": "flags"},
        action_key="u",
        reward_key=("next", "pay"),
        terminated_key="over",
        info_keys=[("stats", "spread")],
    )
    env = WorldModelVectorEnv.from_dynamics(dynamics, seen, box, num_envs=2, autoreset_mode="disabled")
    observation, info = env.reset(seed=0)
    assert observation["position"].tolist() == [[1, 1], [1, 1]]
    assert info["model_state"]["agent", "z"].tolist() == [[0.5, 1.0], [0.5, 1.0]]
    observation, reward, terminated, _, info = env.step(torch.tensor([[1.0, 1.0], [3.0, 2.0]]))
    # z = [1.5, 2.0] and [3.5, 3.0]
    assert observation["position"].tolist() == [[3, 4], [7, 6]]
    assert observation["flags"]["far"].tolist() == [0, 1]
    assert reward.tolist() == [3.5, 6.5]
    assert terminated.tolist() == [False, True]  # 0.35 and 0.65
    torch.testing.assert_close(info["stats.spread"], torch.tensor([0.5, 0.5]) / 2**0.5)


@pytest.mark.parametrize(
    ("value", "kind", "ends"), [(0.4, "probability", False), (0.6, "probability", True), (0.4, "logit", True)]
)
@pytest.mark.parametrize("key", ["terminated", "done"])
def test_terminations_as_probability_and_logit(value, kind, ends, key):
    module = TensorDictModule(
        lambda x: (x, x[:, :1], torch.full_like(x[:, :1], value)), ["observation"], ["observation", "reward", key]
    )
    box = Box(-1, 1, (2,), np.float32)
    start = TensorDict({"observation": torch.zeros(2)})
    dynamics = TorchRLDynamics(module, box, box, initial_state=start, terminated_as=kind)
    env = WorldModelVectorEnv.from_dynamics(dynamics, box, box, num_envs=2)
    env.reset(seed=0)
    assert env.step(torch.zeros(2, 2))[2].tolist() == [ends, ends]
