"""Graphs on a GPU: the same numbers, and no waits; without one a tape stands in for it to run the checks."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from examples import ppo_tensor
from tests.core.tape import Tape
from wm_kernels import use_backend
from wm_vec import WorldModel, captured
from wm_vec.core import capture
from wm_vec.core.capture import Template
from wm_vec.envs import ImaginationCollector

MODES = ["same_step", "next_step", "disabled"]


@pytest.fixture(
    params=[
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
        ),
        "cpu",
    ]
)
def device(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.setitem(capture.GRAPHS, "cpu", Tape)
    with use_backend("reference") if request.param == "cpu" else nullcontext():
        yield request.param


@pytest.fixture(autouse=True)
def backend():
    """The implementations are those of the device."""


@contextmanager
def no_waits(device):
    """Inside, torch raises where the host waits for the device."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def assert_same(*trees):
    for a, b in zip(*(Template(tree).tensors for tree in trees), strict=True):
        assert torch.equal(a, b)


def engines(device, name="CartPole-v1", num_envs=33, **options):
    """The same envs captured and not."""
    world = WorldModel.bundled(name, device=device)
    made = [world.to_engine(num_envs, seed=1, max_episode_steps=6, capture=c, **options) for c in (True, False)]
    for engine in made:
        engine.reset()
    return made


def seed_all(device):
    torch.manual_seed(4)
    if device == "cuda":
        torch.cuda.manual_seed_all(4)


class Drawn(nn.Module):
    """Draws one of two actions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Linear(4, 2)

    def forward(self, observation):
        logits = self.logits(observation)
        return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("copies", [True, False])
def test_captured_steps_are_the_steps_bit_by_bit(device, name, mode, copies):
    ours, theirs = engines(device, name, autoreset_mode=mode, copy=copies)
    for _ in range(12):
        action = theirs.sample_actions()
        assert_same(*((engine.step(action), engine._state) for engine in (ours, theirs)))
    with no_waits(device):
        for _ in range(8):
            action = theirs.sample_actions()
            outputs = [engine.step(action) for engine in (ours, theirs)]
    assert_same(*outputs)
    assert_same(ours.state(), theirs.state())


def test_weights_and_banks_are_read_where_they_are(device):
    ours, theirs = engines(device)
    for change in range(4):
        for _ in range(3):
            action = theirs.sample_actions()
            assert_same(*((engine.step(action), engine._state) for engine in (ours, theirs)))
        if change == 0:
            with torch.no_grad():
                for parameter in ours.dynamics.model.parameters():
                    parameter.mul_(1.01)
        for engine in (ours, theirs) if change else ():
            rows = engine.world.resets.buffer[0][:3].repeat(1 if change == 1 else 900, 1)
            engine.load_bank(engine.dynamics._as_state(rows + 0.01))


def test_captured_imagination_draws_as_the_uncaptured_and_anew_each_time(device):
    ours, theirs = engines(device)
    policy = Drawn().to(device)
    for _ in range(3):
        ours.imagine(policy, 8)
    state, rollouts = ours.state(), []
    for engine in (ours, theirs):
        engine.set_state(state)
        seed_all(device)
        rollouts.append(engine.imagine(policy, 8))
    for key, value in rollouts[1].items(True, True):
        assert torch.equal(rollouts[0][key], value), key
    with no_waits(device):
        again = ours.imagine(policy, 8)
    ours.set_state(state)
    assert not torch.equal(ours.imagine(policy, 8)["action"], rollouts[0]["action"])
    assert again.shape == (33, 8)


def test_a_collector_waits_for_nothing(device):
    env = WorldModel.bundled("CartPole-v1", device=device).to_torchrl_env(33, seed=0, max_episode_steps=6, capture=True)
    policy = TensorDictModule(Drawn().to(device), ["observation"], ["action"])
    batches = iter(ImaginationCollector(env, policy, frames_per_batch=33 * 8, total_frames=-1))
    for _ in range(3):
        next(batches)
    with no_waits(device):
        batch = next(batches)
    ended = batch["next", "done"][:, :-1, 0]
    ids = batch["collector", "traj_ids"]
    assert torch.equal(ids[:, 1:] != ids[:, :-1], ended)


def test_a_captured_gradient_step_is_the_step(device):
    networks = []
    for wrap in (captured, lambda fn: fn):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).to(device)
        learning_rate = torch.tensor(0.01, device=device)
        optimizer = torch.optim.Adam(network.parameters(), learning_rate, capturable=device == "cuda")
        optimizer = optimizer if device == "cuda" else torch.optim.SGD(network.parameters(), 0.01)

        def learn(x, network=network, optimizer=optimizer):
            loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            return loss

        step, draw = wrap(learn), torch.Generator().manual_seed(1)
        data = torch.randn(10, 8, 3, generator=draw).to(device)
        for i, x in enumerate(data):
            learning_rate.fill_(0.01 / (1 + i))
            with no_waits(device) if i > 4 else nullcontext():
                step(x)
        networks.append([parameter.detach() for parameter in network.parameters()])
    for ours, theirs in zip(*networks, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("error::UserWarning")
def test_the_example_learns_captured():
    args = ppo_tensor.Args(device="cuda", num_envs=256, num_steps=32, total_timesteps=256 * 32 * 20)
    torch.manual_seed(args.seed)
    envs = WorldModel.bundled("CartPole-v1", device="cuda").to_vector_env(256, max_episode_steps=500, capture=True)
    agent = ppo_tensor.Agent(envs.single_observation_space, envs.single_action_space).to("cuda")
    logs = list(ppo_tensor.train(envs, agent, args))
    assert logs[-1]["mean_return"] > 2 * logs[0]["mean_return"]
