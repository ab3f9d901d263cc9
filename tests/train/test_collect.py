"""Where a policy gets its observations."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from wm_vec.train.collect import act, collect_transitions


class Recorder(nn.Module):
    """Remembers where its observations were; "meta" stands for an accelerator."""

    def __init__(self, **own):
        super().__init__()
        for name, tensor in own.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    def forward(self, observation):
        self.seen = (observation.device.type, observation.dtype)
        return torch.ones(2)


@pytest.mark.parametrize(
    ("own", "device"),
    [
        ({}, "cpu"),
        ({"weight": nn.Parameter(torch.zeros(1, device="meta"))}, "meta"),
        ({"mean": torch.zeros(1, device="meta")}, "meta"),
        ({"mean": torch.zeros(1)}, "cpu"),
    ],
)
def test_a_module_gets_its_observations_on_its_own_device(own, device):
    policy = Recorder(**own)
    action = act(policy, np.zeros((2, 3)), gym.spaces.MultiDiscrete([2, 2]))
    assert policy.seen == (device, torch.float32)
    assert action.tolist() == [1, 1]


def actions_of(policy, num_envs=16, n=4000, env_id="CartPole-v1", seed=3):
    """Actions ``(T, num_envs, ...)`` of a collection."""
    action = collect_transitions(env_id, n, policy, seed=seed, num_envs=num_envs)["action"]
    return action.reshape(-1, num_envs, *action.shape[1:])


@pytest.mark.parametrize(
    ("policy", "sticky"), [("random", [False]), ("sticky", [True]), (None, [False, False, False, True])]
)
def test_sticky_envs_repeat_their_last_action(policy, sticky):
    actions = actions_of(policy)
    repeats = (actions[1:] == actions[:-1]).float().mean(0)
    # Of two actions a fresh one is the last one half of the time. A share of 249 steps deviates by .03, and by .02.
    expected = torch.tensor([0.8 + 0.2 / 2 if sticky[i % len(sticky)] else 0.5 for i in range(16)])
    assert torch.allclose(repeats, expected, atol=0.13)
    assert abs(float((repeats - expected).mean())) < 0.02
    assert 0.4 < float(actions.float().mean()) < 0.6


def test_continuous_actions_repeat_whole_and_cover_the_space():
    actions = actions_of("sticky", env_id="Pendulum-v1")[..., 0]
    assert (actions[1:] == actions[:-1]).float().mean() == pytest.approx(0.8, abs=0.03)
    assert actions.min() < -1.8
    assert actions.max() > 1.8


@pytest.mark.parametrize("policy", ["random", "sticky", None])
def test_an_env_s_steps_depend_on_the_seed_and_not_on_the_other_envs(policy):
    few, many = (actions_of(policy, num_envs, 50 * num_envs) for num_envs in (3, 5))
    assert torch.equal(few, many[:, :3])
    assert not torch.equal(few, actions_of(policy, 3, 150, seed=4))
    assert not torch.equal(many[:, 0], many[:, 2])


def test_sticky_actions_reach_ends_that_random_ones_do_not():
    ends = {
        p: int(collect_transitions("Acrobot-v1", 20_000, p)["next", "terminated"].sum()) for p in ("random", "sticky")
    }
    assert ends["random"] <= 2
    assert ends["sticky"] >= 8


def test_a_policy_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="'random', 'sticky' or None, got 'stiky'"):
        collect_transitions("CartPole-v1", 10, "stiky")
