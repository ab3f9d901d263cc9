"""What a step's info gives when it is read much later."""

from functools import partial
from types import MappingProxyType

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict
from torch import Tensor

from tests.core.walk import Walk, tensors_of
from wm_vec import batched
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

LAZY = ("obs_dict", "predictions", "model_state")
MODES = ["same_step", "next_step", "disabled"]


def bundled(world, mode):
    return lambda: world.to_vector_env(6, seed=0, max_episode_steps=4, autoreset_mode=mode)


def walking(mode):
    spaces = Box(-np.inf, np.inf, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)
    options = {"num_envs": 6, "seed": 0, "max_episode_steps": 4, "autoreset_mode": mode}
    return lambda: WorldModelVectorEnv.from_dynamics(Walk(), *spaces, **options)


def read(info):
    """Everything in an info, lazy entries included, as copies."""
    entries = {**info, **{key: info[key] for key in LAZY}}
    if "final_info" in info:
        entries["final_info"] = read(info["final_info"])
    return {key: entries[key] for key in sorted(entries)}


def late(make):
    """Infos of a dozen steps, each read ten steps after its own, with the step's observations."""
    env, kept = make(), []
    kept.append((*env.reset(), None))
    for draw in range(22):
        action = env.engine.sample_actions(draw)["agent"]
        observation, *_, info = env.step(action)
        kept.append((observation, info, info.get("final_obs")))
        if draw == 15:
            env.reset(options={"reset_mask": torch.tensor([True, False] * 3)})
        if draw == 18:
            env.set_state(env.state()[torch.arange(5, -1, -1)])
    return [(observation, read(info), final) for observation, info, final in kept[:12]]


def at_once(make):
    """The same, each read and copied before the next step."""
    env, infos = make(), []
    infos.append([t.clone() for t in tensors_of(read(env.reset()[1]))])
    for draw in range(11):
        info = env.step(env.engine.sample_actions(draw)["agent"])[-1]
        infos.append([t.clone() for t in tensors_of(read(info))])
    return infos


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", ["canvas", "walk"])
def test_an_info_that_is_read_late_tells_of_its_own_step(world, mode, cartpole):
    make = walking(mode) if world == "walk" else bundled(cartpole, mode)
    ended = 0
    for (observation, info, final), expected in zip(late(make), at_once(make), strict=True):
        got = [*tensors_of(info)]
        assert len(got) == len(expected) > 2
        assert all(map(torch.equal, got, expected))
        assert torch.equal(info["obs_dict"]["observation"], observation)
        if final is not None:
            assert torch.equal(info["final_info"]["obs_dict"]["observation"], final)
            assert torch.equal((final != observation).any(-1), info["_final_obs"])
        ended += int(info["_episode"].sum()) if "_episode" in info else 0
    assert ended >= 6


def test_writing_into_what_was_read_changes_neither_the_env_nor_other_entries(cartpole):
    env, clean = (bundled(cartpole, "same_step")() for _ in range(2))
    env.reset(), clean.reset()
    for draw in range(6):
        action = clean.engine.sample_actions(draw)["agent"]
        observation, *_, info = env.step(action)
        *_, expected = clean.step(action)
        for tensor in tensors_of([observation, *(info[key] for key in LAZY[:2])]):
            tensor.fill_(7.0)
        for tensor in tensors_of([info["final_info"][key] for key in LAZY]):
            tensor.fill_(7.0)
        assert all(map(torch.equal, tensors_of(info["model_state"]), tensors_of(expected["model_state"])))
        for tensor in tensors_of(info["model_state"]):
            tensor.fill_(7.0)
        assert bool((env.state() == clean.state()).all())


@pytest.mark.parametrize("exact_rows", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_what_is_written_into_an_info_changes_nothing(batching, mode, exact_rows):
    """A model that reports the states it was given and makes, by themselves and inside of all that can hold them."""

    def step(state, action):
        after = state + 1
        info = {"latent": after, "before": state, "parts": {"all": [after, (after,)]}}
        if batching == "batched":
            info |= {"tensordict": TensorDict({"x": after}, batch_size=[len(after)]), "array": after.numpy()}
            info["settled"] = MappingProxyType({"x": {"y": after}})
        return {"state": after, "observation": 10 * after, "reward": after.sum(-1), "info": info}

    def start(seeds):
        state = torch.zeros(len(seeds), 2)
        return state, 10 * state, {"latent": state}

    spaces = Box(-np.inf, np.inf, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)
    options = {"num_envs": 2, "batching": batching, "seed": 0, "autoreset_mode": mode, "reset_fn": batched(start)}
    options["exact_rows"] = exact_rows
    envs = WorldModelVectorEnv.from_callables(step, *spaces, **options)
    _, info = envs.reset()
    for time in range(1, 4):
        for leaf in tensors_of(info):
            leaf.fill_(-100.0)
        kept = info
        observation, reward, *_, info = envs.step(envs.sample_actions())
        assert observation.tolist() == [[10.0 * time] * 2] * 2
        assert reward.tolist() == [2.0 * time] * 2
        assert torch.equal(info["latent"], torch.full((2, 2), float(time)))
        assert torch.equal(kept["model_state"], torch.full((2, 2), time - 1.0)), "read after what was reported of it"
        assert (kept["latent"] == -100.0).all(), "and what was kept stays the caller's"


@pytest.mark.parametrize(
    "entry", [lambda x: x, lambda x: {"x": [x]}, lambda x: MappingProxyType({"x": x}), Tensor.numpy]
)
@pytest.mark.parametrize("scalar", [False, True])
def test_a_buffer_that_a_model_writes_into_again_does_not_change_kept_infos(scalar, entry):
    buffer = torch.zeros(1, 2)

    def step(state, action):
        buffer.add_(1)
        return {"observation": state + 1, "reward": 0.0, "info": {"own": entry(buffer)}}

    spaces = Box(-np.inf, np.inf, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)
    options = {"batching": "batched", "initial_observation": torch.zeros(2)}
    made = WorldModelEnv if scalar else partial(WorldModelVectorEnv.from_callables, num_envs=1)
    env = made(step, *spaces, **options)
    env.reset(seed=0)
    action = np.zeros(1, np.float32) if scalar else torch.zeros(1, 1)
    kept = [env.step(action)[4] for _ in range(3)]
    assert [float(next(iter(tensors_of(info["own"]))).max()) for info in kept] == [1.0, 2.0, 3.0]


def test_arrays_of_chunks_are_joined_as_tensors_are():
    def step(state, action):
        return {"observation": state, "reward": 0.0, "info": {"array": state[:, 0].numpy(), "tensor": state[:, 0]}}

    spaces = Box(-np.inf, np.inf, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)
    options = {"num_envs": 40, "exact_rows": True, "initial_observation": torch.arange(80.0).view(40, 2)}
    envs = WorldModelVectorEnv.from_callables(step, *spaces, **options)
    envs.reset(seed=0)
    info = envs.step(torch.zeros(40, 1))[4]
    np.testing.assert_array_equal(info["array"], info["tensor"].numpy())
