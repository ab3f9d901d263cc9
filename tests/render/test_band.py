"""Bands of rollouts, held against a random walk whose quantiles are known."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from tests.render.test_films import gif_frames, shades
from wm_vec import WorldModel
from wm_vec.canvas import UnknownFieldError
from wm_vec.envs import WorldModelVectorEnv
from wm_vec.render import animate_rollout, rollout_band

PLANE, PUSH = gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Box(-1.0, 1.0, (1,))


def walk(num_envs: int = 3, **options) -> WorldModelVectorEnv:
    """One number that the action moves, and one that walks at random with steps of variance 1."""

    def transition(state, action, rng):
        after = torch.cat([state[:, :1] + action, state[:, 1:] + rng.normal(1)], 1)
        return {"state": after, "observation": after, "reward": after[:, 0], "terminated": after[:, 1] > 6.0}

    envs = WorldModelVectorEnv.from_callables(
        transition, PLANE, PUSH, num_envs=num_envs, initial_observation=torch.tensor([[1.0, 0.0]]), **options
    )
    envs.reset(seed=0)
    return envs


def push(observation: torch.Tensor) -> torch.Tensor:
    return torch.full((len(observation), 1), 0.5)


def test_the_quantiles_are_those_of_the_walk() -> None:
    band = rollout_band(walk(), push, num_steps=9, num_samples=4000)
    assert band.names == ["observation[0]", "observation[1]"]
    assert {x.shape for x in band[1:6]} == {(10, 2)}
    for quantile in band[1:6]:
        np.testing.assert_allclose(quantile[:, 0], 1 + 0.5 * np.arange(10), atol=1e-5)
    spread = np.sqrt(np.arange(5))  # hardly any has ended by then
    for quantile, normal in zip(band[1:6], (-1.645, -0.674, 0, 0.674, 1.645), strict=True):
        np.testing.assert_allclose(quantile[:5, 1], normal * spread, atol=0.2)
    assert band.going[0] == band.going[1] == 4000
    assert (np.diff(band.going) <= 0).all()
    assert 0.85 * 4000 < band.going[-1] < 4000
    assert (band.high[:, 1] < 6.5).all(), "those that ended are not counted"


def test_neither_the_env_nor_the_next_call_notices() -> None:
    envs, undisturbed = walk(), walk()
    one, other = (rollout_band(envs, push, num_steps=5, num_samples=6, index=1) for _ in range(2))
    for a, b in zip(one[1:7], other[1:7], strict=True):
        np.testing.assert_array_equal(a, b)
    for actions in torch.zeros(3, 3, 1), torch.ones(3, 3, 1):
        for action in actions:
            assert torch.equal(envs.step(action)[0], undisturbed.step(action)[0])
    fork, expected = envs.fork([0, 1]), undisturbed.fork([0, 1])
    assert torch.equal(fork.step(torch.zeros(2, 1))[0], expected.step(torch.zeros(2, 1))[0])
    # Env 1 at seed 0 is env 0 at seed 1.
    np.testing.assert_array_equal(rollout_band(envs, push, num_steps=5, num_samples=6, seed=1).low, one.low)
    assert (rollout_band(envs, push, num_steps=5, num_samples=6, seed=2).low != one.low).any()


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_without_a_seed_it_starts_where_the_env_is(mode: str) -> None:
    envs = walk(autoreset_mode=mode)
    for _ in range(4):
        observation = envs.step(torch.tensor([[0.1], [0.2], [0.3]]))[0]
    band = rollout_band(envs, push, num_steps=2, num_samples=5, seed=None, index=2)
    for quantile in band[1:6]:
        np.testing.assert_allclose(quantile[0], observation[2], rtol=1e-6)
    assert band.low[2, 1] < band.median[2, 1] < band.high[2, 1]


def test_any_field_of_a_world_by_its_name(cartpole: WorldModel) -> None:
    env = cartpole.to_env()
    band = rollout_band(env, None, num_steps=3, num_samples=4, fields=["reward", "observation"])
    assert band.names == ["reward", *(f"observation[{i}]" for i in range(4))]
    first, _ = env.reset(seed=0)
    np.testing.assert_allclose(band.median[0, 1:], first, rtol=1e-6)
    np.testing.assert_allclose(band.median[1:, 0], 1, atol=1e-3)
    with pytest.raises(UnknownFieldError, match=r"'observations'. Closest: observation"):
        rollout_band(env, fields=["observations"])
    with pytest.raises(ValueError, match="fork"):
        rollout_band(shades())
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        rollout_band(cartpole.to_env(), seed=None)


def test_the_animation_uncovers_the_last_picture_from_the_left(tmp_path) -> None:
    envs = walk()
    frames = animate_rollout(envs, push, tmp_path / "band.gif", num_steps=6, num_samples=8)
    assert len(frames) == 7
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    edges = []
    for frame in frames[:-1]:
        columns = np.flatnonzero((frame != frames[-1]).any(-1).any(0))
        edges.append(int(columns.min()))
    assert (np.diff(edges) > 10).all()
    assert len(gif_frames(tmp_path / "band.gif")[0]) == 7
    assert set(gif_frames(tmp_path / "band.gif")[1]) == {100}
    animate_rollout(envs, push, tmp_path / "band.png", num_steps=6, num_samples=8)
    with Image.open(tmp_path / "band.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), frames[-1])


def test_animations_that_cannot_be_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r".gif or .mp4 or .png, got 'band.svg'"):
        animate_rollout(walk(), push, "band.svg")
    wide = gym.spaces.Box(-1.0, 1.0, (25,))
    envs = WorldModelVectorEnv.from_callables(
        lambda state, action: (state, state, 0.0), wide, PUSH, num_envs=1, initial_observation=torch.zeros(25)
    )
    with pytest.raises(ValueError, match="at most 24 values, these are 25"):
        animate_rollout(envs, num_steps=1, num_samples=2)
