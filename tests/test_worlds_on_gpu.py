"""Bundled worlds on a card: as true in bfloat16 as they are, and nothing waits. In host memory one stands in."""

from contextlib import nullcontext
from functools import partial

import gymnasium as gym
import pytest
import torch

from benchmarks.torchrl_throughput import stepper
from benchmarks.truth_figures import ks_figure, residual_r2
from wm_kernels import use_backend
from wm_kernels.predict import cpu
from wm_vec import AgentSpec, Field, ModelConfig, WorldModel, collect_transitions
from wm_vec.core import step
from wm_vec.train.collect import RandomActions
from wm_vec.train.episodes import Imagination, imagined_episodes, real_episodes

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HALF = torch.bfloat16 if CUDA else torch.float32  # the interpreter computes bfloat16 wrongly
on_a_card = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="needs a CUDA device")]
NAMES = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1")
WORLDS = [*(pytest.param(name, marks=on_a_card) for name in NAMES), *([] if CUDA else ["FrozenLake-v1"])]
R2_BAR = 0.999
"""Of the residual in every dimension."""


@pytest.mark.parametrize("name", WORLDS)
def test_steps_and_episodes_in_bfloat16_are_those_in_float32(name, record_property):
    num_envs, num_steps = (4096, 64) if CUDA else (3, 2)
    world = WorldModel.bundled(name, device=DEVICE)
    engines = [
        world.to_engine(num_envs, backend="triton", dtype=dtype, max_episode_steps=50, seed=0)
        for dtype in (torch.float32, HALF)
    ]
    full, half = engines
    errors, same, lengths = [], [], []
    for engine in engines:
        engine.reset()
    for _ in range(num_steps):
        actions = full.sample_actions()
        _, ours = step(half.world, full.state(), half.world.actions.check(actions, num_envs))
        theirs = full.step(actions)
        values, exact = (output.final_state["values"].double() for output in (ours, theirs))
        equal = (ours.terminated == theirs.terminated)[:, 0] & ((values - exact).abs() < 0.25).all(1)
        errors.append((values - exact)[equal].norm() / (exact - exact.mean(0))[equal].norm().clamp_min(1e-9))
        same.append(equal.double().mean())
        free = half.step(half.sample_actions())
        lengths.append([output.episode_length[output.finished] for output in (theirs, free)])
    error, equal = float(torch.stack(errors).max()), float(torch.stack(same).mean())
    record_property("error, share equal", (error, equal))
    assert error < 5e-3
    assert equal > 0.99
    both = [torch.cat(side).cpu().numpy() for side in zip(*lengths, strict=True)]
    if CUDA:
        compared = ks_figure("lengths", *both)
        record_property("lengths", compared)
        assert compared["met"]


@pytest.mark.parametrize("k", [3, None])
@pytest.mark.parametrize("name", WORLDS)
def test_imagined_steps_and_episodes_are_the_environments(name, k, record_property):
    num_steps, num_episodes = (4000, 300) if CUDA else (24, 2)
    world, env = WorldModel.bundled(name, device=DEVICE), gym.make(name)
    horizon, space = min(200, env.spec.max_episode_steps) if CUDA else 4, env.action_space
    options = {"n_denoise_steps": k, "autoreset_mode": "disabled", "backend": "triton", "dtype": HALF}
    engine = partial(world.to_engine, **options)
    data = collect_transitions(name, num_steps, "random", seed=40_000)
    now, action, after = (data[key].numpy() for key in ("observation", "action", ("next", "observation")))
    imagined = Imagination(engine(1)).steps(now, action[None], 1).observation[0]
    if now.ndim > 1:
        r2 = residual_r2(now, after, imagined)
        record_property("residual R2", r2)
        assert min(r2) > R2_BAR
    policies = [RandomActions(space, num_episodes, seed, "random") for seed in (2, 3)]
    real = real_episodes(name, num_episodes, policies[0], max_steps=horizon, seed=50_000)
    dreams = engine(num_episodes, max_episode_steps=horizon)
    dreamt = imagined_episodes(dreams, space, policies[1], max_steps=horizon, seed=3)
    for what in ("lengths", "returns"):
        compared = ks_figure(what, getattr(real, what), getattr(dreamt, what))
        record_property(what, compared)
        assert compared["met"]


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_no_face_waits():
    world = WorldModel.bundled("CartPole-v1", device=DEVICE)
    engine, env = world.to_engine(64, seed=0), world.to_vector_env(64, seed=0)
    engine.reset()
    env.reset(seed=0)
    weights = torch.randn(4, 2, device=DEVICE)
    calls = {
        "engine": lambda: engine.step(engine.sample_actions()),
        "vector env": lambda: env.step(env.engine.sample_actions()["agent"]),
        "TorchRL env": stepper(world.to_torchrl_env(64, seed=0), 64),
        "imagine": lambda: engine.imagine(lambda observation: (observation @ weights).argmax(-1), 3),
    }
    for call in calls.values():
        for _ in range(2):
            call()  # compiles, captures and allocates
        if CUDA:
            torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            if CUDA:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_a_card), "cpu"])
def test_agents_of_a_grouped_world_see_what_the_reference_says(device, monkeypatch):
    monkeypatch.setattr(cpu, "TILES_PAY", 9.0)  # in host memory it is the attention in tiles that stands in
    fields = {"firm": {"sales": Field(w=3), "plan": Field()}, "person": {"mood": Field(), "effort": Field()}}
    agents = {
        "firm": AgentSpec(["firm.sales"], ["firm.plan"], lambda obs, act, info: obs["firm.sales"].mean()),
        "person": AgentSpec(["person.mood"], ["person.effort"], lambda obs, act, info: obs["person.mood"][0]),
    }
    rollouts = []
    for place, by in (("cpu", partial(use_backend, "reference")), (device, nullcontext)):
        world = WorldModel(fields, config=ModelConfig(topology="groups", num_blocks=4)).to(place)
        world.bank = torch.zeros(1, world.num_positions, device=place)
        with torch.no_grad():  # summaries reach from one group to the other
            world.model.denoiser.head_weight.fill_(0.3)
        envs = world.to_multi_vector_env(agents, num_envs=8, seed=0)
        envs.reset()
        for step_number in range(3):
            actions = {name: torch.linspace(-1, 1, 8, device=place)[:, None] * (step_number - 1) for name in agents}
            with by():
                td = envs.step(actions)
        rollouts.append(torch.stack([td[name, "reward"].cpu() for name in agents]))
    torch.testing.assert_close(*rollouts, rtol=1e-3, atol=1e-3)
    assert float(rollouts[0].std(1).min()) > 1e-3
