"""What a step's info gives when it is read much later."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict

from tests.core.walk import Walk, tensors_of
from wm_vec import batched
from wm_vec.envs import WorldModelVectorEnv

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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_what_is_written_into_an_info_changes_nothing(batching, mode):
    """A model that reports its own state, by itself and inside of dicts, lists, TensorDicts and arrays."""

    def step(state, action):
        after = state + 1
        info = {"latent": after, "parts": {"all": [after, (after,)]}}
        if batching == "batched":
            info |= {"tensordict": TensorDict({"x": after}, batch_size=[2]), "array": after.numpy()}
        return {"state": after, "observation": 10 * after, "reward": after.sum(-1), "info": info}

    def start(seeds):
        state = torch.zeros(len(seeds), 2)
        return state, 10 * state, {"latent": state}

    spaces = Box(-np.inf, np.inf, (2,), np.float32), Box(-1.0, 1.0, (1,), np.float32)
    options = {"num_envs": 2, "batching": batching, "seed": 0, "autoreset_mode": mode, "reset_fn": batched(start)}
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
        assert (kept["latent"] == -100.0).all(), "and what was kept stays the caller's"
