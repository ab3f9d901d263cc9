"""The same numbers on a GPU as in host memory; without one, host memory stands in for it to run the checks."""

import pytest
import torch

from tests.core.walk import seen, tensors_of
from wm_vec import WorldModel

MODES = ["same_step", "next_step", "disabled"]
WORLDS = ["CartPole-v1", "Pendulum-v1"]
on_a_card = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = [pytest.param("cuda", marks=on_a_card), "cpu"]
BACKENDS = [*(pytest.param("cuda", backend, marks=on_a_card) for backend in ("triton", "torch")), ("cpu", "torch")]


def world_on(name, device):
    return WorldModel.bundled(name).to(device)


def engine_on(name, device, num_envs, functions=False, **options):
    """In float32; with `functions` predict and the end of a step run apart, around users' functions."""
    world = world_on(name, device)
    if not functions:
        return world.to_engine(num_envs, dtype=torch.float32, **options)
    users = {
        "reward_fn": lambda obs, act, info: obs["observation"].square().sum(),
        "terminated_fn": lambda obs, step, info: obs["observation"][1] > 0.5,
    }
    return world.to_vector_env(num_envs, dtype=torch.float32, **users, **options).engine


def compare(ours, theirs, tolerance, what):
    """Numbers to a tolerance, all else bit for bit, wherever they are."""
    ours, theirs = ours.cpu(), theirs.cpu()
    assert ours.dtype == theirs.dtype, what
    limit = tolerance if ours.is_floating_point() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "functions"), [("CartPole-v1", False), ("Pendulum-v1", False), ("Pendulum-v1", True)])
def test_steps_are_those_of_host_memory(name, functions, mode, device, backend):
    """Every step from the state that host memory has, so that what is compared is a step, and no chaos."""
    num_envs, num_steps = (64, 40) if device == "cuda" else (4, 26)
    options = {"autoreset_mode": mode, "max_episode_steps": 12, "seed": 0}
    host = engine_on(name, "cpu", num_envs, functions, **options)
    other = engine_on(name, device, num_envs, functions, backend=backend, **options)
    compare(seen(other.reset()), seen(host.reset()), 0.0, "reset")
    ends = 0
    for step in range(num_steps):
        action = host.sample_actions()["agent"]
        compare(other.sample_actions()["agent"], action, 1e-6, "sampled actions")
        ours, theirs = other.step(action.to(device)), host.step(action)
        assert seen(ours.observation).device.type == device
        for field in ("observation", "final_observation"):
            compare(seen(getattr(ours, field)), seen(getattr(theirs, field)), 1e-5, f"step {step}, {field}")
        for field in ("reward", "episode_return"):
            compare(getattr(ours, field), getattr(theirs, field), 1e-4, f"step {step}, {field}")
        for field in ("terminated", "truncated", "finished", "was_reset", "diverged", "episode_length"):
            compare(getattr(ours, field), getattr(theirs, field), 0.0, f"step {step}, {field}")
        ends += int(theirs.finished.sum())
        if mode == "disabled" and step % 12 == 11:
            compare(seen(other.reset(mask=ours.finished)), seen(host.reset(mask=theirs.finished)), 1e-5, "masked reset")
        for ours, theirs in zip(tensors_of(other.state()), tensors_of(host.state()), strict=True):
            compare(ours, theirs, 1e-4, f"state after step {step}")
        other.set_state(host.state().to(device))
    assert ends >= num_envs * 2


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WORLDS)
def test_exact_rows_are_bit_equal_at_every_number_of_envs(name, mode, device, backend):
    world, sizes = world_on(name, device), (1, 7, 64)
    options = {"exact_rows": True, "autoreset_mode": mode, "max_episode_steps": 9, "seed": 5, "backend": backend}
    engines = [world.to_engine(n, **options) for n in sizes]
    for engine in engines:
        engine.reset()
    for step in range(25 if device == "cuda" else 10):
        action = engines[-1].sample_actions()["agent"]
        results = [engine.step(action[:n]) for n, engine in zip(sizes, engines, strict=True)]
        for n, result in zip(sizes, results, strict=True):
            for field in ("reward", "terminated", "truncated", "finished", "was_reset", "episode_return"):
                compare(getattr(result, field), getattr(results[-1], field)[:n], 0.0, f"{n} envs, step {step}, {field}")
            for field in ("observation", "final_observation"):
                ours, theirs = seen(getattr(result, field)), seen(getattr(results[-1], field))
                compare(ours, theirs[:n], 0.0, f"{n} envs, step {step}, {field}")


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_waits_for_nothing(device):
    """No step or reset reads a value on the host, and new weights and banks need none either."""
    world = world_on("CartPole-v1", device)
    engine = world.to_engine(64, max_episode_steps=3, seed=0)
    engine.reset()
    actions = [engine.sample_actions(draw)["agent"] for draw in range(5)]
    engine.step(actions[0])
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for action in actions:
            engine.step(action)
            engine.sample_actions()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert engine.state().episode.min() >= 1


@pytest.mark.parametrize("device", DEVICES)
def test_states_go_over_and_back(device):
    host, other = (engine_on("Pendulum-v1", d, 5, seed=0) for d in ("cpu", device))
    host.reset()
    state = other.world.layout.check(host.state().to(device))
    other.set_state(state)
    action = torch.full((5, 1), 0.3)
    compare(seen(other.step(action.to(device)).observation), seen(host.step(action).observation), 1e-5, "observation")
    host.set_state(other.state().to("cpu"))
    for ours, theirs in zip(tensors_of(other.fork([4, 0]).state()), tensors_of(host.fork([4, 0]).state()), strict=True):
        compare(ours, theirs, 0.0, "fork")
