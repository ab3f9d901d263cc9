"""A world that breaks down is contained in its row."""

from __future__ import annotations

import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.envs.rollouts import MODES, assert_equal, random_actions, roll, start
from wm_vec import WorldModel

SAME, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_a_bad_action_ends_its_own_row_alone(pendulum, mode, bad):
    env, other = (start(pendulum, mode=mode, horizon=None) for _ in range(2))
    actions = random_actions(env, 12)
    before = roll(env, actions[:5])["observation"][-1]
    roll(other, actions[:5])
    poisoned = actions[5].clone()
    poisoned[1] = bad
    observation, reward, terminated, truncated, info = env.step(poisoned)
    expected, expected_reward, *_ = other.step(actions[5])
    neighbours = [0, 2, 3]
    assert terminated.tolist() == info["diverged"].tolist() == [False, True, False, False]
    assert not truncated.any()
    assert reward[1] == 0
    last = info["final_obs"] if mode is SAME else observation
    assert torch.equal(last[1], before[1])
    assert torch.equal(observation[neighbours], expected[neighbours])
    assert torch.equal(reward[neighbours], expected_reward[neighbours])
    if mode is DISABLED:
        env.reset(options={"env_idx": [1]})
    rest = roll(env, actions[6:])
    assert_equal(rest, roll(other, actions[6:]), neighbours, neighbours)
    assert all(torch.isfinite(values).all() for values in rest.values())
    assert not rest["terminated"].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_diverged_model_ends_its_own_row_alone(pendulum, mode):
    env, other = (start(pendulum, mode=mode, horizon=None) for _ in range(2))
    actions = random_actions(env, 8)
    state = env.state()
    state.dynamics["values"][1] = torch.inf
    env.set_state(state)
    _, reward, terminated, _, info = env.step(actions[0])
    other.step(actions[0])
    assert terminated.tolist() == info["diverged"].tolist() == [False, True, False, False]
    assert torch.isfinite(reward).all()
    assert torch.isfinite(info["episode"]["r"]).all()
    if mode is DISABLED:
        env.reset(options={"env_idx": [1]})
    rest = roll(env, actions[1:])
    assert_equal(rest, roll(other, actions[1:]), [0, 2, 3], [0, 2, 3])
    assert all(torch.isfinite(values).all() for values in rest.values())


def test_a_diverged_model_is_ended_at_its_last_finite_observation(pendulum):
    """Weights that break down in the middle of an episode: every row is ended, and shown where it was."""
    world = WorldModel.bundled("Pendulum-v1")
    env = start(world, horizon=None)
    before = env.step(torch.zeros(4, 1))[0]
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.fill_(torch.nan)
    observation, reward, terminated, _, info = env.step(torch.zeros(4, 1))
    assert terminated.all()
    assert info["diverged"].all()
    assert torch.equal(info["final_obs"], before)
    assert torch.isfinite(observation).all()
    assert (reward == 0).all()
