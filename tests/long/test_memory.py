"""Two thousand steps at 256 envs: memory stays flat."""

import gc
import os

import pytest
import torch

pytestmark = pytest.mark.long


def resident_mebibytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())


def test_two_thousand_steps_at_256_envs(cartpole, record_property):
    env = cartpole.to_vector_env(256, seed=0)
    env.reset()
    figures = []
    for step in range(2000):
        _, _, _, _, info = env.step(env.sample_actions())
        if step % 10 == 0:
            info["predictions"], info["model_state"]  # made when read, and not kept
        if step % 200 == 199:
            figures.append((live_tensors(), resident_mebibytes()))
    print("after every 200 steps: live tensors, resident MiB:", figures)
    tensors, resident = zip(*figures, strict=True)
    assert max(tensors[1:]) - min(tensors[1:]) <= 2
    assert resident[-1] - resident[1] < 4.0
