"""Frames of environments over models of others: pictures as they are, `render_fn` before them, one per env."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PICTURE = gym.spaces.Box(0, 255, (3, 64, 64), np.uint8)
CAMERA = gym.spaces.Dict({"speed": gym.spaces.Box(-1, 1, (2,), np.float32), "pixels": PICTURE})
PUSH = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def brighter(state, action):
    """A picture whose red is the state's number, one more at every step."""
    after = state + 1
    channels = torch.stack([after, torch.zeros_like(after), torch.zeros_like(after)], -2)
    picture = channels[..., None].expand(*channels.shape[:-1], 64, 64).to(torch.uint8)
    return {"state": after, "observation": picture, "reward": 0.0}


def camera(state, action):
    out = brighter(state, action)
    speed = torch.zeros(*state.shape[:-1], 2)
    return {**out, "observation": {"speed": speed, "pixels": out["observation"]}}


def red(value):
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[..., 0] = value
    return frame


START = {"initial_state": torch.zeros(1), "initial_observation": torch.zeros(3, 64, 64, dtype=torch.uint8)}


def test_pictures_are_handed_out_channel_last():
    env = WorldModelEnv(brighter, PICTURE, PUSH, render_mode="rgb_array", **START)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), red(0))
    for value in (1, 2):
        env.step(np.zeros(1, np.float32))
        np.testing.assert_array_equal(env.render(), red(value))


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_one_frame_per_env_of_a_dict_with_a_picture(batching):
    picture = START["initial_observation"]
    envs = WorldModelVectorEnv.from_callables(
        camera,
        CAMERA,
        PUSH,
        num_envs=3,
        batching=batching,
        initial_state=torch.zeros(1),
        initial_observation={"speed": torch.zeros(2), "pixels": picture},
        render_mode="rgb_array",
    )
    envs.reset(seed=0)
    envs.step(torch.zeros(3, 1))
    frames = envs.render()
    assert len(frames) == 3
    for frame in frames:
        np.testing.assert_array_equal(frame, red(1))


def test_render_fn_comes_first_and_gets_the_models_state():
    def paint(model, state, observation):
        assert model is brighter
        assert isinstance(observation, np.ndarray)
        return np.full((4, 4, 3), int(state[0]) * 10, np.uint8)

    env = WorldModelEnv(brighter, PICTURE, PUSH, render_mode="rgb_array", render_fn=paint, **START)
    envs = WorldModelVectorEnv.from_callables(
        brighter, PICTURE, PUSH, num_envs=2, render_mode="rgb_array", render_fn=lambda state: state, **START
    )
    env.reset(seed=0)
    envs.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    envs.step(torch.zeros(2, 1))
    assert (env.render() == 10).all()
    assert [frame.tolist() for frame in envs.render()] == [[1.0], [1.0]]


def test_what_is_no_picture_is_plotted():
    pytest.importorskip("matplotlib")
    plane = gym.spaces.Box(-1, 1, (2,), np.float32)

    def move(state, action):
        after = state + 0.5 * action
        return after, after, 0.0

    env = WorldModelEnv(move, plane, PUSH, render_mode="rgb_array", initial_observation=torch.zeros(2))
    env.reset(seed=0)
    still = env.render()
    env.step(np.ones(1, np.float32))
    assert still.dtype == np.uint8
    assert still.shape == env.render().shape
    assert (env.render() != still).any()


def test_a_render_fn_that_cannot_be_called_is_refused():
    with pytest.raises(AdapterError, match="render_fn must be callable"):
        WorldModelEnv(brighter, PICTURE, PUSH, render_fn=3, **START)
    with pytest.raises(AdapterError, match=r"render_fn takes \(a, b, c, d\)"):
        WorldModelEnv(brighter, PICTURE, PUSH, render_fn=lambda a, b, c, d: None, **START)
