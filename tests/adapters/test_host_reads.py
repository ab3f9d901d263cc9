"""Batched models step without a read on the host: on the meta device, where tensors have no values, it would raise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import wm_vec
from wm_vec.envs import WorldModelVectorEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)


@pytest.mark.parametrize("autoreset_mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("batching", ["batched", "vmap"])
@pytest.mark.parametrize("form", ["mapping", "three", "six", "observation alone"])
def test_a_step_reads_nothing_on_the_host(batching, autoreset_mode, form):
    """On the meta device tensors have no values, so that every read raises."""

    def transition(state, action):
        after = state + action
        flag = after[..., 0] > 0
        return {
            "mapping": {"state": after, "observation": after, "reward": after.sum(-1), "done": flag},
            "three": (after, after, after.sum(-1)),
            "six": (after, after, after.sum(-1), flag, flag, {"size": after.norm(dim=-1)}),
            "observation alone": after,
        }[form]

    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        num_envs=3,
        batching=batching,
        autoreset_mode=autoreset_mode,
        device="meta",
        initial_observation=torch.zeros(10, 2, device="meta"),
        transition_fn=transition,
        reward_fn=lambda state: state.mean(-1),
        max_episode_steps=3,
    )
    env.reset(seed=0)
    for _ in range(2):
        observation, reward, terminated, truncated, info = env.step(torch.zeros(3, 2, device="meta"))
    assert observation.device.type == reward.device.type == "meta"
    assert (observation.shape, reward.shape) == ((3, 2), (3,))
    assert terminated.dtype is truncated.dtype is torch.bool
    assert info["model_state"].shape == (3, 2)


def test_fresh_starts_and_own_draws_read_nothing_on_the_host():
    @wm_vec.batched
    def reset(model, seeds):
        return torch.sin(seeds[:, None] * torch.ones(2, device=seeds.device))

    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        num_envs=3,
        device="meta",
        reset_fn=reset,
        transition_fn=lambda state, action, rng: state + action + rng.normal(2),
        max_episode_steps=2,
    )
    env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(torch.zeros(3, 2, device="meta"))
    assert observation.shape == (3, 2)


def test_a_step_that_does_read_is_found_on_the_meta_device():
    """The check itself: a planted read raises there."""
    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        num_envs=3,
        device="meta",
        initial_observation=torch.zeros(2, device="meta"),
        transition_fn=lambda state, action: state + float(action.sum()),
    )
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="meta"):
        env.step(torch.zeros(3, 2, device="meta"))
