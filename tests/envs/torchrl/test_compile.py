"""`torch.compile` of steps and resets: one graph, the numbers of the uncompiled environment."""

from __future__ import annotations

import logging

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch._dynamo.utils import counters
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv
from torchrl.envs import transforms as T

from tests.envs.torchrl.kinds import BY_NAME
from wm_vec import WorldModel

B, STEPS = 4, 14
AGENT = "agent"


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    # Its traces are for tools; pytest would format every line.
    traces = logging.getLogger("torch.__trace")
    traces.propagate = False
    yield
    traces.propagate = True
    torch._dynamo.reset()


def assert_same(kind, rollout, **options):
    """The rollout's actions in an uncompiled environment lead to the same, bit by bit; resets at different times."""
    bare = BY_NAME[kind].torchrl(B, **options)
    bare.set_seed(0)
    expected = bare.rollout(STEPS, actions=rollout["action"].unbind(1), break_when_any_done=False)
    for key in expected.keys(True, True):
        assert torch.equal(rollout[key], expected[key]), key
    assert rollout["next", "done"][:, :-1].any()


@pytest.mark.parametrize(
    ("kind", "options", "warmup"),
    [
        ("pendulum", {"max_episode_steps": 5}, 2),
        ("latent", {"max_episode_steps": 5}, None),
        ("discrete", {"max_episode_steps": 12, "one_hot": True}, 2),
        ("rssm with our noise", {"max_episode_steps": 5, "expose_state": True}, 2),
        ("steered", {"max_episode_steps": 5}, 2),  # rewards and terminations written for one env
    ],
)
def test_steps_and_resets_are_one_graph_with_the_same_numbers(kind, options, warmup):
    env = BY_NAME[kind].torchrl(B, **options)
    env.set_seed(0)
    assert env.compile(backend="eager", fullgraph=True, warmup=warmup) is env
    rollout = env.rollout(STEPS, break_when_any_done=False)
    assert_same(kind, rollout, **options)
    # A second one for other keys, strides or aliases after a reset; none for every step.
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_the_bare_step_compiles():
    env, bare = (BY_NAME["vmapped"].torchrl(B) for _ in range(2))
    for one in (env, bare):
        one.set_seed(0)
    step = torch.compile(env.step, backend="eager", fullgraph=True)
    td, other = env.reset(), bare.reset()
    for _ in range(4):
        td = env.rand_action(td)
        other = bare.step_mdp(bare.step(other.set("action", td["action"])))
        td = env.step_mdp(step(td))
        assert torch.equal(td["observation"], other["observation"])
    assert counters["stats"]["unique_graphs"] <= 2


def test_a_compiled_step_of_the_engine_takes_turns_with_eager_ones():
    """What eager steps keep on the host must not be part of a graph: each step would need one of its own."""
    engine, eager = (BY_NAME["pendulum"].vector(B, max_episode_steps=5, seed=0).engine for _ in range(2))
    engine.reset(), eager.reset()
    step = torch.compile(lambda action: engine.step(action).observation[AGENT], backend="eager", fullgraph=True)
    for i in range(24):
        action = torch.full((B, 1), i / 24)
        with torch.no_grad():
            seen = engine.step(action).observation[AGENT] if i % 2 else step(action)
            assert torch.equal(seen, eager.step(action).observation[AGENT])
    assert counters["stats"]["unique_graphs"] <= 2


def test_new_weights_are_seen_by_a_compiled_step():
    env = BY_NAME["float64"].torchrl(B)
    actions = [env.action_spec.rand() for _ in range(5)]

    def roll():
        env.set_seed(0)
        return env.rollout(5, actions=actions, break_when_any_done=False)["next", "observation"]

    env.compile(backend="eager", fullgraph=True, warmup=2)
    before = roll()
    with torch.no_grad():
        for weight in env.engine.dynamics.model.parameters():
            weight.mul_(1.1)
    after, eager = roll(), (env.eager(), roll())[1]
    torch.testing.assert_close(after, eager)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_gradients_flow_through_a_compiled_environment_as_through_any(fullgraph):
    env, bare = (BY_NAME["pendulum"].torchrl(B, max_episode_steps=5) for _ in range(2))
    env.compile(backend="eager", fullgraph=fullgraph)
    given = []
    for one in (env, bare):
        one.set_seed(0)
        one.rollout(3, actions=torch.zeros(3, B, 1).unbind(0), break_when_any_done=False)
        weight = torch.full((3,), 0.1, requires_grad=True)
        policy = TensorDictModule(
            lambda seen, weight=weight: (seen * weight).sum(-1, True), ["observation"], ["action"]
        )
        rollout = one.imagine(policy, STEPS, grad=True)
        rollout["next", "reward"].sum().backward()
        given.append((rollout["observation"], rollout["next", "done"], weight.grad))
    for ours, expected in zip(*given, strict=True):
        assert torch.equal(ours, expected)
    torch._dynamo.reset(), counters.clear()
    env.step_and_maybe_reset(env.rand_action(env.reset()))
    assert counters["stats"]["unique_graphs"], "it is compiled again afterwards"


def test_a_compiled_step_that_keeps_its_graph_keeps_the_state_too():
    engine, eager = (BY_NAME["pendulum"].vector(B, max_episode_steps=5, seed=0).engine for _ in range(2))
    engine.reset(), eager.reset()
    step = torch.compile(lambda action: engine.step(action).observation[AGENT], backend="eager")
    torque = torch.zeros(B, 1, requires_grad=True)
    with engine.keep_graph(), eager.keep_graph():
        for _ in range(4):
            seen, expected = step(torque), eager.step(torque).observation[AGENT]
            assert torch.equal(seen, expected)
    gradients = [torch.autograd.grad(end.sum(), torque)[0] for end in (seen, expected)]
    assert torch.equal(*gradients)
    assert gradients[0].abs().min() > 0
    whole = torch.compile(lambda action: engine.step(action).observation[AGENT], backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="keeps its graph"), engine.keep_graph():
        whole(torque)


def test_a_collector_of_a_compiled_env_with_transforms():
    base = BY_NAME["latent"].torchrl(B, max_episode_steps=5)
    env = TransformedEnv(base, T.Compose(T.StepCounter(), T.RewardSum()))
    env.set_seed(0)
    torch.manual_seed(0)
    env.compile(backend="eager", warmup=2)
    collector = Collector(env, None, frames_per_batch=B * STEPS, total_frames=B * STEPS)
    (batch,) = collector
    collector.shutdown()
    assert_same("latent", batch, max_episode_steps=5)
    assert batch["next", "step_count"].max() == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_inductor_gives_the_same_world_on_cuda():
    world = WorldModel.bundled("Pendulum-v1", device="cuda")
    env, bare = (world.to_torchrl_env(64, max_episode_steps=5) for _ in range(2))
    for one in (env, bare):
        one.set_seed(0)
    env.compile(fullgraph=True, warmup=2)
    rollout = env.rollout(12, break_when_any_done=False)
    expected = bare.rollout(12, actions=rollout["action"].unbind(1), break_when_any_done=False)
    torch.testing.assert_close(rollout["next", "observation"], expected["next", "observation"], rtol=1e-3, atol=1e-3)
    assert torch.equal(rollout["next", "done"], expected["next", "done"])


# -- what cannot be compiled ---------------------------------------------------------------------------------------


def test_models_on_the_global_generator_have_no_full_graph():
    env = BY_NAME["painter"].torchrl(B, max_episode_steps=5)
    with pytest.raises(ValueError, match=r"rng='global'.*Leave fullgraph=True out"):
        env.compile(backend="eager", fullgraph=True)
    env.set_seed(0)
    env.compile(backend="eager", warmup=2)
    assert_same("painter", env.rollout(STEPS, break_when_any_done=False), max_episode_steps=5)
