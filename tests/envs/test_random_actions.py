"""Random actions of every Box, on every face, against Gymnasium's own draws from the same space."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torchrl.collectors import Collector

from wm_vec import ModelConfig, WorldModel
from wm_vec.canvas import EnvSignature
from wm_vec.envs import WorldModelVectorEnv

B, INF = 2000, np.inf
F32, F64 = np.finfo(np.float32), np.finfo(np.float64)
BOXES = {
    "bounded": Box(-2.0, 3.0, (2,), np.float32),
    "no bounds": Box(-INF, INF, (2,), np.float32),
    "from 0": Box(0.0, INF, (2,), np.float32),
    "from 5": Box(5.0, INF, (2,), np.float32),
    "up to 3": Box(-INF, 3.0, (2,), np.float32),
    "of each": Box(np.array([-1, -INF, 2, -INF], np.float32), np.array([1, INF, INF, -3], np.float32)),
    "all of float32": Box(F32.min, F32.max, (2,), np.float32),
    "nearly all of float64": Box(F64.min / 4, F64.max / 4, (2,), np.float64),
    "one huge bound": Box(-1.0, F32.max, (2,), np.float32),
    "float64 from 0": Box(0.0, INF, (2,), np.float64),
    "whole": Box(-3, 4, (2,), np.int64),
    "bytes": Box(0, 255, (2,), np.uint8),
    "whole, no bounds": Box(-INF, INF, (2,), np.int64),
    "int32, no bounds": Box(-INF, INF, (2,), np.int32),
    "whole, from 5": Box(5, INF, (2,), np.int64),
    "whole, up to -7": Box(-INF, -7, (2,), np.int32),
    "whole, huge": Box(-(2**62), 2**62, (2,), np.int64),
    "whole, large": Box(0, 2**40, (2,), np.int64),
}


def vector(space: Box, num_envs: int = B) -> WorldModelVectorEnv:
    def still(state, action):
        return {"state": state, "observation": state, "reward": state.sum(-1)}

    plane = Box(-INF, INF, (2,), np.float32)
    zero = {"initial_state": torch.zeros(2), "initial_observation": torch.zeros(2)}
    return WorldModelVectorEnv.from_callables(still, plane, space, num_envs=num_envs, seed=0, **zero)


def spread(drawn) -> np.ndarray:
    """Quantiles of each number, ``(5, A)`` float64."""
    flat = np.asarray(drawn, np.float64).reshape(len(drawn), -1)
    return np.quantile(flat, [0.1, 0.3, 0.5, 0.7, 0.9], axis=0)


def assert_spreads(drawn: torch.Tensor, expected: np.ndarray, space: Box) -> None:
    assert bool(drawn.isfinite().all())
    # Of B draws the quantiles differ by some hundredths of what they span; whole numbers by one at most.
    scale = expected[-1] - expected[0]
    slack = 0.15 * scale + (space.dtype.kind != "f")
    assert (np.abs(spread(drawn) - expected) <= slack).all()
    assert all(one in space for one in drawn.numpy().astype(space.dtype)[:50])


@pytest.mark.parametrize("name", BOXES)
def test_random_actions_spread_as_gymnasiums_on_every_face(name):
    space = BOXES[name]
    space.seed(1)
    torch.manual_seed(0)
    expected = spread([space.sample() for _ in range(B)])
    envs = vector(space)
    envs.reset()
    env = envs.to_torchrl()
    assert_spreads(envs.sample_actions(), expected, space)
    assert_spreads(env.action_spec.rand(), expected, space)
    td = env.rand_action(env.reset())
    assert_spreads(td["action"], expected, space)
    assert env.action_spec.is_in(td["action"])
    assert td["action"].dtype is env.action_spec.dtype


@pytest.mark.parametrize("name", ["from 5", "all of float32", "of each", "whole, from 5"])
def test_a_spec_of_wide_bounds_stays_one_whatever_is_made_of_it(name):
    spec = vector(BOXES[name], 6).to_torchrl().action_spec
    changed = spec.clone(), spec[0], spec.expand(3, *spec.shape), torch.stack([spec, spec])
    made = [*changed, spec.to("cpu"), spec.to("meta")]
    assert {type(one) for one in made} == {type(spec)}
    for one in made[:-1]:
        assert bool(one.rand((400,)).isfinite().all())
        assert one.is_in(one.rand())
    assert made[-1].rand().device.type == "meta"


def test_a_collector_without_a_policy_acts_within_half_bounds():
    env = vector(BOXES["from 0"], 4).to_torchrl()
    (batch,) = Collector(env, None, frames_per_batch=40, total_frames=40)
    assert bool((batch["action"] >= 0).all())
    assert bool(batch["action"].isfinite().all())
    assert not bool(batch["next", "terminated"].any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("space", [Box(0.0, INF, (2,)), Box(F64.min, F64.max, (2,), np.float64)], ids=str)
def test_a_learned_world_draws_finite_actions_in_its_own_precision(dtype, space):
    signature = EnvSignature(Box(-1.0, 1.0, (2,), np.float32), space, 20)
    world = WorldModel.from_signature(signature, config=ModelConfig(num_blocks=1), dtype=dtype)
    world.trained = True
    envs = world.to_vector_env(64, seed=0)
    envs.reset()
    for _ in range(20):
        assert bool(envs.sample_actions().isfinite().all())


def test_nothing_is_read_on_the_host_for_random_actions():
    world = WorldModel.from_signature(EnvSignature(Box(-1, 1, (2,)), BOXES["of each"], 20), device="meta")
    world.trained = True
    envs = world.to_vector_env(3, seed=0)
    envs.reset()
    assert envs.sample_actions().shape == (3, 4)
    assert isinstance(envs.single_action_space, gym.spaces.Box)
