"""Where a policy gets its observations."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from wm_vec.train.collect import act


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
