"""An env's trajectory does not depend on how many neighbours it has, where it stands, or what they do."""

from __future__ import annotations

import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.envs.rollouts import MODES, assert_equal, random_actions, roll, start
from wm_vec import WorldModel

STEPS = 200


@pytest.mark.parametrize("mode", MODES)
def test_exact_rows_are_bit_equal_at_1_7_and_64_envs(cartpole, mode):
    """Also where neighbours are reset on the way, and where an env stands in another row."""
    options = {
        "mode": mode,
        "exact_rows": True,
        "n_denoise_steps": 3 if mode is AutoresetMode.SAME_STEP else 1,
    }
    wide = start(cartpole, 64, 5, **options)
    actions = random_actions(wide, STEPS)
    neighbours = list(range(7, 64, 2))
    base = roll(wide, actions, resets={40: neighbours, 41: neighbours, 120: neighbours})
    ends = (base["terminated"] | base["truncated"])[:, :7].sum(0)
    assert (ends >= 3).all(), "the test needs episodes that end"

    assert_equal(base, roll(start(cartpole, 1, 5, **options), actions[:, :1]), slice(1))
    assert_equal(base, roll(start(cartpole, 7, 5, **options), actions[:, :7]), slice(7))
    # Env 6 in row 2, env 0 in row 8, among seeds from elsewhere.
    other = start(cartpole, 9, [70, 71, 5 + 6, 73, 74, 75, 76, 77, 5 + 0], **options)
    moved = actions[:, [20, 21, 6, 22, 23, 24, 25, 26, 0]]
    assert_equal(base, roll(other, moved), [6, 0], [2, 8])


def test_exact_rows_hold_for_continuous_actions(pendulum):
    options = {"horizon": 37, "exact_rows": True, "n_denoise_steps": 1}
    wide = start(pendulum, 64, 5, **options)
    actions = random_actions(wide, STEPS)
    base = roll(wide, actions)
    assert_equal(base, roll(start(pendulum, 1, 5 + 9, **options), actions[:, 9:10]), [9])


def test_a_neighbours_action_would_be_seen(cartpole):
    """The same comparison notices a row whose actions differ in one step."""
    env = start(cartpole, 7, 5, horizon=None, exact_rows=True)
    actions = random_actions(env, 20)
    base = roll(env, actions)
    actions[10, 3] = 1 - actions[10, 3]
    other = roll(start(cartpole, 7, 5, horizon=None, exact_rows=True), actions)
    assert_equal(base, other, [0, 1, 2, 4, 5, 6], [0, 1, 2, 4, 5, 6])
    with pytest.raises(AssertionError, match="differs from step 10 on"):
        assert_equal(base, other)


@pytest.mark.parametrize("world", ["cartpole", "pendulum"])
def test_without_exact_rows_twenty_steps_agree_to_rounding(world, request):
    world = request.getfixturevalue(world)
    wide = start(world, 64, 5)
    actions = random_actions(wide, 20)
    base = roll(wide, actions)
    for num_envs in (1, 7):
        other = roll(start(world, num_envs, 5), actions[:, :num_envs])
        for name in base:
            a, b = base[name][:, :num_envs].double(), other[name].double()
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)


def test_different_seeds_give_different_rows(cartpole):
    env = start(cartpole, 16, 0)
    same_actions = random_actions(env, 3)[:, :1].expand(-1, 16).contiguous()
    last = roll(env, same_actions)["observation"][-1]
    assert len({tuple(row.tolist()) for row in last}) == 16


@pytest.mark.parametrize("exact_rows", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_step_runs_on_meta_tensors(mode, exact_rows):
    """Any read of a value on the host raises there."""
    world = WorldModel.bundled("Pendulum-v1", device="meta")
    env = world.to_vector_env(5, autoreset_mode=mode, exact_rows=exact_rows)
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(torch.zeros(5, 1, device="meta"))
    env.step(env.sample_actions())
    assert observation.shape == (5, 3)
    assert reward.shape == terminated.shape == truncated.shape == (5,)
    everything = [observation, reward, terminated, truncated, info["diverged"], info["model_state"]["values"]]
    everything += info["predictions"].values()
    assert {tensor.device.type for tensor in everything} == {"meta"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        reward[0].item()
