"""Graphs that repeat operations and no Python, as CUDA's do: what a graph would freeze shows."""

from __future__ import annotations

import gc
import io
import weakref

import pytest
import torch
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    set_interaction_type,
)
from torch import nn

from tests.core.tape import Tape
from wm_kernels import use_backend
from wm_vec import WorldModel
from wm_vec.core import capture
from wm_vec.core.capture import MOST_KEPT, Template


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """NumPy, in which host memory draws its words, leaves no operations behind; the references do."""
    monkeypatch.setitem(capture.GRAPHS, "cpu", Tape)
    Tape.made = 0
    with use_backend("reference"):
        yield


@pytest.fixture(scope="module")
def world():
    return WorldModel.bundled("CartPole-v1")


def started(world, **options):
    engine = world.to_engine(5, **{"seed": 3, "max_episode_steps": 4, "backend": "torch", "capture": True, **options})
    engine.reset()
    return engine


def assert_same_steps(captured, plain, steps=3):
    for _ in range(steps):
        action = plain.sample_actions()
        ours, theirs = (Template((engine.step(action), engine._state)).tensors for engine in (captured, plain))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("copies", [True, False])
def test_steps_resets_states_banks_and_weights(world, mode, copies):
    world = WorldModel.bundled("CartPole-v1")
    both = [started(world, autoreset_mode=mode, copy=copies, capture=c) for c in (True, False)]
    assert_same_steps(*both, 5)
    for engine in both:
        engine.reset(mask=torch.tensor([True, False, True, False, False]))
    assert_same_steps(*both)
    kept = both[1].state()
    for engine in both:
        engine.load_bank(engine.dynamics._as_state(engine.world.resets.buffer[0][:2] + 0.01))
    assert_same_steps(*both, 5)
    with torch.no_grad():
        for parameter in world.parameters():
            parameter.mul_(1.02)
    assert_same_steps(*both)
    for engine in both:
        engine.set_state(kept)
    assert_same_steps(*both)
    assert Tape.made == 1


def actor():
    torch.manual_seed(0)
    network = TensorDictModule(nn.Linear(4, 2), ["observation"], ["logits"])
    draw = ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=torch.distributions.Categorical)
    return ProbabilisticTensorDictSequential(network, draw)


def test_how_a_policy_is_asked_to_act_is_not_frozen(world):
    policy, engine = actor(), started(world)
    for _ in range(3):
        with set_interaction_type(InteractionType.RANDOM):
            drawn = engine.imagine(policy, 4)
    assert Tape.made == 1
    assert not torch.equal(drawn["action"], drawn["logits"].argmax(-1))
    with set_interaction_type(InteractionType.DETERMINISTIC):
        greedy = engine.imagine(policy, 4)
    assert torch.equal(greedy["action"], greedy["logits"].argmax(-1))


class Blocked(nn.Module):
    """Drops all that it sees in training."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(1.0)

    def forward(self, observation):
        return (self.drop(observation.sign() * 2) != 0).any(-1).long()


def test_nor_is_whether_it_is_in_training(world):
    policy, engine = Blocked().eval(), started(world)
    for _ in range(3):
        assert engine.imagine(policy, 2)["action"].all()
    policy.train()
    assert not engine.imagine(policy, 2)["action"].any()


def test_draws_differ_from_replay_to_replay_and_new_weights_act(world):
    policy, engine = actor(), started(world)
    for _ in range(2):
        engine.imagine(policy, 8)
    state = engine.state()
    with set_interaction_type(InteractionType.RANDOM):
        rollouts = []
        for _ in range(3):
            engine.set_state(state)
            rollouts.append(engine.imagine(policy, 8))
    assert not torch.equal(rollouts[1]["action"], rollouts[2]["action"])
    with torch.no_grad():
        policy[0].module.bias.copy_(torch.tensor([100.0, -100.0]))
    assert not engine.imagine(policy, 8)["action"].any()


def test_what_a_graph_reads_is_kept_and_found_again_where_it_moved(world):
    weight, engine = torch.tensor([0.0, 0.0, 1.0, 0.0]), started(world)
    held = {"weight": weight}

    def policy(observation):
        return ((observation * held["weight"]).sum(-1) > 0).long()

    for _ in range(3):
        engine.imagine(policy, 2)
    assert Tape.made == 1
    weight.data = -weight  # the same tensor, somewhere else
    rollout = engine.imagine(policy, 2)
    assert torch.equal(rollout["action"], (rollout["observation"][..., 2] < 0).long())
    assert Tape.made == 2
    gone = weakref.ref(weight)
    for _, graph in engine._captures._found.values():
        graph._graph.operations.clear()  # CUDA's hold no tensors
    held["weight"] = None
    del weight
    gc.collect()
    assert gone() is not None, "a graph must not read what was freed"


def test_policies_that_nobody_holds_are_forgotten(world):
    engine, seen = started(world), []
    for _ in range(MOST_KEPT + 5):
        table = torch.zeros(3)
        seen.append(weakref.ref(table))
        engine.imagine(lambda observation, table=table: (observation[:, 2] > table[0]).long(), 1)
        del table
    gc.collect()
    assert sum(one() is not None for one in seen) <= MOST_KEPT


def test_a_graph_made_in_inference_mode_serves_outside_of_it(world):
    both = [started(world, capture=c) for c in (True, False)]
    with torch.inference_mode():
        assert_same_steps(*both)
    assert_same_steps(*both)
    assert Tape.made == 1


def test_layouts_of_one_policy_are_two_graphs(world):
    env = world.to_torchrl_env(5, seed=0, backend="torch", capture=True)
    env._reset()

    def policy(observation):
        return (observation[:, 2] > 0).long()

    for _ in range(2):
        env.engine.imagine(policy, 2)
        env.imagine(policy, 2)
    assert "done" in env.imagine(policy, 2)
    assert "done" not in env.engine.imagine(policy, 2)


def test_rollouts_can_be_saved(world):
    engine, policy = started(world), actor()
    for _ in range(3):
        rollout = engine.imagine(policy, 2)
    assert Tape.made == 1
    file = io.BytesIO()
    torch.save(rollout, file)
    file.seek(0)
    assert (torch.load(file, weights_only=False) == rollout).all()


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_an_error_in_a_policy_leaves_the_envs_where_they_were(world, mode):
    engine, calls = started(world, autoreset_mode=mode), iter(range(3))
    for _ in range(4):
        engine.step(engine.sample_actions())
    before = engine.state()
    with pytest.raises(StopIteration):
        engine.imagine(lambda observation: (observation[:, 2] > next(calls)).long(), 5)
    assert (engine.state() == before).all()


def test_without_copies_torchrl_would_keep_one_step_many_times(world):
    with pytest.raises(ValueError, match="TorchRLEnv needs copy=True"):
        world.to_torchrl_env(3, copy=False)
