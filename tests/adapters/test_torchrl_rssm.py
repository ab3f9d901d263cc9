"""Dreamer's recurrent state-space model, out of TorchRL's parts, as an environment to imagine in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential
from torch.nn import functional as F
from torchrl.data import Unbounded
from torchrl.modules import DreamerActor, ObsDecoder, ProbabilisticActor, RSSMPrior, TanhNormal, WorldModelWrapper

from tests.adapters.torchrl_worlds import BELIEF, STATE, pendulum_episodes, trained_rssm
from tests.envs.rollouts import roll
from wm_vec import batched
from wm_vec.adapters import TorchRLDynamics
from wm_vec.core import CounterRNG
from wm_vec.envs import WorldModelVectorEnv, check_vector_env

pytestmark = pytest.mark.long  # an RSSM is trained first

PENDULUM = Box(-10, 10, (3,), np.float32)
TORQUE = Box(-1, 1, (1,), np.float32)
FILTERED, IMAGINED = 20, 15
"""Real steps that the posterior sees, and steps that the prior then goes on alone."""


@pytest.fixture(scope="module")
def nets():
    return trained_rssm()


@pytest.fixture(scope="module")
def real():
    return pendulum_episodes(64, seed=7)


@pytest.fixture(scope="module")
def latents(nets, real):
    """Posterior states ``(64,)`` after the first steps of every real episode."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        return nets.filter(real[:, :FILTERED])["next"][:, -1].select("state", "belief")


def make(nets, latents, num_envs, noise=False, reset_fn=None, **options):
    dynamics = TorchRLDynamics(
        nets.imagined(noise),
        PENDULUM,
        TORQUE,
        initial_state=latents if reset_fn is None else None,
        reset_fn=reset_fn,
        state_keys=["state", "belief"],
        decoder=nets.decoding(),
        noise={"noise": STATE} if noise else None,
    )
    options = {"max_episode_steps": IMAGINED, **options}
    return WorldModelVectorEnv.from_dynamics(dynamics, PENDULUM, TORQUE, num_envs=num_envs, **options)


def torques(num_steps, num_envs, seed=0):
    return torch.rand(num_steps, num_envs, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_imagination_follows_the_real_pendulum(nets, real, latents):
    """Open loop under the real actions, from where the posterior left off: far closer than staying put, and paid so."""

    @batched
    def reset(seeds):
        return latents[seeds % 64]

    env = make(nets, None, 64, reset_fn=reset, max_episode_steps=None)
    env.reset(seed=0)
    following = real[:, FILTERED : FILTERED + IMAGINED]
    taken = roll(env, following["action"].transpose(0, 1))
    seen, truth = taken["observation"], following["next", "observation"].transpose(0, 1)
    stay = real["next", "observation"][:, FILTERED - 1].expand_as(truth)
    assert F.mse_loss(seen, truth) < 0.15 * F.mse_loss(stay, truth)
    paid = torch.stack([taken["reward"].flatten(), following["next", "reward"][..., 0].T.flatten()])
    assert torch.corrcoef(paid)[0, 1] > 0.8


def test_a_step_is_what_the_modules_make_of_the_noise(nets, latents):
    """By hand from the bare networks, with the numbers that env i draws at its seed, episode and step."""
    env = make(nets, latents, 8, noise=True)
    assert env.engine.dynamics.rng == "counter"
    _, info = env.reset(seed=30)
    state, belief = info["model_state"]["state"], info["model_state"]["belief"]
    for t, action in enumerate(torques(5, 8)):
        seeds = torch.arange(30, 38)
        draws = CounterRNG(seeds, torch.zeros(8, dtype=torch.int64), torch.full((8,), t)).normal(STATE)
        with torch.no_grad():
            _, _, state, belief = nets.prior(state, belief, action, noise=draws)
            expected = nets.decoder(state, belief), nets.reward(state, belief)[:, 0]
        observation, reward, _, _, _ = env.step(action)
        torch.testing.assert_close((observation, reward), expected)


def test_with_noise_of_its_own_every_row_stands_by_itself(nets, latents):
    def build(num_envs):
        return make(nets, latents, num_envs, noise=True)

    report = check_vector_env(build(5), num_steps=40, make_env=build)
    assert not report.skipped
    actions, wide = torques(40, 512), build(512)
    wide.reset(seed=2)
    base = roll(wide, actions)
    narrow = build(3)
    narrow.reset(seed=2)
    for name, values in roll(narrow, actions[:, :3]).items():
        torch.testing.assert_close(values, base[name][:, :3], rtol=1e-4, atol=1e-4, msg=name)


def test_from_the_global_generator_the_batch_is_what_the_seed_says(nets, latents):
    """The same seed gives the same batch, another seed another; nobody else's draws are disturbed."""
    env, actions = make(nets, latents, 16), torques(40, 16)
    assert env.engine.dynamics.rng == "global"
    runs, outside = [], []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        env.reset(seed=seed)
        runs.append(roll(env, actions)["observation"])
        outside.append(torch.rand(3))
    assert torch.equal(runs[0], runs[1])
    assert not torch.isclose(runs[0], runs[2]).all(-1).any()
    torch.manual_seed(0)
    assert all(torch.equal(draws, outside[0]) for draws in [*outside, torch.rand(3)])


def test_the_global_generator_is_no_less_random_than_the_prior(nets, latents):
    """The spread of a step from one state is the prior's own standard deviation."""
    env = make(nets, latents[:1], 4096)
    env.reset(seed=0)
    action = torch.full((4096, 1), 0.5)
    with torch.no_grad():
        mean, std, _, _ = nets.prior(latents["state"][:1], latents["belief"][:1], action[:1])
    state = env.step(action)[4]["model_state"]["state"]
    torch.testing.assert_close(state.mean(0), mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(state.std(0), std[0], atol=0.0, rtol=0.06)


def test_a_dreamer_actor_learns_by_gradients_through_imagination(nets, latents):
    """It sees the latents as a Dict observation; a few steps up the imagined rewards raise them."""
    seen = Dict(state=Box(-np.inf, np.inf, (STATE,)), belief=Box(-1, 1, (BELIEF,)))
    dynamics = TorchRLDynamics(
        nets.imagined(noise=True),
        seen,
        TORQUE,
        initial_state=latents,
        state_keys=["state", "belief"],
        noise={"noise": STATE},
    )
    env = WorldModelVectorEnv.from_dynamics(dynamics, seen, TORQUE, num_envs=128, max_episode_steps=100)
    torch.manual_seed(1)
    latent = [("observation", "state"), ("observation", "belief")]
    actor = ProbabilisticActor(
        TensorDictModule(DreamerActor(1, depth=2, num_cells=32), in_keys=latent, out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        default_interaction_type=InteractionType.DETERMINISTIC,
    )
    observation, _ = env.reset(seed=0)
    actor(TensorDict({"observation": observation}, batch_size=[128]))  # sizes its lazy layers
    optimiser, returns = torch.optim.Adam(actor.parameters(), 1e-2), []
    for _ in range(15):
        env.reset(seed=0)
        imagined = env.imagine(actor, IMAGINED, grad=True)["next", "reward"].sum(1).mean()
        returns.append(float(imagined.detach()))
        optimiser.zero_grad()
        (-imagined).backward()
        optimiser.step()
    assert returns[-1] > returns[0] + 0.5, returns


@pytest.fixture
def pictures():
    """An RSSM with TorchRL's deconvolving decoder, whose pictures are made bytes; not trained."""
    torch.manual_seed(4)
    prior = RSSMPrior(Unbounded(2), 16, 16, 6, action_dim=2)
    world = WorldModelWrapper(
        TensorDictModule(prior, in_keys=["state", "belief", "action"], out_keys=["_", "_", "state", "belief"]),
        TensorDictModule(lambda state: state.mean(-1, keepdim=True), in_keys=["state"], out_keys=["reward"]),
    )
    net = ObsDecoder(channels=4, num_layers=2, kernel_sizes=4, latent_dim=22)
    decoder = TensorDictSequential(
        TensorDictModule(net, in_keys=[("next", "state"), ("next", "belief")], out_keys=["brightness"]),
        TensorDictModule(
            lambda b: (255 * (20 * b).sigmoid()).to(torch.uint8), in_keys=["brightness"], out_keys=["pixels"]
        ),
    )
    start = TensorDict({"state": torch.randn(32, 6), "belief": torch.zeros(32, 16)}, batch_size=[32])
    return world, decoder, net, start


def test_pictures_come_out_as_bytes_and_are_the_decoders(pictures):
    world, decoder, net, start = pictures
    seen, pushed = Dict(pixels=Box(0, 255, (3, 10, 10), np.uint8)), Box(-1, 1, (2,), np.float32)
    dynamics = TorchRLDynamics(
        world, seen, pushed, initial_state=start, state_keys=["state", "belief"], decoder=decoder
    )
    env = WorldModelVectorEnv.from_dynamics(
        dynamics, seen, pushed, num_envs=6, max_episode_steps=9, render_mode="rgb_array"
    )
    env.reset(seed=0)
    runs = []
    for _ in range(2):
        observation, _ = env.reset(seed=0)
        frames = [observation["pixels"]]
        for _ in range(12):
            observation, reward, _, truncated, info = env.step(env.sample_actions())
            frames.append(observation["pixels"])
            state = info["model_state"]
            with torch.no_grad():
                expected = (255 * (20 * net(state["state"], state["belief"])).sigmoid()).to(torch.uint8)
            # A byte may round the other way where the batch is laid out otherwise.
            assert (observation["pixels"].int() - expected.int()).abs().max() <= 1
            if not truncated.any():
                torch.testing.assert_close(reward, state["state"].mean(-1))
        runs.append(torch.stack(frames))
    assert torch.equal(*runs)
    assert runs[0].dtype is torch.uint8
    assert runs[0].float().std() > 10
    assert len({frame.numpy().tobytes() for frame in runs[0][:, 0]}) == 13
    assert env.render()[0].dtype == np.uint8
