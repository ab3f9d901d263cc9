"""On a GPU: steps, their resets and a collector's loop wait for nothing."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torchrl.collectors import Collector
from torchrl.envs.transforms import Compose, DoubleToFloat, RewardSum

from wm_vec import WorldModel
from wm_vec.envs import TransformedEnv

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "DtoH")


@contextmanager
def no_waits(others=0):
    """Fails on operations that wait for the device: as torch knows them, and in a profiler's trace.

    Args:
        others: Waits for the whole device that somebody else's code inside is known for.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The profiler itself waits for the whole device, too, once when it stops.
    waits = [event.name for event in trace.events() if any(name in event.name for name in WAITS)]
    assert [name for name in waits if "cudaDeviceSynchronize" not in name] == []
    assert len(waits) <= 1 + others


def make(transformed):
    env = WorldModel.bundled("CartPole-v1", device="cuda").to_torchrl_env(256, max_episode_steps=9, seed=0)
    return TransformedEnv(env, Compose(DoubleToFloat(), RewardSum())) if transformed else env


@pytest.mark.parametrize("transformed", [False, True])
def test_steps_and_resets(transformed):
    env = make(transformed)
    td = env.reset()

    def steps(td):
        for _ in range(12):
            _, td = env.step_and_maybe_reset(env.rand_action(td))
        return td

    td = steps(td)  # compiles and allocates
    with no_waits():
        steps(td)


@pytest.mark.parametrize("options", [{}, {"no_cuda_sync": True}, {"cudagraph_policy": True}], ids=str)
def test_a_collectors_loop(options):
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2)).cuda()
    greedy = TensorDictModule(lambda seen: policy(seen).argmax(-1), ["observation"], ["action"])
    collector = Collector(
        make(False),
        greedy,
        frames_per_batch=256 * 10,
        total_frames=-1,
        track_traj_ids=False,
        auto_register_policy_transforms=False,
        **options,
    )
    batches = iter(collector)
    for _ in range(4):  # compiles, allocates, captures
        next(batches)
    # tensordict's CudaGraphModule waits for the device in every call of a captured policy.
    with no_waits(others=10 if "cudagraph_policy" in options else 0):
        batch = next(batches)
    assert batch["next", "reward"].shape == (256, 10, 1)
    collector.shutdown()
