"""TorchRL's own world models through `TorchRLDynamics`: against their modules by hand, and TorchRL's environments."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torch.nn import functional as F
from torchrl.data import Binary, Composite, Unbounded
from torchrl.envs.model_based import ModelBasedEnvBase
from torchrl.modules import MLP, WorldModel

from tests.adapters.torchrl_worlds import trained_cartpole
from tests.envs.rollouts import roll
from wm_vec import batched
from wm_vec.adapters import TorchRLDynamics
from wm_vec.core import Engine, EngineConfig
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv, check_vector_env
from wm_vec.train import collect_transitions

OBSERVED, ACTED = Box(-np.inf, np.inf, (4,), np.float32), Discrete(2)


@pytest.fixture(scope="module")
def nets():
    return trained_cartpole()


@pytest.fixture(scope="module")
def starts():
    data = collect_transitions("CartPole-v1", 4000, seed=5)
    return data[data["is_init"][:, 0]].select("observation")


def cartpole_env(nets, starts, num_envs, place="next", **options):
    dynamics = TorchRLDynamics(
        nets.world(place), OBSERVED, ACTED, initial_state=starts, one_hot=True, terminated_as="logit"
    )
    return WorldModelVectorEnv.from_dynamics(dynamics, OBSERVED, ACTED, num_envs=num_envs, **options)


def choices(num_steps, num_envs, seed=0):
    return torch.randint(0, 2, (num_steps, num_envs), generator=torch.Generator().manual_seed(seed))


# -- against what it stands for -------------------------------------------------------------------------------------


def test_imagined_episodes_last_as_long_as_real_ones(nets, starts):
    """Random play keeps the real pole up for 22 steps."""
    env = cartpole_env(nets, starts, 256)
    env.reset(seed=0)
    lengths = []
    for action in choices(120, 256):
        info = env.step(action)[4]
        lengths.append(info["episode"]["l"][info["_episode"]])
    lengths = torch.cat(lengths).float()
    real = collect_transitions("CartPole-v1", 8000, "random", seed=8)
    expected = 8000 / int(real["next", "done"].sum())
    assert len(lengths) > 500
    assert abs(lengths.mean() - expected) < 0.15 * expected


@pytest.mark.parametrize("place", ["next", "root"])
def test_steps_are_what_the_modules_say_by_hand(nets, starts, place):
    """From the first observation on, by the bare networks, until episodes end."""
    env = cartpole_env(nets, starts, 64, place, autoreset_mode="disabled")
    expected, _ = env.reset(seed=3)
    assert all((row == starts["observation"]).all(1).any() for row in expected)
    actions, alive = choices(40, 64), torch.ones(64, dtype=torch.bool)
    for action in actions:
        observation, reward, terminated, _, _ = env.step(action)
        with torch.no_grad():
            expected = nets.dynamics(expected, F.one_hot(action, 2).float())
            paid, ended = nets.reward(expected)[:, 0], nets.done(expected)[:, 0] > 0
        torch.testing.assert_close(observation[alive], expected[alive])
        torch.testing.assert_close(reward[alive], paid[alive])
        assert torch.equal(terminated[alive], ended[alive])
        alive &= ~ended
    assert not alive.all(), "the test needs episodes that end"


def test_rows_are_the_same_at_1_64_and_1024_envs(nets, starts):
    actions = choices(60, 1024)
    wide = cartpole_env(nets, starts, 1024, max_episode_steps=30)
    wide.reset(seed=11)
    base = roll(wide, actions)
    assert base["terminated"][:, 0].any()
    assert base["truncated"][:, :64].any()
    for num_envs in (1, 64):
        env = cartpole_env(nets, starts, num_envs, max_episode_steps=30)
        env.reset(seed=11)
        for name, values in roll(env, actions[:, :num_envs]).items():
            torch.testing.assert_close(values, base[name][:, :num_envs], rtol=1e-4, atol=1e-4, msg=name)


class RootEnv(ModelBasedEnvBase):
    """TorchRL's own environment over a world model that writes at the root."""

    def __init__(self, world_model, starts):
        super().__init__(world_model, batch_size=starts.batch_size)
        size = starts.batch_size
        self.starts = starts
        self.observation_spec = Composite(observation=Unbounded((*size, 4)), shape=size)
        self.state_spec = Composite(observation=Unbounded((*size, 4)), shape=size)
        self.action_spec = Unbounded((*size, 2))
        self.reward_spec = Unbounded((*size, 1))
        self.done_spec = Composite(done=Binary(shape=(*size, 1), dtype=torch.bool), shape=size)

    def _reset(self, tensordict=None, **kwargs):
        return self.starts.clone()


def test_torchrls_own_environment_makes_the_same_steps(nets, starts):
    env = cartpole_env(nets, starts, 32, "root", autoreset_mode="disabled")
    observation, _ = env.reset(seed=0)
    dynamics, reward, _ = nets.heads("root")
    theirs = RootEnv(TensorDictSequential(dynamics, reward), TensorDict({"observation": observation}, batch_size=[32]))
    td = theirs.reset()
    for action in choices(6, 32):
        with torch.no_grad():
            td = theirs.step(td.set("action", F.one_hot(action, 2).float()))["next"]
        observation, reward, terminated, _, _ = env.step(action)
        assert not terminated.any()
        torch.testing.assert_close(observation, td["observation"])
        torch.testing.assert_close(reward, td["reward"][:, 0])
        td = td.select("observation")


def test_a_torchrl_world_model_with_encoder_and_decoder(starts):
    """Its step_module runs, states start as its encoder says, and its decoder makes the observations."""
    torch.manual_seed(2)
    module = WorldModel(
        TensorDictModule(nn.Linear(4, 6), in_keys=["observation"], out_keys=["latent"]),
        TensorDictModule(MLP(8, 6, depth=1, num_cells=16), in_keys=["latent", "action"], out_keys=[("next", "latent")]),
        TensorDictModule(nn.Linear(6, 1), in_keys=[("next", "latent")], out_keys=[("next", "reward")]),
        decoder=TensorDictModule(nn.Linear(6, 4), in_keys=["latent"], out_keys=["seen"]),
    )
    with torch.no_grad():
        encoded = module.encode(starts.clone())
    dynamics = TorchRLDynamics(
        module,
        OBSERVED,
        Box(-1, 1, (2,), np.float32),
        initial_state=encoded,
        state_keys=["latent"],
        decoder=module.decoder,
        observation_key="seen",
    )
    env = WorldModelVectorEnv.from_dynamics(dynamics, OBSERVED, Box(-1, 1, (2,), np.float32), num_envs=16)
    observation, info = env.reset(seed=0)
    latent = info["model_state"]["latent"]
    torch.testing.assert_close(observation, module.decoder.module(latent))

    td = TensorDict({"latent": latent}, batch_size=[16])
    for _ in range(5):
        action = torch.rand(16, 2) * 2 - 1
        with torch.no_grad():
            td = module.step(td.set("action", action))["next"]
        observation, reward, terminated, _, info = env.step(action)
        torch.testing.assert_close(info["model_state"]["latent"], td["latent"])
        torch.testing.assert_close(observation, module.decoder.module(td["latent"]))
        torch.testing.assert_close(reward, td["reward"][:, 0])
        assert not terminated.any()
        td = td.select("latent")


# -- as an environment ----------------------------------------------------------------------------------------------


def test_it_is_an_environment_by_our_checker(nets, starts):
    def make(num_envs):
        return cartpole_env(nets, starts, num_envs, max_episode_steps=25)

    report = check_vector_env(make(5), num_steps=64, make_env=make)
    assert not report.skipped


def test_the_scalar_env_is_row_0_and_passes_gymnasiums_checker(nets, starts):
    vector = cartpole_env(nets, starts, 8, max_episode_steps=50)
    observation, _ = vector.reset(seed=4)
    dynamics = vector.engine.dynamics
    engine = Engine(dynamics, 1, [dynamics.perspective], EngineConfig(50, "disabled"))
    env = WorldModelEnv.from_engine(engine, OBSERVED, ACTED)
    check_env(env, skip_render_check=True)
    np.testing.assert_array_equal(env.reset(seed=4)[0], observation[0])
    for action in choices(8, 8):
        ours, reward, terminated, _, _ = env.step(int(action[0]))
        theirs = vector.step(action)
        np.testing.assert_allclose(ours, theirs[0][0], atol=1e-5)
        assert reward == pytest.approx(float(theirs[1][0]), abs=1e-5)
        assert terminated == bool(theirs[2][0])


def test_it_pickles_and_goes_on(nets, starts):
    env = cartpole_env(nets, starts, 4)
    env.reset(seed=1)
    twin = pickle.loads(pickle.dumps(env))
    for action in choices(30, 4):
        one, two = env.step(action), twin.step(action)
        assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))


def test_gradients_flow_through_the_module(nets, starts):
    """A policy's gradient, against finite differences of the modules' own rewards."""
    module = TensorDictSequential(*nets.heads("next")[:2])
    box = Box(-1, 1, (2,), np.float32)
    env = WorldModelVectorEnv.from_dynamics(
        TorchRLDynamics(module, OBSERVED, box, initial_state=starts), OBSERVED, box, num_envs=4
    )
    push = torch.full((2,), 0.1, requires_grad=True)
    observation, _ = env.reset(seed=0)
    env.imagine(lambda seen: push.expand(seen.shape[0], 2), 3, grad=True)["next", "reward"].sum().backward()

    def paid(pushed):
        seen, total = observation.double(), 0.0
        for _ in range(3):
            seen = doubled.dynamics(seen, pushed.expand(4, 2))
            total += doubled.reward(seen).sum()
        return total

    doubled = pickle.loads(pickle.dumps(nets)).double()
    with torch.no_grad():
        ends = torch.tensor([[1e-5, 0.0], [0.0, 1e-5]], dtype=torch.float64)
        here = torch.tensor([0.1, 0.1], dtype=torch.float64)
        expected = [float(paid(here + end) - paid(here - end)) / 2e-5 for end in ends]
    np.testing.assert_allclose(push.grad.numpy(), expected, rtol=1e-3, atol=1e-5)


def same_twice(env, num_steps=40):
    """Whether a seed says all, resets of later episodes included."""
    actions, runs = choices(num_steps, env.num_envs), []
    for _ in range(2):
        env.reset(seed=6)
        runs.append(roll(env, actions))
    assert runs[0]["terminated"].any()
    return all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_resets_by_the_callers_function_of_one_env_and_of_all(nets, starts):
    """The seed says which start; marked batched, all seeds come at once."""

    def one(module, seed):
        return starts[seed % len(starts)]

    @batched
    def many(seeds):
        return starts[seeds % len(starts)]

    for reset_fn in (many, one):
        dynamics = TorchRLDynamics(
            nets.world(), OBSERVED, ACTED, reset_fn=reset_fn, one_hot=True, terminated_as="logit"
        )
        assert dynamics.rng == "counter"
        env = WorldModelVectorEnv.from_dynamics(dynamics, OBSERVED, ACTED, num_envs=8, bank_size=16)
        observation, _ = env.reset(seed=2)
        if reset_fn is many:
            assert torch.equal(observation, starts["observation"][2:10])
        else:
            assert all((row == starts["observation"]).all(1).any() for row in observation)
        assert same_twice(env)
