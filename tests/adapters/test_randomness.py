"""Models that draw from torch's global generator, and the seeds that resets get."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
BATCHINGS = ["batched", "vmap"]


def actions(steps, num_envs):
    return torch.rand(steps, num_envs, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1


def noisy_reset(model, seed):
    return torch.randn(2)


def noisy_step(state, action):
    return state + action + torch.randn_like(state)


def noisy_env(batching, num_envs=4, **options):
    arguments = {"reset_fn": noisy_reset, "transition_fn": noisy_step, "max_episode_steps": 3, **options}
    return WorldModelVectorEnv.from_callables(
        None, PLANE, PUSH, num_envs=num_envs, batching=batching, bank_size=5, **arguments
    )


@pytest.mark.parametrize("batching", BATCHINGS)
def test_global_draws_are_reproducible_and_disturb_nobody(batching):
    """Whatever the caller draws in between; and what the caller draws is what it would have drawn anyway."""
    torch.manual_seed(123)
    undisturbed = [torch.randn(3) for _ in range(8)]
    rollouts = []
    for start in (123, 7):
        torch.manual_seed(start)
        own = []
        env = noisy_env(batching, rng="global")
        own.append(torch.randn(3))
        places = [env.reset(seed=11)[0]]
        for push in actions(7, 4):
            places.append(env.step(push)[0])
            own.append(torch.randn(3))
        rollouts.append(torch.stack(places))
        if start == 123:
            assert all(torch.equal(a, b) for a, b in zip(own, undisturbed, strict=True))
    assert torch.equal(*rollouts)
    # The same env again, at the same seed and at another one.
    again = torch.stack([env.reset(seed=11)[0], *(env.step(push)[0] for push in actions(7, 4))])
    assert torch.equal(again, rollouts[0])
    other = torch.stack([env.reset(seed=12)[0], *(env.step(push)[0] for push in actions(7, 4))])
    assert not torch.equal(other, rollouts[0])
    # Every env and step has noise of its own.
    noise = rollouts[0][1:3] - rollouts[0][0:2] - actions(7, 4)[:2]
    assert noise.unique().numel() == noise.numel()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_undeclared_draws_are_warned_of_once(batching):
    quiet = {"reset_fn": lambda: torch.zeros(2)}
    env = noisy_env(batching, **quiet)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="transition_fn uses torch's global random generator.*rng='global'"):
        env.step(torch.zeros(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(torch.zeros(4, 2))
    with pytest.warns(UserWarning, match="reset_fn uses torch's global random generator.*seed argument"):
        noisy_env(batching, transition_fn=lambda state, action: state)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_models_that_draw_nothing_and_those_declared_are_not_warned_of(batching):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        declared = noisy_env(batching, rng="global")
        still = noisy_env(
            batching,
            reset_fn=lambda seed: torch.rand(2, generator=torch.Generator().manual_seed(seed)),
            transition_fn=lambda state, action: state + action,
        )
        for env in (declared, still):
            env.reset(seed=0)
            env.step(torch.zeros(4, 2))


def test_seeds_that_resets_get():
    """Their own in the first episode, numbers that every seeding function takes in the later ones."""
    got = []

    def reset(seed):
        got.append(seed)
        np.random.RandomState(seed)  # NumPy's older way; below 2**32
        return torch.zeros(2)

    env = WorldModelEnv(None, PLANE, PUSH, reset_fn=reset, transition_fn=lambda s, a: s)
    for seed in (5, None, None, 2**32 - 1, 2**40, 5, None):
        env.reset(seed=seed)
    assert got[0] == got[5] == 5
    assert got[1] == got[6]
    assert got[3] == 2**32 - 1
    assert len(set(got[:5])) == 5
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in got)
    # The first reset without a seed takes entropy: another one each time, and small enough too.
    for _ in range(2):
        WorldModelEnv(None, PLANE, PUSH, reset_fn=reset, transition_fn=lambda s, a: s).reset()
    assert got[-1] != got[-2]
