"""`backend` and `dtype`: who steps a canvas, and what is said where no kernel can."""

import gymnasium as gym
import pytest
import torch

from tests.core.walk import BOX, Walk
from wm_vec import WorldModel, plain
from wm_vec.adapters import CanvasDynamics
from wm_vec.canvas import Field, compile_schema
from wm_vec.core import Engine, EngineConfig, Perspective


@pytest.fixture(scope="module")
def world():
    return WorldModel.bundled("CartPole-v1")


def wide():
    """A canvas of a width that no kernel has."""
    return WorldModel(compile_schema({"speed": Field(), "push": Field(is_output=False)}, d_model=96))


@pytest.mark.parametrize("make", ["to_engine", "to_vector_env", "to_torchrl_env"])
def test_every_face_takes_a_backend(world, make):
    def engine_of(**settings):
        made = getattr(world, make)(2, **settings)
        return getattr(made, "engine", made)

    assert engine_of(backend="triton").world.fused is not None
    assert engine_of(backend="torch").world.fused is None
    assert engine_of().world.fused is None, "on a CPU torch runs"
    assert engine_of(backend="triton", dtype=torch.float32).dynamics.packed().kernel.weights.dtype is torch.float32


def test_gymnasiums_call_takes_one():
    env = gym.make_vec("wm_vec/CartPole-v1", num_envs=2, backend="triton", capture=False)
    assert env.engine.world.fused is not None


def test_what_no_kernel_takes_is_refused_where_kernels_are_demanded(world, monkeypatch):
    settings = {"obs_fields": ["speed"], "act_fields": ["push"], "reward_fn": lambda o, a, i: o["speed"].sum()}
    with pytest.raises(ValueError, match=r"backend='triton': no kernel takes this world: its d_model is 96"):
        wide().to_vector_env(2, max_steps=3, backend="triton", **settings)
    double = WorldModel(compile_schema({"speed": Field(), "push": Field()}), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"it is in torch.float64, not torch.float32"):
        double.to_vector_env(2, max_steps=3, backend="triton", **settings)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"it is on cpu, and kernels run on CUDA devices"):
        world.to_engine(2, backend="triton")
    with pytest.raises(ValueError, match=r"backend='triton' needs a CUDA device and Triton, not cpu"):
        Engine(Walk(), 2, [Perspective(BOX)], EngineConfig(backend="triton"))


def test_where_kernels_would_run_a_world_that_they_do_not_take_falls_back_and_says_so_once(monkeypatch):
    monkeypatch.setattr(plain, "_SAID", set())
    monkeypatch.setattr(CanvasDynamics, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr("wm_vec.adapters.canvas.has_kernels", lambda device: True)
    model = wide().model
    with pytest.warns(UserWarning, match=r"No kernel takes this world: its d_model is 96.* It runs in torch") as said:
        made = [CanvasDynamics(model, ["push"]) for _ in range(2)]
    assert len(said) == 1
    assert [dynamics.packed().kernel for dynamics in made] == [None, None]
    taken = CanvasDynamics(WorldModel.bundled("CartPole-v1").model, ["action"])
    assert taken.packed().kernel.weights.dtype is torch.bfloat16, "the default on CUDA"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "cuda"}, "backend must be one of 'auto', 'torch', 'triton', got 'cuda'"),
        ({"dtype": torch.float16}, "dtype must be torch.float32, torch.bfloat16 or None, got torch.float16"),
        ({"dtype": "bf16"}, "dtype must be"),
    ],
)
def test_other_backends_and_dtypes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**settings)


def test_users_functions_run_between_two_kernels(world):
    def reward(obs, act, info):
        return obs["observation"][0] - act * 0.5

    rollouts = []
    for backend in ("torch", "triton"):
        env = world.to_vector_env(
            5, reward_fn=reward, max_steps=4, backend=backend, seed=1, n_denoise_steps=2, dtype=torch.float32
        )
        observation, _ = env.reset()
        seen = [observation]
        for _ in range(6):
            observation, paid, ended, cut, info = env.step(env.sample_actions())
            seen += [observation, paid, ended.float(), cut.float(), info["final_obs"]]
        rollouts.append(seen)
    for one, two in zip(*rollouts, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "mode", ["same_step", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("next_step", "disabled"))]
)
@pytest.mark.parametrize("name", ["FrozenLake-v1", "CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_bundled_worlds_take_the_same_steps(name, mode):
    settings = {"seed": 3, "max_episode_steps": 2, "autoreset_mode": mode, "n_denoise_steps": 2}
    torch_engine, kernel_engine = (
        WorldModel.bundled(name).to_engine(9, backend=backend, **settings) for backend in ("torch", "triton")
    )
    torch_engine.reset()
    kernel_engine.reset()
    for _ in range(4):
        action = torch_engine.sample_actions()
        one, two = torch_engine.step(action), kernel_engine.step(action)
        for field in ("observation", "final_observation", "reward", "terminated", "truncated", "was_reset", "diverged"):
            a, b = getattr(one, field), getattr(two, field)
            a, b = (x["agent"] if isinstance(x, dict) else x for x in (a, b))
            assert a.dtype == b.dtype, field
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, n=field: f"{n}: {m}")
        after = [engine.state() for engine in (torch_engine, kernel_engine)]
        for counter in ("elapsed", "episode", "seed", "pending", "ended"):
            assert torch.equal(getattr(after[0], counter), getattr(after[1], counter)), counter
        torch_engine.set_state(after[1])


def test_a_dynamics_of_ones_own_ends_its_step_in_a_kernel():
    rollouts = []
    for backend in ("torch", "triton"):
        engine = Engine(Walk(truncates=True), 6, [Perspective(BOX)], EngineConfig(backend=backend, max_episode_steps=3))
        engine.reset(seed=4)
        rollouts.append([engine.step({"agent": torch.full((6, 1), 0.9)}) for _ in range(5)])
    for one, two in zip(*rollouts, strict=True):
        for name in ("reward", "terminated", "truncated", "finished", "episode_return", "episode_length"):
            torch.testing.assert_close(getattr(one, name), getattr(two, name), msg=name)
        torch.testing.assert_close(one.observation["agent"], two.observation["agent"])


def test_gradients_leave_the_kernels(world):
    env = world.to_vector_env(2, backend="triton", max_steps=3, n_denoise_steps=1)
    env.reset(seed=0)
    policy = torch.nn.Linear(4, 2)
    rollout = env.imagine(lambda obs: policy(obs).argmax(-1), 2, grad=True)
    assert rollout["next", "reward"].shape == (2, 2, 1)
