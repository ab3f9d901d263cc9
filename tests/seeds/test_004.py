"""The code blocks of "Environment Extraction" run as they stand, move, and run at thousands of envs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import wm_vec
from tests.seeds import blocks_004
from wm_vec import AgentSpec, TrainConfig, WorldModel
from wm_vec.canvas import Field
from wm_vec.general import GeneralUnifiedWorldModel
from wm_vec.schema import synthetic_economy
from wm_vec.schema.business import Business

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # the worlds are untrained, or their data lack most fields
NUM_ENVS, STEPS = 1024, 3
CORPORATE = ("employee_env", "ceo_env")
ROBOTS = ("logistics_env", "disaster_env", "climate_env")


@pytest.fixture
def small(monkeypatch):
    """Shrinks the network, the passes of a predict and the training, where a block leaves them at their defaults."""

    class Small(GeneralUnifiedWorldModel):
        def __init__(self, include=None, exclude=None, entities=None, **network):
            network = {"d_model": 32, "n_layers": 1, "n_loops": 4, **network}  # from group to group it takes 4
            super().__init__(include, exclude, entities, **network)
            loud(self)
            self.perspectives = []

        def to_openenv(self, obs_fields, act_fields, reward_fn, n_denoise_steps=2, **settings):
            self.perspectives.append((obs_fields, act_fields, reward_fn))
            return super().to_openenv(obs_fields, act_fields, reward_fn, n_denoise_steps=n_denoise_steps, **settings)

        def to_multi_openenv(self, agents, n_denoise_steps=2, **settings):
            self.agents = agents
            return super().to_multi_openenv(agents, n_denoise_steps=n_denoise_steps, **settings)

        def finetune(self, data, *, n_steps):
            assert n_steps == 5000
            return super().finetune(data, config=TrainConfig(n_steps=3, batch_size=16))

    monkeypatch.setattr(wm_vec, "GeneralUnifiedWorldModel", Small, raising=False)
    return Small


def loud(world):
    """What training leaves: weights by which fields answer to each other, units in which bounds are far, starts."""
    generator, codec = torch.Generator().manual_seed(1), world.model.codec
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        low, high = codec.low.clamp(min=-1.0), codec.high.clamp(max=1.0)
        codec.mean.copy_((low + high) / 2)
        codec.std.copy_((high - low) / 10)
        codec.step_mean.zero_()
        codec.step_std.copy_(codec.std / 10)
        world.bank = torch.addcmul(codec.mean, codec.std, torch.randn(64, world.num_positions, generator=generator))


def moves_and_answers(env):
    """Whether every observed number moves, within the periods of its field, and what is done makes a difference."""
    low, high = env.action_space.low, env.action_space.high
    seen, _ = zip(*(roll(env, action, 13) for action in (low, high)), strict=True)
    moved = np.ptp(seen[0], 0) > 0
    assert moved.all(), f"{(~moved).sum()} of {moved.size} observed numbers stand still"
    assert not np.array_equal(seen[0][1], seen[1][1])


def roll(env, action, steps):
    """Observations ``(steps + 1, n)`` and rewards ``(steps,)`` under one action; the parts of the contract hold."""
    obs, info = env.reset(seed=3)
    rows, rewards = [obs], []
    for step in range(1, steps + 1):
        obs, reward, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(obs)
        assert isinstance(reward, float)
        assert np.isfinite(reward)
        assert (terminated, truncated) == (False, False)
        assert info["step"] == step
        named = np.concatenate([np.ravel(values) for values in info["obs_dict"].values()])
        np.testing.assert_array_equal(named, obs)
        assert set(info["obs_dict"]) <= set(info["predictions"])
        rows.append(obs)
        rewards.append(reward)
    return np.stack(rows), np.array(rewards)


def at_many_envs(model, num_envs=NUM_ENVS, **settings):
    """Every perspective of a world at many envs, three steps; env 0 is the scalar env."""
    for obs_fields, act_fields, reward_fn in model.perspectives:
        envs = model.to_vector_env(num_envs, obs_fields, act_fields, reward_fn, **settings)
        one = model.to_env(obs_fields, act_fields, reward_fn, **settings)
        obs, _ = envs.reset(seed=0)
        first, _ = one.reset(seed=0)
        for _ in range(STEPS):
            action = torch.rand(num_envs, envs.single_action_space.shape[0]) * 2 - 1
            obs, reward, *_ = envs.step(action)
            first, paid, *_ = one.step(action[0].numpy())
        assert bool(torch.isfinite(obs).all() & torch.isfinite(reward).all())
        assert float(obs.std(0).min()) > 0
        np.testing.assert_allclose(obs[0], first, atol=1e-4)
        assert float(reward[0]) == pytest.approx(paid, abs=1e-4)


def all_at_once(model, **settings):
    """All agents of a world at many envs, three steps."""
    multi = model.to_multi_vector_env(model.agents, num_envs=NUM_ENVS, **settings)
    multi.reset(seed=0)
    for _ in range(STEPS):
        td = multi.step(multi.sample_actions())
    for name in model.agents:
        assert td[name].batch_size == (NUM_ENVS,)
        assert float(td[name, "observation"].std(0).min()) > 0
        assert bool(torch.isfinite(td[name, "reward"]).all())


def test_quick_start(small):
    months = np.linspace(0.0, 1.0, 12, dtype=np.float32)
    data = {"regime.growth_regime": months, "firm_acme.strategy.capital_allocation": months}
    model = small(["regime"], entities={"firm_acme": Business()})
    data = {p: np.repeat(v[:, None], model.bound[p].num_positions, 1) for p, v in data.items()}
    agent = SimpleNamespace(
        act=lambda obs: np.full(model.bound["firm_acme.strategy.capital_allocation"].num_positions, 0.5)
    )
    names = {"Business": Business, "my_data": data, "my_agent": agent}
    exec(blocks_004.QUICK_START, names)
    assert names["model"].trained
    assert names["info"]["step"] == 100
    assert names["truncated"] is False
    assert names["obs"].shape == names["env"].observation_space.shape


def placeholders():
    world = WorldModel({"field": {"path": {name: Field() for name in "abc"}}})
    loud(world)
    return world


def test_the_parameters_of_to_openenv():
    names = {"model": placeholders(), "my_reward_fn": lambda obs, act, info: obs["field.path.a"].mean() + act.sum()}
    exec(blocks_004.TO_OPENENV, names)
    env = names["env"]
    moves_and_answers(env)
    for step in range(1, 188):
        _, _, _, truncated, _ = env.step(env.action_space.sample())
        assert truncated is (step == 187), "13 steps went before: 200 in all"


def test_the_parameters_of_to_multi_openenv():
    block = blocks_004.TO_MULTI_OPENENV
    for fields in (["field.path.a"], ["field.path.b"], ["field.path.b"], ["field.path.c"]):  # in place of each [...]
        block = block.replace("[...]", repr(fields), 1)
    names = {"model": placeholders(), "AgentSpec": AgentSpec}
    names["employee_reward"] = names["ceo_reward"] = lambda obs, act, info: sum(v.mean() for v in obs.values())
    exec(block, names)
    obs, _ = names["multi"].reset(seed=0)
    assert list(obs) == ["employee", "ceo"]


@pytest.fixture
def corporate(small):
    names = {}
    exec(blocks_004.CORPORATE, names)
    return names


@pytest.fixture
def robots(small):
    names = {"GeneralUnifiedWorldModel": small}
    exec(blocks_004.ROBOTS, names)
    return names


def test_the_corporate_world_moves(corporate):
    model = corporate["model"]
    assert len(model.bound) >= 195
    assert model.num_positions > 880
    for name in CORPORATE:
        moves_and_answers(corporate[name])


def test_the_corporate_agents_share_one_world(corporate):
    multi, agents = corporate["multi"], corporate["model"].agents
    assert list(multi.agents) == ["employee", "ceo"]
    assert set(corporate["obs"]) == set(corporate["rewards"]) == set(agents)
    result = multi.reset(seed=4)
    obs, _ = result
    assert result["ceo"] is obs["ceo"]
    assert multi.agents["ceo"] is agents["ceo"]
    # A reward of the seed is its first observed number, whoever else acts.
    actions = {name: multi.action_spaces[name].sample() for name in multi.agents}
    obs, rewards, *_ = multi.step(actions)
    for name in agents:
        assert rewards[name] == pytest.approx(float(obs[name][0]))


def test_the_robots_move(robots):
    for name in ROBOTS:
        moves_and_answers(robots[name])


def test_the_robots_at_a_thousand_envs(small):
    """Over the parts of their world that they look at."""
    names = {"GeneralUnifiedWorldModel": small}
    wanted = ["physical.infrastructure", "physical.climate.global_temp_anomaly", "physical.climate.carbon_ppm"]
    wanted += [f"physical.disasters.{name}" for name in ("active_disaster_state", "wildfire_state", "pandemic_risk")]
    block = blocks_004.ROBOTS.replace('["physical", "resources", "infrastructure", "regime"]', repr(wanted))
    exec(block, names)
    at_many_envs(names["model"], n_denoise_steps=2)


def test_the_corporate_agents_at_a_thousand_envs(small, monkeypatch):
    """Over the synthetic economy, which has the fields that they look at."""

    class Economy(small):
        def __init__(self, include, entities):
            economy = synthetic_economy()
            WorldModel.__init__(self, economy.bound, ticks_per_step=economy.ticks_per_step)
            loud(self)
            self.perspectives = []

    monkeypatch.setattr(wm_vec, "GeneralUnifiedWorldModel", Economy)
    names = {}
    exec(blocks_004.CORPORATE, names)
    at_many_envs(names["model"], n_denoise_steps=2)
    all_at_once(names["model"], n_denoise_steps=2)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_corporate_world_at_a_thousand_envs(small):
    block = blocks_004.CORPORATE.replace(
        "    },\n)\n# Employee", "    },\n    d_model=64, n_layers=6, n_loops=1,\n)\n# Employee"
    )
    names = {}
    exec(block, names)
    model = names["model"]
    assert model.bound.layout.d_model == 64
    at_many_envs(model, n_denoise_steps=2)
    all_at_once(model, n_denoise_steps=2)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_robots_world_at_a_thousand_envs(robots):
    at_many_envs(robots["model"], n_denoise_steps=2)
