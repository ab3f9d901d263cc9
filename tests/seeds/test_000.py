"""The code blocks of "World Model Env" run as they stand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import wm_vec
from tests.seeds import blocks_000
from tests.seeds.models import PixelWorld
from wm_vec.envs import WorldModelEnv

PIXELS = gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)
PUSHES = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


@pytest.fixture(scope="module")
def model():
    return PixelWorld()


@pytest.fixture
def names(model):
    """What the blocks leave open; running the first one defines the rest."""
    names = {
        "trained_model": model,
        "initial_latent": model.initial_latent(),
        "obs_space": PIXELS,
        "act_space": PUSHES,
    }
    exec(blocks_000.BASIC_USAGE, names)
    return names


def bare_rollout(model, latent, actions):
    """What the model itself says, without any environment."""
    with torch.no_grad():
        for action in actions:
            latent = model.imagine_step(latent, torch.as_tensor(action))
            yield model.decode(latent).numpy(), model.reward(latent).item(), model.termination(latent).item()


def test_basic_usage(model, names):
    env = names["env"]
    assert names["info"]["elapsed_steps"] == 1
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    first, _ = env.reset(seed=0)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, model.decode(model.initial_latent()).numpy())
    seen = []
    for action, expected in zip(actions, bare_rollout(model, model.initial_latent(), actions), strict=True):
        obs, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(obs, expected[0])
        assert reward == pytest.approx(expected[1], abs=1e-6)
        assert terminated is expected[2]
        seen.append(obs)
        if terminated or truncated:
            break
    assert info["elapsed_steps"] == len(seen)
    assert terminated or (truncated and len(seen) == 50)
    assert (seen[0] != seen[-1]).any()


def test_the_contract(names):
    """The five calls that the text lists."""
    env = names["env"]
    obs, info = env.reset(seed=0, options={})
    assert env.observation_space.contains(obs)
    assert isinstance(info, dict)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(obs)
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert isinstance(info, dict)
    with pytest.warns(UserWarning, match="render_mode"):
        env.render()
    env.close()


def test_action_adapters(model, names):
    """Class 4 is the action that pushes fully in the fifth direction."""
    exec(blocks_000.ACTION_ADAPTERS, names)
    env = names["env"]
    env.reset(seed=3)
    obs, reward, *_ = env.step(4)
    (expected,) = bare_rollout(model, model.reset_state(3)[0], [np.eye(6, dtype=np.float32)[4]])
    np.testing.assert_array_equal(obs, expected[0])
    assert reward == pytest.approx(expected[1], abs=1e-6)


@pytest.mark.parametrize("block", ["FACTORY", "TOP_LEVEL_FACTORY"])
def test_factories(model, names, block):
    exec(getattr(blocks_000, block), names)
    env = names["env"]
    assert isinstance(env, WorldModelEnv)
    first, _ = env.reset(seed=5)
    np.testing.assert_array_equal(first, model.reset_state(5)[1])
    action = np.full(6, 0.3, np.float32)
    obs, *_ = env.step(action)
    (expected,) = bare_rollout(model, model.reset_state(5)[0], [action])
    np.testing.assert_array_equal(obs, expected[0])


@pytest.mark.parametrize("alias", ["world_model", "model", "wm"])
def test_aliases_of_the_backend(names, alias):
    exec(blocks_000.TOP_LEVEL_FACTORY.replace('"world-model"', repr(alias)), names)
    names["env"].reset(seed=5)
    assert isinstance(names["env"], wm_vec.WorldModelEnv)
