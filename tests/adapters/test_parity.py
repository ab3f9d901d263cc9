"""One model, every way to run it, one env or many: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import nn

import wm_vec
from wm_vec.core.engine import BANK_SEED
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

SEEN = Dict(place=Box(-1e4, 1e4, (3,), np.float32), side=Discrete(2))
PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
BATCHINGS = ["batched", "vmap"]
HORIZON = 5


class World(nn.Module):
    """A small network with a state of two parts; takes any leading axes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.net, self.head = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)), nn.Linear(4, 3)

    def see(self, latent):
        return {"place": self.head(latent), "side": (latent[..., 0] > 0).long()}

    def transition(self, state, action):
        latent = 0.8 * state["latent"] + self.net(torch.cat([state["latent"], action], -1))
        age = state["age"] + 1
        return {
            "state": {"latent": latent, "age": age},
            "observation": self.see(latent),
            "reward": latent.sum(-1) - action.square().sum(-1),
            "terminated": latent[..., 1] > 1.0,
            "info": {"age": age, "spread": latent.std(-1)},
        }

    def reset_state(self, seed):
        latent = torch.sin(torch.as_tensor(seed)[..., None] * torch.arange(1, 5))
        return {"latent": latent, "age": torch.zeros(latent.shape[:-1])}, self.see(latent)


@wm_vec.batched
def reset_many(model, seeds):
    return model.reset_state(seeds)


MODEL = World()


def actions(steps, num_envs):
    return torch.rand(steps, num_envs, 2, generator=torch.Generator().manual_seed(5)) * 2 - 1


def rollout(env, pushes):
    """Everything that a vector env returns in some steps of several episodes."""
    steps = []
    for push in pushes:
        observation, reward, terminated, truncated, info = env.step(push)
        steps.append(
            {
                "place": observation["place"],
                "side": observation["side"].float(),
                "reward": reward.float(),
                "terminated": terminated.float(),
                "truncated": truncated.float(),
                "final": info["final_obs"]["place"],
                "spread": info["spread"],
                "age": info["age"],
            }
        )
    return steps


@pytest.mark.parametrize(
    ("starts", "batching"),
    [("marked batched", "batched"), ("marked batched", "vmap"), *(("bank", batching) for batching in BATCHINGS)],
)
def test_the_scalar_env_is_any_row_of_the_vector_env(starts, batching):
    """Over several episodes; env i has the seed 40 + i."""
    options = {"batching": batching, "max_episode_steps": HORIZON, "transition_fn": MODEL.transition}
    if starts == "marked batched":
        options["reset_fn"] = reset_many
    else:
        options["bank_size"] = 7
    pushes = actions(17, 4)
    vector = WorldModelVectorEnv.from_callables(MODEL, SEEN, PUSH, num_envs=4, **options)
    first, _ = vector.reset(seed=40)
    steps = rollout(vector, pushes)
    ended = 0
    for row in range(4):
        scalar = WorldModelEnv(MODEL, SEEN, PUSH, **options)
        observation, _ = scalar.reset(seed=40 + row)
        np.testing.assert_allclose(observation["place"], first["place"][row], atol=1e-5)
        for push, step in zip(pushes[:, row], steps, strict=True):
            observation, reward, terminated, truncated, info = scalar.step(push.numpy())
            over = terminated or truncated
            np.testing.assert_allclose(observation["place"], step["final" if over else "place"][row], atol=1e-5)
            assert reward == pytest.approx(step["reward"][row].item(), abs=1e-5)
            assert (terminated, truncated) == (bool(step["terminated"][row]), bool(step["truncated"][row]))
            assert info["spread"] == pytest.approx(step["spread"][row].item(), abs=1e-5)
            assert info["age"] == step["age"][row] == info["elapsed_steps"]
            if over:
                observation, _ = scalar.reset()
                np.testing.assert_allclose(observation["place"], step["place"][row], atol=1e-5)
                ended += 1
    assert ended >= 4 * 17 // HORIZON


@pytest.mark.parametrize("autoreset_mode", ["same_step", "next_step"])
def test_all_ways_of_running_agree(autoreset_mode):
    """And the episodes are those of the model alone, stepped here by hand."""
    pushes = actions(12, 5)
    rollouts = {}
    for batching in BATCHINGS:
        env = WorldModelVectorEnv.from_callables(
            MODEL,
            SEEN,
            PUSH,
            num_envs=5,
            batching=batching,
            bank_size=6,
            max_episode_steps=HORIZON,
            autoreset_mode=autoreset_mode,
            transition_fn=MODEL.transition,
        )
        observation, _ = env.reset(seed=1)
        rollouts[batching] = [observation["place"], observation["side"].float()]
        for push in pushes:
            observation, reward, terminated, truncated, _ = env.step(push)
            rollouts[batching] += [observation["place"], observation["side"].float(), reward.float()]
            rollouts[batching] += [terminated.float(), truncated.float()]
    for got, expected in zip(rollouts["batched"], rollouts["vmap"], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    # The first episode of env 2, up to its end.
    states = [MODEL.reset_state(seed)[0] for seed in range(BANK_SEED, BANK_SEED + 6)]
    first = rollouts["batched"][0][2]
    state = min(states, key=lambda s: (MODEL.see(s["latent"])["place"] - first).abs().max().item())
    torch.testing.assert_close(MODEL.see(state["latent"])["place"], first)
    for step, push in enumerate(pushes[: HORIZON - 1, 2]):
        out = MODEL.transition(state, push)
        _, _, reward, terminated, _ = rollouts["batched"][2 + 5 * step : 7 + 5 * step]
        torch.testing.assert_close(reward[2], out["reward"], atol=1e-5, rtol=0)
        assert bool(terminated[2]) == bool(out["terminated"])
        if out["terminated"]:
            break
        state = out["state"]


@pytest.mark.parametrize("space", [Discrete(4), Discrete(4, start=-1), MultiDiscrete([3, 5])], ids=str)
def test_whole_numbers_reach_the_model_alike(space):
    """As the elements of the space, int64, whatever runs it."""
    space.seed(0)
    rows = np.stack([np.asarray(space.sample()) for _ in range(6)])

    def transition(state, action):
        assert action.dtype is torch.int64
        number = action if not space.shape else action[..., 0] * 10 + action[..., 1]
        return state, state, number.float()

    expected = rows if not space.shape else rows[:, 0] * 10 + rows[:, 1]
    for batching in BATCHINGS:
        options = {"batching": batching, "initial_observation": torch.zeros(2), "transition_fn": transition}
        vector = WorldModelVectorEnv.from_callables(None, PLANE, space, num_envs=6, **options)
        vector.reset(seed=0)
        assert vector.step(torch.as_tensor(rows))[1].tolist() == expected.tolist()
        for own in (batching, None):
            scalar = WorldModelEnv(None, PLANE, space, **{**options, "batching": own})
            scalar.reset(seed=0)
            assert [scalar.step(row)[1] for row in rows] == expected.tolist()


def test_the_direct_env_is_any_env_of_the_vector_env():
    """The first episode of each of four seeds."""
    pushes = actions(HORIZON, 4)
    options = {"max_episode_steps": HORIZON, "transition_fn": MODEL.transition}
    vector = WorldModelVectorEnv.from_callables(MODEL, SEEN, PUSH, num_envs=4, reset_fn=reset_many, **options)
    first, _ = vector.reset(seed=40)
    steps = rollout(vector, pushes)
    for i in range(4):
        env = WorldModelEnv(MODEL, SEEN, PUSH, **options)
        observation, _ = env.reset(seed=40 + i)
        np.testing.assert_allclose(observation["place"], first["place"][i], atol=1e-5)
        for push, step in zip(pushes[:, i], steps, strict=True):
            observation, reward, terminated, truncated, info = env.step(push.numpy())
            over = terminated or truncated
            np.testing.assert_allclose(observation["place"], step["final" if over else "place"][i], atol=1e-5)
            assert reward == pytest.approx(step["reward"][i].item(), abs=1e-5)
            assert (terminated, truncated) == (bool(step["terminated"][i]), bool(step["truncated"][i]))
            assert info["age"] == step["age"][i] == info["elapsed_steps"]
            if over:
                break
