"""The bundled worlds as Gymnasium ids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import wm_vec  # noqa: F401 - registers the worlds
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv
from wm_vec.envs.registration import BUNDLED
from wm_vec.train import CheckpointError

ROOT = Path(__file__).parents[2]
FILES = sorted(file.stem for file in (ROOT / "wm_vec" / "worlds").glob("*.safetensors"))


def test_every_registered_world_has_its_file():
    assert sorted(BUNDLED) == FILES


@pytest.mark.parametrize("env_id", FILES)
def test_make_vec_gives_thousands_of_envs_with_the_real_spaces(env_id):
    envs = gym.make_vec(f"wm_vec/{env_id}", num_envs=4096)
    real = gym.make(env_id)
    assert isinstance(envs, WorldModelVectorEnv)
    assert envs.num_envs == 4096
    assert envs.single_observation_space == real.observation_space
    assert envs.single_action_space == real.action_space
    assert envs.max_episode_steps == real.spec.max_episode_steps
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, _ = envs.reset(seed=0)
    observation, reward, *_ = envs.step(envs.sample_actions())
    assert observation.shape == (4096, *real.observation_space.shape)
    assert torch.isfinite(reward).all()
    assert envs.spec.id == f"wm_vec/{env_id}"


@pytest.mark.parametrize("env_id", FILES)
def test_make_gives_the_scalar_view_with_the_real_spaces(env_id):
    env, real = gym.make(f"wm_vec/{env_id}"), gym.make(env_id)
    assert isinstance(env.unwrapped, WorldModelEnv)
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space
    assert env.spec.max_episode_steps == real.spec.max_episode_steps


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_options_of_the_vector_env_pass_through(mode):
    envs = gym.make_vec(
        "wm_vec/CartPole-v1",
        num_envs=3,
        max_episode_steps=7,
        autoreset_mode=mode,
        n_denoise_steps=2,
        exact_rows=True,
        device="cpu",
        dtype=torch.float64,
        seed=5,
    )
    assert (envs.num_envs, envs.max_episode_steps, envs.autoreset_mode) == (3, 7, mode)
    assert envs.metadata["autoreset_mode"] is mode
    assert envs.engine.config.exact_rows
    assert envs.engine.dynamics.n_denoise_steps == 2
    assert envs.device == torch.device("cpu")
    assert envs.engine.dtype == torch.float64
    first, _ = envs.reset()
    again, _ = envs.reset(seed=5)
    assert torch.equal(first, again)
    flags = [envs.step(envs.sample_actions())[2:4] for _ in range(7)]
    assert flags[-1][1].all()
    assert not any((truncated & ~terminated).any() for terminated, truncated in flags[:-1])


@pytest.mark.parametrize("mode", ["same_step", "NEXT_STEP", "Disabled"])
def test_modes_go_by_name_too(mode):
    envs = gym.make_vec("wm_vec/Pendulum-v1", num_envs=2, autoreset_mode=mode)
    assert envs.autoreset_mode is AutoresetMode[mode.upper()]


def test_options_of_the_scalar_view_pass_through():
    env = gym.make("wm_vec/Pendulum-v1", n_denoise_steps=2, exact_rows=True, device="cpu", dtype=torch.float64, seed=5)
    engine = env.unwrapped.engine
    assert engine.config.exact_rows
    assert engine.dtype == torch.float64
    assert engine.dynamics.n_denoise_steps == 2
    np.testing.assert_array_equal(env.reset()[0], env.reset(seed=5)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_hand_out_what_the_space_says(dtype):
    env = gym.make("wm_vec/Pendulum-v1", dtype=dtype)
    assert env.reset(seed=0)[0] in env.observation_space
    assert env.step(env.action_space.sample())[0] in env.observation_space


def test_n_denoise_steps_change_the_numbers():
    last = []
    for steps in (1, 3):
        envs = gym.make_vec("wm_vec/Pendulum-v1", num_envs=2, n_denoise_steps=steps)
        envs.reset(seed=0)
        last.append(envs.step(torch.zeros(2, 1))[0])
    assert not torch.equal(*last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be"),
        ({"num_envs": 2, "n_denoise_steps": 0}, "n_denoise_steps"),
        ({"num_envs": 2, "autoreset_mode": "never"}, "'next_step', 'same_step', 'disabled'"),
        ({"num_envs": 2, "max_episode_steps": 0}, "max_episode_steps must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gym.make_vec("wm_vec/CartPole-v1", **options)


@pytest.fixture(scope="module")
def saved(pendulum, tmp_path_factory):
    """The file of a world."""
    path = tmp_path_factory.mktemp("saved") / "my_world.safetensors"
    pendulum.save(path)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_saved_world_goes_by_its_path(saved, pendulum, kind):
    envs, expected = gym.make_vec("wm_vec/World-v0", num_envs=3, path=kind(saved)), pendulum.to_vector_env(3)
    assert isinstance(envs, WorldModelVectorEnv)
    assert torch.equal(envs.reset(seed=4)[0], expected.reset(seed=4)[0])
    actions = torch.ones(3, 1)
    assert all(torch.equal(a, b) for a, b in zip(envs.step(actions)[:4], expected.step(actions)[:4], strict=True))
    env = gym.make("wm_vec/World-v0", path=kind(saved))
    assert isinstance(env.unwrapped, WorldModelEnv)
    assert torch.equal(torch.from_numpy(env.reset(seed=4)[0]), expected.reset(seed=4)[0][0])
    each = gym.make_vec("wm_vec/World-v0", num_envs=2, vectorization_mode="sync", path=kind(saved))
    np.testing.assert_array_equal(each.reset(seed=4)[0][0], env.reset(seed=4)[0])


@pytest.mark.parametrize(("given", "length"), [({}, 200), ({"max_episode_steps": 7}, 7)])
def test_episodes_of_a_saved_world_are_as_long_as_in_its_environment(saved, given, length):
    assert gym.make_vec("wm_vec/World-v0", num_envs=2, path=saved, **given).max_episode_steps == length
    env = gym.make("wm_vec/World-v0", path=saved, n_denoise_steps=1, **given)
    env.reset(seed=0)
    flags = [env.step(env.action_space.sample())[2:4] for _ in range(length)]
    assert flags == [(False, False)] * (length - 1) + [(False, True)]


def test_options_of_a_saved_world_pass_through(saved):
    envs = gym.make_vec(
        "wm_vec/World-v0",
        num_envs=2,
        path=saved,
        dtype=torch.float64,
        autoreset_mode="disabled",
        obs_fields=["observation"],
        act_fields=["action"],
        reward_fn=lambda obs, act, info: 7.0 + 0.0 * act.sum(),
    )
    assert envs.engine.dtype == torch.float64
    assert envs.autoreset_mode is AutoresetMode.DISABLED
    envs.reset(seed=0)
    assert envs.step(torch.zeros(2, 1))[1].tolist() == [7.0, 7.0]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_a_path_that_is_missing_or_no_world_is_refused(make, tmp_path):
    with pytest.raises(TypeError, match="needs the file of a world: path="):
        make("wm_vec/World-v0")
    with pytest.raises(FileNotFoundError, match="no checkpoint here"):
        make("wm_vec/World-v0", path=tmp_path / "none")
    (tmp_path / "cut").write_bytes(b"\x10\x00")
    with pytest.raises(CheckpointError, match="cut short"):
        make("wm_vec/World-v0", path=tmp_path / "cut")


def in_a_fresh_process(script) -> str:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_registering_imports_nothing_heavy():
    """Gymnasium alone brings no torch, and neither does registering."""
    out = in_a_fresh_process(
        "import sys, gymnasium\n"
        "heavy = ('torch', 'tensordict', 'wm_kernels', 'wm_vec.core')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import wm_vec\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "print('wm_vec/CartPole-v1' in gymnasium.registry, 'wm_vec/Pendulum-v1' in gymnasium.registry)\n"
    )
    assert out.splitlines() == ["[]", "[]", "True True"]


def test_an_id_with_its_module_needs_no_import(saved):
    out = in_a_fresh_process(
        "import gymnasium\n"
        "print(gymnasium.make('wm_vec:wm_vec/CartPole-v1').unwrapped)\n"
        "print(gymnasium.make_vec('wm_vec:wm_vec/Pendulum-v1', num_envs=2))\n"
        f"print(gymnasium.make_vec('wm_vec:wm_vec/World-v0', num_envs=2, path={str(saved)!r}))\n"
    )
    assert "WorldModelEnv" in out
    assert "WorldModelVectorEnv(wm_vec/Pendulum-v1, num_envs=2)" in out
    assert "WorldModelVectorEnv(wm_vec/World-v0, num_envs=2)" in out
