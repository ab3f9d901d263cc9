"""Gradient steps and rollouts as graphs: the same training, bit by bit."""

from __future__ import annotations

import sys
import warnings
from functools import partial

import gymnasium as gym
import pytest
import torch
from torch import nn

from examples import ppo_tensor
from tests.core.tape import Tape
from wm_kernels import use_backend
from wm_vec import WorldModel, captured
from wm_vec.core import capture


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """NumPy, in which host memory draws its words, leaves no operations behind; the references do."""
    Tape.made = 0
    with use_backend("reference"):
        yield


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setitem(capture.GRAPHS, "cpu", Tape)
    # Adam's arithmetic over tensors runs in host memory, too; torch only does not offer it there.
    adam_itself = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(adam_itself, "_get_capturable_supported_devices", lambda *_, **__: ["cpu"])


def learner(make_optimizer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = make_optimizer(network.parameters())

    def learn(batch):
        loss = (network(batch["x"]) - batch["y"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        return {"loss": loss, "size": len(batch["x"])}

    return learn, network


def adam(learning_rate):
    return lambda parameters: torch.optim.Adam(parameters, learning_rate, capturable=True)


def batches(count, sizes=(6,)):
    draw = torch.Generator().manual_seed(1)
    for i in range(count):
        x = torch.randn(sizes[i % len(sizes)], 3, generator=draw)
        yield {"x": x, "y": x.sum(1, keepdim=True)}


@pytest.mark.parametrize("sizes", [(6,), (6, 4)], ids=str)
def test_a_captured_gradient_step_is_the_step_and_reads_its_learning_rate(graphs, sizes):
    runs = []
    for wrap in (lambda fn: fn, captured):
        learning_rate = torch.tensor(0.01)
        learn, network = learner(adam(learning_rate))
        step, results = wrap(learn), []
        for i, batch in enumerate(batches(14, sizes)):
            learning_rate.fill_(0.01 / (1 + i))
            results.append(step(batch))
        runs.append((results, [parameter.detach() for parameter in network.parameters()]))
    (plain, parameters), (replayed, others) = runs
    assert Tape.made == len(sizes)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))
    assert [float(r["loss"]) for r in plain] == [float(r["loss"]) for r in replayed]
    assert [r["size"] for r in replayed] == [r["size"] for r in plain]
    assert not replayed[-1]["loss"].requires_grad


def test_what_moved_is_captured_anew(graphs):
    runs = []
    for wrap in (lambda fn: fn, captured):
        learn, network = learner(lambda parameters: torch.optim.SGD(parameters, 0.1))
        step = wrap(learn)
        for i, batch in enumerate(batches(12)):
            step(batch)
            if i == 5:
                network[0].weight.data = network[0].weight.data * 0.5
        runs.append([parameter.detach() for parameter in network.parameters()])
    assert Tape.made == 2
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_what_reads_the_host_runs_as_it_is_and_says_so(graphs):
    calls = []

    def reads(x):
        calls.append(float(x.sum()))
        return x * calls[-1]

    with pytest.warns(UserWarning, match=r"captured: reads runs operation by operation: it reads values on the host"):
        results = [captured_reads(torch.full((2,), float(i))) for captured_reads in [captured(reads)] for i in range(6)]
    assert Tape.made == 0
    assert calls == [2.0 * i for i in range(6)]
    assert [r[0].item() for r in results] == [2.0 * i * i for i in range(6)]


def test_without_graphs_it_is_the_function():
    learn, _ = learner(lambda parameters: torch.optim.SGD(parameters, 0.1))
    step = captured(learn)
    assert all(step(batch)["loss"].requires_grad for batch in batches(5))
    with pytest.raises(TypeError, match="captured: the function"):
        captured(3)


def trained(num_envs, **options):
    """The figures of a short training, and what it made of the agent."""
    args = ppo_tensor.Args(device="cpu", num_envs=num_envs, num_steps=6, total_timesteps=num_envs * 6 * 5)
    torch.manual_seed(args.seed)
    world = WorldModel.bundled("CartPole-v1")
    envs = world.to_vector_env(num_envs, max_episode_steps=5, backend="torch", **options)
    agent = ppo_tensor.Agent(envs.single_observation_space, envs.single_action_space)
    logs = [{k: v for k, v in log.items() if k != "SPS"} for log in ppo_tensor.train(envs, agent, args)]
    return logs, [parameter.detach() for parameter in agent.parameters()]


def test_the_example_trains_the_same_agent_captured(graphs, monkeypatch):
    monkeypatch.setattr(torch.optim, "Adam", lambda p, lr, eps, capturable: torch.optim.SGD(p, 0.01))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        logs, parameters = trained(4, capture=True)
    made = Tape.made
    monkeypatch.delitem(capture.GRAPHS, "cpu")
    others, plain = trained(4)
    assert made == 2, "a rollout, and a gradient step"
    assert logs == others
    assert all(torch.equal(a, b) for a, b in zip(parameters, plain, strict=True))
    assert sum(log["episodes"] for log in logs) >= 4 * 5


def test_a_rollout_that_reads_the_host_is_played_step_by_step(graphs):
    envs = WorldModel.bundled("CartPole-v1").to_vector_env(3, seed=0, backend="torch", capture=True)
    envs.reset()

    def play(gain):
        obs, reward, *_ = envs.step(torch.ones(3, dtype=torch.int64))
        return obs * gain, float(reward.sum())

    call = envs.captured(play)
    with pytest.warns(UserWarning, match="A rollout cannot be captured: it reads values on the host"):
        results = [call(torch.tensor(2.0)) for _ in range(4)]
    other = gym.make_vec("wm_vec/CartPole-v1", num_envs=3, seed=0)
    other.reset()
    for obs, _ in results:
        assert torch.equal(obs, 2 * other.step(torch.ones(3, dtype=torch.int64))[0])


def test_an_error_in_a_rollout_leaves_the_envs_where_they_were(graphs):
    envs = WorldModel.bundled("CartPole-v1").to_vector_env(3, seed=0, backend="torch", capture=True)
    envs.reset()

    def play(size):
        obs = [envs.step(torch.ones(3, dtype=torch.int64))[0] for _ in range(2)]
        return torch.stack(obs).reshape(2, size.shape[0], 4)

    call = envs.captured(play)
    for _ in range(3):
        call(torch.zeros(3))
    before = envs.state()
    with pytest.raises(RuntimeError, match="shape"):
        call(torch.zeros(4))
    assert (envs.state() == before).all()


def test_partials_and_draws_of_a_rollout_go_on(graphs):
    envs = WorldModel.bundled("CartPole-v1").to_vector_env(3, seed=0, backend="torch", capture=True)
    envs.reset()
    call = envs.captured(partial(lambda steps: [envs.step(envs.sample_actions())[0] for _ in range(steps)][-1], 3))
    seen = [call() for _ in range(4)]
    plain = WorldModel.bundled("CartPole-v1").to_vector_env(3, seed=0, backend="torch", capture=False)
    plain.reset()
    for obs in seen:
        for _ in range(3):
            wanted = plain.step(plain.sample_actions())[0]
        assert torch.equal(obs, wanted)
    assert torch.equal(envs.sample_actions(), plain.sample_actions())
