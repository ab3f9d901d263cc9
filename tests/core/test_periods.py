"""What a canvas world makes of time and of actions: periods, and acting on fields that are predicted."""

import itertools

import pytest
import torch

from wm_vec import ModelConfig, WorldModel
from wm_vec.canvas import Field


def loud(schema, ticks_per_step=1):
    """An untrained world with random weights in every part."""
    world = WorldModel(schema, config=ModelConfig(ticks_per_step=ticks_per_step))
    world.trained = True
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    # Numbers that do not divide evenly: what is held must come through without a rounding.
    world.model.codec.step_mean.fill_(0.37)
    world.model.codec.step_std.fill_(0.71)
    return world


def env_of(world, obs, act, **options):
    return world.to_vector_env(5, obs, act, lambda obs, act, info: 0.0, **options)


SLOW = {
    "slow": Field(w=2, period=3),
    "fast": Field(),
    "slow_class": Field(num_classes=4, period=2),
    "push": Field(is_output=False),
}
SEEN = ["slow", "fast", "slow_class"]


@pytest.mark.parametrize("exact_rows", [False, True])
def test_a_field_holds_its_value_for_its_period(exact_rows):
    env = env_of(loud(SLOW), SEEN, ["push"], exact_rows=exact_rows, autoreset_mode="disabled")
    rows = [env.reset(seed=0)[0]]
    rows += [env.step(torch.rand(5, 1))[0] for _ in range(12)]
    changed = torch.stack([(after != before).any(0) for before, after in itertools.pairwise(rows)])
    steps = torch.arange(1, 13)
    assert changed[:, 0].tolist() == changed[:, 1].tolist() == (steps % 3 == 0).tolist()
    assert changed[:, 2].tolist() == [True] * 12
    assert not bool(changed[steps % 2 == 1, 3].any())
    assert bool(changed[:, 3].any())


@pytest.mark.parametrize("ticks_per_step", [1, 2, 3, 5])
def test_a_step_of_several_ticks_changes_what_is_due_in_any_of_them(ticks_per_step):
    env = env_of(loud(SLOW, ticks_per_step), SEEN, ["push"], autoreset_mode="disabled")
    rows = [env.reset(seed=0)[0]]
    rows += [env.step(torch.rand(5, 1))[0] for _ in range(12)]
    changed = torch.stack([(after != before).any(0) for before, after in itertools.pairwise(rows)])
    ticks = torch.arange(13) * ticks_per_step
    assert changed[:, 0].tolist() == (ticks[1:] // 3 > ticks[:-1] // 3).tolist()
    assert changed[:, 2].tolist() == [True] * 12
    assert not bool(changed[ticks[1:] // 2 == ticks[:-1] // 2, 3].any())
    assert bool(changed[:, 3].any())


def test_the_length_of_a_step_belongs_to_the_world(tmp_path):
    world = WorldModel(SLOW, config=ModelConfig(num_blocks=1), ticks_per_step=3)
    assert world.model.config == ModelConfig(num_blocks=1, ticks_per_step=3)
    world.save(tmp_path / "world.safetensors")
    assert WorldModel.load(tmp_path / "world.safetensors").model.config.ticks_per_step == 3


@pytest.mark.parametrize("ticks", [0, -1, 1.5, "2"])
def test_ticks_that_no_step_lasts(ticks):
    with pytest.raises(ValueError, match="`ticks_per_step` must be a whole number of at least 1, got"):
        ModelConfig(ticks_per_step=ticks)


def test_periods_count_from_the_start_of_each_envs_episode():
    env = env_of(loud(SLOW), SEEN, ["push"], max_episode_steps=5)
    before = env.reset(seed=0)[0]
    for step in range(1, 11):
        if step == 3:  # one env starts anew in between
            before = env.reset(options={"reset_mask": torch.tensor([True, False, False, False, False])})[0]
        observation, _, _, truncated, info = env.step(torch.zeros(5, 1))
        length = info["episode"]["l"]
        still = (info["final_obs"][:, :2] == before[:, :2]).all(-1)
        assert torch.equal(still, length % 3 != 0), step
        before = observation
    assert bool(truncated[1])


def test_periods_survive_forks_and_restores():
    env = env_of(loud(SLOW), SEEN, ["push"], autoreset_mode="disabled", exact_rows=True)
    env.reset(seed=0)
    env.step(torch.zeros(5, 1))
    fork, saved = env.fork([4], rng="same"), env.state()
    rows = [env.step(torch.zeros(5, 1))[0] for _ in range(4)]
    assert all(torch.equal(fork.step(torch.zeros(1, 1))[0][0], row[4]) for row in rows)
    env.set_state(saved)
    assert all(torch.equal(env.step(torch.zeros(5, 1))[0], row) for row in rows)


# -- what acting means --------------------------------------------------------------------------------------

ROBOT = {"lane": Field(), "port": Field(w=2), "mode": Field(num_classes=4)}


def quiet(schema, spread=1e-5):
    """A world whose predicted changes are far smaller than the actions."""
    world = loud(schema)
    world.model.codec.step_mean.fill_(0.0)
    world.model.codec.step_std.fill_(spread)
    return world


def test_set_overwrites_the_current_value_and_predicts_the_next_from_it():
    env = env_of(quiet(ROBOT), ["lane", "port"], ["lane"])
    start = env.reset(seed=0)[0]
    action = torch.tensor([[-1.0], [-0.5], [0.0], [0.5], [1.0]])
    following = env.step(action)[0]
    torch.testing.assert_close(following[:, :1], action, atol=1e-3, rtol=0.0)
    assert bool((following[:, :1] != action).all()), "predicted, not clamped"
    torch.testing.assert_close(following[:, 1:], start[:, 1:], atol=1e-3, rtol=0.0)


def test_hold_keeps_the_written_value_exactly():
    env = env_of(loud(ROBOT), ["lane", "port"], ["lane"], act_mode="hold")
    start = env.reset(seed=0)[0]
    action = torch.tensor([[-1.0], [-0.5], [0.0], [0.5], [9.0]])
    following = env.step(action)[0]
    assert torch.equal(following[:, :1], action.clamp(-1.0, 1.0))
    assert bool((following[:, 1:] != start[:, 1:]).all()), "the rest of the world goes on"


def test_class_actions_are_set_and_held():
    world = loud(ROBOT)
    action = torch.tensor([0, 1, 2, 3, 3])
    held = env_of(world, ["mode", "lane"], ["mode"], act_mode="hold")
    held.reset(seed=0)
    assert held.step(action)[0][:, 0].tolist() == action.tolist()
    free = env_of(world, ["mode", "lane"], ["mode"])
    free.reset(seed=0)
    assert free.step(action)[0][:, 0].tolist() != action.tolist()


@pytest.mark.parametrize("act_mode", ["set", "hold"])
def test_different_actions_different_futures(act_mode):
    env = env_of(loud(ROBOT), ["port"], ["lane"], act_mode=act_mode)
    env.reset(seed=0)
    start = env.state()
    futures = []
    for action in (-1.0, 1.0):
        env.set_state(start)
        futures.append(env.step(torch.full((5, 1), action))[0])
    assert float((futures[0] - futures[1]).abs().min()) > 1e-4


def test_act_modes_that_are_none():
    with pytest.raises(ValueError, match="act_mode must be 'set' or 'hold', got 'clamp'"):
        env_of(loud(ROBOT), ["lane"], ["port"], act_mode="clamp")
