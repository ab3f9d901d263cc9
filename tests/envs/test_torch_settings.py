"""What the caller sets in torch for other code changes nothing: autocast, the default dtype, inference mode."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from wm_vec import TrainConfig, WorldModel
from wm_vec.envs import WorldModelVectorEnv
from wm_vec.envs.sb3 import SB3VecEnv
from wm_vec.train import collect_transitions

STEPS = 3


@contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu"),
    "float64": float64_by_default,
    "inference": torch.inference_mode,
}
settings = pytest.mark.parametrize("setting", SETTINGS)


def vector(env):
    seen, _ = env.reset(seed=0)
    for _ in range(STEPS):
        yield seen
        seen, reward, *_ = env.step(env.sample_actions())
        yield reward


def stable_baselines(env):
    yield env.reset()
    for _ in range(STEPS):
        seen, reward, *_ = env.step(np.zeros((2, 1), np.float32))
        yield from (seen, reward)


def scalar(env):
    yield env.reset(seed=0)[0]
    for _ in range(STEPS):
        seen, reward, *_ = env.step(np.zeros(1, np.float32))
        yield from (seen, np.asarray(reward))


def torchrl(env):
    env.set_seed(0)
    rollout = env.rollout(STEPS)
    yield from (rollout["observation"], rollout["next", "reward"])


def imagined(env):
    env.reset(seed=0)
    rollout = env.imagine(lambda seen: torch.zeros(2, 1), STEPS)
    yield from (rollout["next", "observation"], rollout["next", "reward"])


def predicted(world):
    yield from world.predict(num_samples=2).values()


FACES = {
    "vector": (lambda world: world.to_vector_env(2), vector),
    "reward_fn": (
        lambda world: world.to_vector_env(2, reward_fn=lambda o, a, i: o["observation"] @ o["observation"]),
        vector,
    ),
    "scalar": (WorldModel.to_env, scalar),
    "torchrl": (lambda world: world.to_torchrl_env(2), torchrl),
    "stateless": (lambda world: world.to_torchrl_env(2).to_stateless(), torchrl),
    "sb3": (lambda world: SB3VecEnv(world.to_vector_env(2, seed=0)), stable_baselines),
    "imagine": (lambda world: world.to_vector_env(2), imagined),
    "predict": (lambda world: world, predicted),
}


def numbers(make, roll, while_made=nullcontext, while_run=nullcontext, dtype=None):
    with while_made():
        env = make(WorldModel.bundled("Pendulum-v1", dtype=dtype))
    with while_run():
        return [np.array(torch.as_tensor(part).to(torch.float64)) for part in roll(env)]


@settings
@pytest.mark.parametrize("face", FACES)
def test_an_env_gives_the_same_numbers_wherever_it_is_made_and_stepped(face, setting):
    plain, setting = numbers(*FACES[face]), SETTINGS[setting]
    for contexts in ((setting, nullcontext), (nullcontext, setting), (setting, setting)):
        for got, expected in zip(numbers(*FACES[face], *contexts), plain, strict=True):
            np.testing.assert_array_equal(got, expected)


@settings
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_worlds_of_other_dtypes_keep_theirs(dtype, setting):
    make, roll = FACES["vector"]
    plain, got = numbers(make, roll, dtype=dtype), numbers(make, roll, *[SETTINGS[setting]] * 2, dtype=dtype)
    for one, other in zip(got, plain, strict=True):
        np.testing.assert_array_equal(one, other)


@settings
@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_models_of_ones_own_likewise(batching, setting):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)

    def step(state, action):
        after = network(torch.cat([state, action], -1))
        return {"state": after, "observation": after, "reward": after.sum(-1)}

    def rolled():
        spaces = Box(-np.inf, np.inf, (2,)), Box(-1.0, 1.0, (1,))
        options = {"num_envs": 2, "batching": batching, "initial_observation": np.zeros(2, np.float32)}
        return [*vector(WorldModelVectorEnv.from_callables(step, *spaces, **options))]

    plain = rolled()
    with SETTINGS[setting]():
        got = rolled()
    for one, other in zip(got, plain, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def data():
    return collect_transitions("Pendulum-v1", 200, seed=0)


def learned(data):
    world = WorldModel.from_env("Pendulum-v1")
    world.finetune(data, config=TrainConfig(n_steps=4, batch_size=16, eval_every=2))
    return world


@pytest.mark.parametrize("setting", [*SETTINGS, "no_grad"])
def test_training_gives_the_same_weights(data, setting):
    plain = learned(data)
    with {**SETTINGS, "no_grad": torch.no_grad}[setting]():
        got = learned(data)
    assert torch.equal(got.bank, plain.bank)
    for name, tensor in plain.model.state_dict().items():
        assert got.model.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(got.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("reset_inside", [False, True])
def test_a_world_made_in_inference_mode_learns_and_passes_gradients_afterwards(data, reset_inside):
    with torch.inference_mode():
        world = WorldModel.bundled("Pendulum-v1")
        env = world.to_vector_env(2)
        if reset_inside:
            env.reset(seed=0)
            env.step(env.sample_actions())
    if not reset_inside:
        env.reset(seed=0)
    policy = nn.Linear(3, 1)
    env.imagine(policy, STEPS, grad=True)["next", "reward"].sum().backward()
    assert policy.weight.grad.abs().sum() > 0
    world.observe("observation", [1.0, 0.0, 0.0])
    assert world.predict()["observation"].tolist() == [1.0, 0.0, 0.0]
    assert world.finetune(data, config=TrainConfig(n_steps=2, batch_size=16)).steps == 2
