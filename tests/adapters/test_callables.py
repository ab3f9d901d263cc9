"""CallableDynamics under the engine: starts, options, gradients, random numbers, forks."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import wm_vec
from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
PUSH = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def drift(state, action):
    """The state moves by a tenth of the action; the reward is its first number."""
    after = state + 0.1 * action
    return {"state": after, "observation": after, "reward": after[..., 0]}


@wm_vec.batched
def reset_to_seed(model, seeds, options):
    """Starts at (seed, 1), or where the options say."""
    start = torch.stack([seeds.float(), torch.ones_like(seeds, dtype=torch.float32)], -1)
    return start + (options or {}).get("shift", 0.0)


def vector(**options):
    return WorldModelVectorEnv.from_callables(drift, PLANE, PUSH, num_envs=3, **options)


def test_a_batched_reset_takes_seeds_and_options_and_is_called_at_autoresets():
    envs = vector(reset_fn=reset_to_seed, max_episode_steps=2)
    observation, _ = envs.reset(seed=[4, 5, 6], options={"shift": 10.0})
    assert observation.tolist() == [[14.0, 11.0], [15.0, 11.0], [16.0, 11.0]]
    for _ in range(2):
        observation, *_, info = envs.step(torch.ones(3, 2))
    torch.testing.assert_close(info["final_obs"][:, 1], torch.full((3,), 11.2))
    assert observation[:, 1].tolist() == [1.0, 1.0, 1.0], "options belong to the reset they came with"
    assert (observation[:, 0] > 100).all(), "later episodes have seeds of their own"
    again = vector(reset_fn=reset_to_seed, max_episode_steps=2)
    again.reset(seed=[4, 5, 6])
    for _ in range(2):
        repeated, *_ = again.step(torch.zeros(3, 2))
    assert torch.equal(repeated[:, 0], observation[:, 0]), "which follow from seed and episode alone"


def test_a_mask_resets_some_rows_with_options_and_leaves_the_others():
    envs = vector(reset_fn=reset_to_seed)
    envs.reset(seed=0)
    before, *_ = envs.step(torch.ones(3, 2))
    after, _ = envs.reset(seed=[7, 8, 9], options={"env_idx": [1], "shift": 0.5})
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert after[1].tolist() == [8.5, 1.5]
    with pytest.raises(ValueError, match=r"unknown options \['shift'\]"):
        vector(initial_observation=torch.zeros(2)).reset(options={"shift": 1.0})


def test_the_scalar_env_resets_its_model_at_every_episode():
    calls = []

    def reset(model, seed, options):
        calls.append((seed, options))
        return torch.tensor([0.0, 0.0]), {"source": "model"}

    env = WorldModelEnv(drift, PLANE, PUSH, reset_fn=reset, max_episode_steps=1)
    assert calls == [], "nothing is reset before it is asked for"
    _, info = env.reset(seed=5, options={"level": 2})
    assert info["source"] == "model"
    env.step(np.zeros(2, np.float32))
    env.reset()
    env.reset()
    env.reset(seed=5)
    seeds = [seed for seed, _ in calls]
    assert calls[0] == (5, {"level": 2})
    assert seeds[3] == 5
    assert len({*seeds[:3]}) == 3
    again = len(calls)
    env.reset()
    assert calls[again][0] == seeds[1], "the seed says all episodes"


def test_starts_of_many_envs_fill_a_bank_once():
    seeds = []

    def reset(seed):
        seeds.append(seed)
        return torch.tensor([float(seed % 7), 0.0])

    envs = vector(reset_fn=reset, bank_size=7, max_episode_steps=1)
    assert len(seeds) == 7
    envs.reset(seed=0)
    drawn = {envs.step(torch.zeros(3, 2))[0][i, 0].item() for _ in range(40) for i in range(3)}
    assert drawn == set(map(float, range(7)))
    assert len(seeds) == 7


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_gradients_flow_through_the_model(batching):
    """d/da of the sum of rewards of s + 0.1 a_1 + 0.1 a_2 + ...: the first action counts in every step."""
    net = nn.Linear(2, 2, bias=False)

    def step(state, action):
        after = state + net(action)
        return after, after, after.sum(-1)

    envs = WorldModelVectorEnv.from_callables(
        step, PLANE, PUSH, num_envs=3, batching=batching, initial_observation=torch.zeros(2)
    )
    envs.reset(seed=0)
    push = torch.full((2,), 0.5, requires_grad=True)
    rollout = envs.imagine(lambda observation: push.expand(3, 2), horizon=4, grad=True)
    rollout["next", "reward"].sum().backward()
    per_step = net.weight.detach().sum(0)
    torch.testing.assert_close(push.grad, 3 * (1 + 2 + 3 + 4) * per_step)
    torch.testing.assert_close(net.weight.grad, torch.full((2, 2), 3 * 10 * 0.5))


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_a_transition_can_draw_from_the_envs_own_numbers(batching):
    def noisy(state, action, rng):
        after = state + rng.normal(2) if batching == "batched" else state + rng.normal(2)[0]
        return after, after, 0.0

    def rollout(num_envs, seed):
        envs = WorldModelVectorEnv.from_callables(
            noisy, PLANE, PUSH, num_envs=num_envs, batching=batching, initial_observation=torch.zeros(2)
        )
        envs.reset(seed=seed)
        return torch.stack([envs.step(torch.zeros(num_envs, 2))[0] for _ in range(5)])

    four = rollout(4, 10)
    assert torch.equal(four, rollout(4, 10))
    assert torch.equal(four[:, 2:3], rollout(1, 12)), "an env depends on its seed alone"
    assert len(four[-1, :, 0].unique()) == 4


def test_forks_and_states_of_models_of_others():
    envs = vector(initial_observation=torch.zeros(2))
    envs.reset(seed=0)
    envs.step(torch.ones(3, 2))
    saved = envs.state()
    after, *_ = envs.step(torch.ones(3, 2))
    envs.set_state(saved)
    assert torch.equal(envs.step(torch.ones(3, 2))[0], after)
    plans = envs.fork([2, 2])
    np.testing.assert_allclose(plans.step(torch.zeros(2, 2))[0], after[[2, 2]])


def test_our_own_worlds_are_sent_to_their_own_methods(cartpole):
    with pytest.raises(AdapterError, match="to_vector_env"):
        WorldModelEnv(cartpole, PLANE, PUSH)


def test_actions_of_every_space_reach_the_model():
    seen = []

    def step(state, action):
        seen.append(action)
        return state, state, 0.0

    for space, batch, expected in [
        (gym.spaces.Discrete(3, start=5), torch.tensor([5, 7]), [5, 7]),
        (gym.spaces.MultiDiscrete([2, 4]), torch.tensor([[0, 3], [1, 2]]), [[0, 3], [1, 2]]),
        (gym.spaces.MultiBinary(3), torch.tensor([[0, 1, 1], [1, 0, 0]]), [[0, 1, 1], [1, 0, 0]]),
        (gym.spaces.Box(-1, 1, (2, 2)), torch.tensor([[[0.5, -3], [1, 0]]] * 2), [[[0.5, -1], [1, 0]]] * 2),
        (
            gym.spaces.Box(-1, 1, (1,), np.float64),
            torch.tensor([[1 / 3], [2.0]], dtype=torch.float64),
            [[1 / 3], [1.0]],
        ),
    ]:
        envs = WorldModelVectorEnv.from_callables(
            step, PLANE, space, num_envs=2, initial_observation=torch.zeros(2), validate=True
        )
        envs.reset(seed=0)
        envs.step(batch)
        assert seen[-1].tolist() == expected
        whole = not isinstance(space, gym.spaces.Box)
        assert seen[-1].dtype is (torch.int64 if whole else torch.from_numpy(space.low).dtype)
        sample = envs.sample_actions()
        assert all(row.numpy().astype(space.dtype) in space for row in sample)
        for tensors in (True, False):
            env = WorldModelEnv(step, PLANE, space, initial_observation=torch.zeros(2), torch_actions=tensors)
            env.reset(seed=0)
            # Called directly, a model gets numbers out of bounds as they are.
            one = np.asarray(batch[0].numpy(), space.dtype)
            env.step(one[()])
            assert isinstance(seen[-1], torch.Tensor) is tensors
            assert np.asarray(seen[-1]).tolist() == one.tolist()
            if not tensors:
                assert seen[-1].dtype == space.dtype
            elif whole:
                assert seen[-1].dtype is torch.int64
