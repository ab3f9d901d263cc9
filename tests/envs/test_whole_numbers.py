"""Worlds learned from Boxes of whole numbers: whole numbers in and out, on every face."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from wm_vec import ModelConfig, WorldModel
from wm_vec.canvas import EnvSignature

DTYPES = [np.int8, np.uint8, np.int16, np.int32, np.int64]
STEPS = 4


def learned(dtype=np.int64, network=torch.float32, observed=None) -> WorldModel:
    observed = Box(3, 9, (3,), dtype) if observed is None else observed
    signature = EnvSignature(observed, Box(0, 10, (2,), dtype), 3)
    world = WorldModel.from_signature(signature, config=ModelConfig(num_blocks=1), dtype=network)
    world.trained = True
    return world


def never(obs, step, info):
    return step < 0


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_vector_env_takes_and_shows_whole_numbers(dtype, mode):
    envs = learned(dtype).to_vector_env(5, autoreset_mode=mode, seed=0)
    observation, _ = envs.reset()
    for own in (False, True) * STEPS:
        assert observation.numpy() in envs.observation_space
        action = envs.sample_actions() if own else torch.from_numpy(envs.action_space.sample())
        assert not action.is_floating_point()
        assert action.numpy().astype(dtype) in envs.action_space
        observation, _, terminated, truncated, _ = envs.step(action)
        if mode is AutoresetMode.DISABLED:
            observation, _ = envs.reset(options={"reset_mask": terminated | truncated})


@pytest.mark.parametrize("network", [torch.float32, torch.float64, torch.bfloat16])
def test_all_faces_show_the_same_whole_numbers(network):
    sb3 = pytest.importorskip("wm_vec.envs.sb3")
    world = learned(network=network)
    options = {"exact_rows": True, "terminated_fn": never}
    envs, env = world.to_vector_env(1, **options), world.to_env(**options)
    td_env, venv = world.to_torchrl_env(1, **options), sb3.SB3VecEnv(world.to_vector_env(1, **options))
    check_env_specs(td_env)
    td_env.set_seed(4)
    venv.seed(4)
    td = td_env.reset()
    seen = [envs.reset(seed=4)[0][0], env.reset(seed=4)[0], td["observation"][0], venv.reset()[0]]
    for _ in range(2):
        assert [str(np.asarray(one).dtype) for one in seen] == ["int64"] * 4
        for one in seen[1:]:
            np.testing.assert_array_equal(seen[0], one)
        action = env.action_space.sample()
        td = td_env.step(td.set("action", torch.as_tensor(action)[None]))["next"]
        after = envs.step(torch.as_tensor(action)[None])[0][0], env.step(action)[0]
        seen = [*after, td["observation"][0], venv.step(action[None])[0][0]]


def test_what_is_given_from_outside_is_clipped_into_the_space():
    far = Box(-np.inf, np.inf, (1,), np.int64)
    parts = Dict(image=Box(0, 255, (3,), np.uint8), level=Box(-5, -5, (1,), np.int8), far=far)
    envs = learned(observed=parts).to_vector_env(2, seed=0)
    given = {
        "image": torch.tensor([[300.0, -3.0, 4.6]]),
        "level": torch.tensor([[7.0]]),
        "far": torch.tensor([[1e30]]),
    }
    envs.start_from(TensorDict(given, [1]))
    observation, _ = envs.reset()
    assert observation["image"][0].tolist() == [255, 0, 5]
    assert observation["level"][0].tolist() == [-5]
    assert observation["far"][0].item() > 2**62, "as far as int64 reaches, on the right side"


def test_fractions_and_strays_are_refused_where_values_are_read():
    sb3 = pytest.importorskip("wm_vec.envs.sb3")
    world = learned(np.int8)
    envs, env, venv = world.to_vector_env(2, validate=True), world.to_env(), sb3.SB3VecEnv(world.to_vector_env(2))
    for one in (envs, env):
        one.reset(seed=0)
    venv.reset()
    with pytest.raises(TypeError, match="must be integers"):
        envs.step(torch.full((2, 2), 0.37))
    with pytest.raises(TypeError, match="must be integers"):
        envs.step(np.full((2, 2), 0.37))
    with pytest.raises(ValueError, match=r"whole numbers from \[0, 0\] to \[10, 10\]; env 1 got \[3, 300\]"):
        envs.step(torch.tensor([[3, 10], [3, 300]]))
    with pytest.raises(ValueError, match="whole numbers of shape"):
        env.step(np.array([0.37, 1.0]))
    for bad in (0.37, 300, np.nan):
        with pytest.raises(ValueError, match=r"whole numbers of Box\(0, 10"):
            venv.step(np.full((2, 2), bad))
    venv.step(np.full((2, 2), 7.0))
    td_env = world.to_torchrl_env(2)
    td = td_env.reset().set("action", torch.full((2, 2), 0.37))
    with pytest.raises(TypeError, match="must be whole numbers"):
        td_env.step(td)


def test_planners_choose_whole_numbers_within_the_bounds():
    from wm_vec.plan.planning_env import ActionEncoding

    encoding = ActionEncoding(learned(np.int8).to_torchrl_env(2).to_stateless())
    code = torch.tensor([[-1.0, 1.0], [0.0, 0.55]])
    assert encoding.decode(code).tolist() == [[0, 10], [5, 8]]
    assert encoding.decode(code).dtype is torch.int8


def test_the_policy_of_the_command_line_refuses_them():
    from wm_vec.cli.ppo import Policy

    with pytest.raises(ValueError, match=r"fractions, got Box\(0, 10"):
        Policy(learned())
