"""Captured steps and rollouts, with a graph in host memory: it runs the same closure again over the same buffers."""

import copy
import pickle
import time

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

import wm_vec
import wm_vec.plain as plain_values
from tests.core.walk import BOX, Walk
from tests.envs.agents import capital
from tests.envs.agents import world as fields_world
from wm_vec import AgentSpec, WorldModel
from wm_vec.core import Engine, EngineConfig, Perspective, capture
from wm_vec.core.capture import Captured, Template
from wm_vec.core.probe import why_not_captured
from wm_vec.envs.info import StaleInfoError

MODES = ["same_step", "next_step", "disabled"]


class Rerun:
    """What stands in for a CUDA graph: it warms up, records, and then repeats the closure, over static buffers."""

    made = 0

    def __init__(self, run, device):
        type(self).made += 1
        with torch.random.fork_rng(devices=[]):
            for _ in range(3):
                run()
        self.replay = run


@pytest.fixture(autouse=True)
def backend():
    """Once is enough here."""


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    monkeypatch.setitem(capture.GRAPHS, "cpu", Rerun)
    Rerun.made = 0


@pytest.fixture(scope="module")
def world():
    return WorldModel.bundled("CartPole-v1")


def tensors(*trees):
    return [tensor.clone() for tensor in Template(trees).tensors]


def pair(world, **options):
    """The same envs captured and not."""
    options = {"seed": 3, "max_episode_steps": 4, "backend": "torch", **options}
    made = [world.to_engine(5, capture=c, **options) for c in (True, False)]
    for engine in made:
        engine.reset()
    return made


def assert_same_steps(captured, plain, steps=6):
    for _ in range(steps):
        action = plain.sample_actions()
        results = [tensors(engine.step(action), engine._state) for engine in (captured, plain)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("backend", "copies"), [("torch", True), ("torch", False), ("triton", True)])
@pytest.mark.parametrize("mode", MODES)
def test_a_captured_step_is_the_step(world, backend, mode, copies):
    captured, plain = pair(world, autoreset_mode=mode, backend=backend, copy=copies, n_denoise_steps=1)
    assert captured.world.capture == "whole"
    assert_same_steps(captured, plain, 3)
    assert Rerun.made == 1


@pytest.mark.parametrize("copies", [True, False])
def test_whatever_else_changes_the_state_is_seen_by_the_next_replay(world, copies):
    captured, plain = pair(world, copy=copies)
    both = captured, plain
    assert_same_steps(*both, 2)
    for engine in both:
        engine.reset(mask=torch.tensor([True, False, True, False, False]))
    assert_same_steps(*both, 2)
    kept = [engine.state() for engine in both]
    assert_same_steps(*both, 2)
    for engine, state in zip(both, kept, strict=True):
        engine.set_state(state)
    assert_same_steps(*both, 2)
    forks = [engine.fork([4, 0, 0], rng="same") for engine in both]
    assert_same_steps(*forks, 3)
    for engine in both:
        engine.reset(seed=[9, None, 7, None, 5])
    assert_same_steps(*both, 3)


def test_what_a_graph_reads_by_address_is_brought_up_to_date_or_captured_anew(world):
    trained = copy.deepcopy(world)
    captured, plain = pair(trained)
    assert_same_steps(captured, plain, 2)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.01)
    assert_same_steps(captured, plain, 2)
    assert Rerun.made == 1, "new weights are read in place"
    few = captured.world.resets.buffer[0][:3].clone()
    for engine in (captured, plain):
        engine.load_bank(engine.dynamics._as_state(few + 0.01))
    assert_same_steps(captured, plain, 6)
    assert Rerun.made == 1, "so are a bank, and its size"
    many = few.repeat(500, 1)
    for engine in (captured, plain):
        engine.load_bank(engine.dynamics._as_state(many))
    assert_same_steps(captured, plain, 6)
    assert Rerun.made == 2, "a larger bank lies elsewhere"
    trained.model.float()
    assert_same_steps(captured, plain, 3)
    assert Rerun.made == 3, "and so do weights that were moved"


def test_modes_have_a_graph_each(world):
    captured, plain = pair(world, autoreset_mode="disabled")
    for mode in [*wm_vec.core.AutoresetMode, *wm_vec.core.AutoresetMode]:
        action = plain.sample_actions()
        results = [tensors(engine.step(action, mode), engine._state) for engine in (captured, plain)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert Rerun.made == 3


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_what_a_step_returned_stays_as_it_is(world, backend):
    env = world.to_vector_env(3, max_steps=3, capture=True, backend=backend, n_denoise_steps=1)
    env.reset(seed=0)
    steps, copies = [], []
    for _ in range(8):
        result = env.step(env.sample_actions())
        steps.append(result)
        copies.append(tensors(result[:4], dict(result[4])))
    late = [tensors(step[4]["obs_dict"], step[4]["model_state"]) for step in steps]
    for step, before in zip(steps, copies, strict=True):
        held = Template((step[:4], {k: v for k, v in step[4].items() if k not in ("obs_dict", "model_state")})).tensors
        assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))
    assert len({tuple(x.flatten().tolist()) for one in late for x in one}) > 8
    storages = [{t.untyped_storage().data_ptr() for t in Template(step[:4]).tensors} for step in steps]
    assert all(not one & other for i, one in enumerate(storages) for other in storages[:i])


def test_without_copies_a_step_hands_out_the_same_buffers_and_an_old_info_is_refused(world):
    env = world.to_vector_env(3, max_steps=3, capture=True, copy=False)
    env.reset(seed=0)
    first = env.step(env.sample_actions())
    assert first[4]["obs_dict"]["observation"].shape == (3, 4)
    second = env.step(env.sample_actions())
    assert first[0].data_ptr() == second[0].data_ptr()
    third_info = second[4]
    env.step(env.sample_actions())
    with pytest.raises(StaleInfoError, match="copy=True"):
        third_info["predictions"]
    assert "predictions" in third_info


def test_engines_with_graphs_are_copied_and_pickled_without_them(world):
    captured, plain = pair(world)
    assert_same_steps(captured, plain, 2)
    again = pickle.loads(pickle.dumps(captured))
    twin = copy.deepcopy(captured)
    for engine in (again, twin):
        assert_same_steps(engine, copy.deepcopy(plain), 3)


def test_steps_that_keep_their_graph_are_never_captured(world):
    captured, _ = pair(world)
    with captured.keep_graph():
        captured.step(captured.sample_actions())
    assert Rerun.made == 0


# -- users' functions -------------------------------------------------------------------------------------------


def height(obs, act, info):
    return 1 - obs["observation"][2].abs()


def far(obs, step, info):
    return obs["observation"][0].abs() > 0.05


COUNT = [0.0]


def counting(obs, act, info):
    COUNT[0] += 1
    return obs["observation"][0] + COUNT[0]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_functions_that_can_be_are_captured_with_the_step(world, backend):
    made = []
    for captured in (True, False):
        env = world.to_vector_env(
            4,
            reward_fn=height,
            terminated_fn=far,
            max_steps=3,
            capture=captured,
            backend=backend,
            seed=2,
            n_denoise_steps=1,
        )
        env.reset()
        made.append(env.engine)
    assert made[0].world.capture == "whole"
    assert_same_steps(*made, 4)


@pytest.mark.parametrize("copies", [True, False])
def test_functions_that_cannot_be_run_between_two_graphs(world, copies):
    def hosted(obs, act, info):
        return float(obs["observation"][2]) * 2

    with pytest.warns(UserWarning, match="env by env"):
        envs = [
            world.to_vector_env(4, reward_fn=hosted, max_steps=3, capture=c, seed=2, copy=copies)
            for c in ("auto", False)
        ]
    for env in envs:
        env.reset()
    assert envs[0].engine.world.capture == "parts"
    assert_same_steps(envs[0].engine, envs[1].engine)
    assert Rerun.made == 2
    with pytest.raises(ValueError, match=r"capture=True: reward_fn runs env by env"):
        world.to_vector_env(4, reward_fn=hosted, max_steps=3, capture=True)


def test_capture_is_refused_where_it_cannot_be(world, monkeypatch):
    with pytest.raises(ValueError, match=r"capture=True: Walk is not known to be capturable"):
        Engine(Walk(), 2, [Perspective(BOX)], EngineConfig(capture=True))
    assert Engine(Walk(), 2, [Perspective(BOX)]).world.capture is None
    monkeypatch.delitem(capture.GRAPHS, "cpu")
    with pytest.raises(ValueError, match=r"capture=True: on cpu there are no graphs"):
        world.to_engine(2, capture=True)
    assert world.to_engine(2).world.capture is None
    with pytest.raises((TypeError, ValueError), match="capture"):
        EngineConfig(capture="always")


GOAL = torch.tensor([0.5, 1.0])
KEPT = torch.zeros(100, 2)[:2]
NUMPY = np.random.default_rng(0)
VERDICTS = {
    "pure": (lambda x: x.sum(-1).abs() + 1, None),
    "over a constant": (lambda x: (x - GOAL).square().mean(-1), None),
    "where": (lambda x: torch.where(x[:, 0] > 0, 1.0, x[:, 1]), None),
    "item": (lambda x: x * x[0, 0].item(), "on the host"),
    "if": (lambda x: x if x[0, 0] > 0 else -x, "on the host"),
    "numpy": (lambda x: x + NUMPY.random(), "something else"),
    "time": (lambda x: x * time.perf_counter(), "something else"),
    "counter": (lambda x: x + _count(), "something else"),
    "counter in a tensor": (lambda x: x + torch.tensor(_count()), "something else"),
    "random": (lambda x: x + torch.rand(()), "random"),
    "mask": (lambda x: x[x[:, 0] > -9].sum(), "on the host"),
    "write by a mask": (
        lambda x: x.clone().masked_fill(x > 9, 0.0).index_put_((x > 0,), torch.zeros(())),
        "on the host",
    ),
    "indices": (lambda x: x[:, torch.zeros(2, dtype=torch.int64)].sum(-1), None),
    "made inside": (lambda x: x.sum() + torch.zeros(200).add_(x.sum()), None),
    "writes into its own": (lambda x: x + KEPT.add_(1.0), "writes into a tensor that it keeps"),
    "writes into a view of it": (lambda x: x + KEPT[0].add_(1.0), "writes into a tensor that it keeps"),
    "nonzero": (lambda x: x.nonzero().sum(), "on the host"),
    "raises": (lambda x: x.view(99), "raises RuntimeError"),
    "branch of shape": (lambda x: x.sum() if x.shape[0] > 2 else x, None),
}


def _count():
    COUNT[0] += 1
    return COUNT[0]


@pytest.mark.parametrize("name", VERDICTS)
def test_the_probe_says_what_can_be_captured(name):
    fn, expected = VERDICTS[name]
    examples = [(torch.tensor([[1.0, 2.0], [3.0, 4.0]]),), (torch.tensor([[-1.0, 5.0], [0.5, -4.0]]),)]
    reason = why_not_captured(fn, examples, torch.device("cpu"))
    assert (reason is None) if expected is None else (reason is not None and expected in reason), reason


def test_the_probe_refuses_tensors_of_another_device():
    examples = [(torch.ones(2, 2, device="meta"),)] * 2
    reason = why_not_captured(lambda x: x + GOAL.sum(), examples, torch.device("meta"))
    assert reason is not None
    assert "cpu" in reason


NUMBERS = {
    "arithmetic": lambda env: (2.0 * env - 1.0).abs().sum() + 3,
    "comparison": lambda env: (env[0] > 0.5) & (env[1] < 2),
    "a number of torch's": lambda env: (env - torch.tensor(1.0)).sum(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_probe_takes_numbers_in_functions_under_vmap_on_every_device(name):
    def function(x):
        return torch.func.vmap(NUMBERS[name])(x)

    for device in ("cpu", "meta"):
        examples = [(torch.tensor(values, device=device),) for values in ([[1.0, 2.0]], [[-1.0, 5.0]])]
        assert why_not_captured(function, examples, torch.device(device)) is None


@pytest.mark.parametrize("mode", MODES)
def test_several_agents_are_captured_with_the_field_that_they_share(mode):
    def remembers(obs, act, info, last):
        return act.sum() + 0.5 * last, act.sum() + 0.5 * last

    ends = {"terminated_fn": lambda obs, step, info: step >= 2}
    agents = {
        "one": capital(**ends),
        "two": capital(),
        "three": AgentSpec(["regime"], ["firm.capital"], remembers, reward_state=torch.tensor(0.0)),
    }
    settings = {"max_steps": 4, "combine": "mean", "autoreset_mode": mode, "seed": 0}
    captured, plain = (fields_world().to_multi_vector_env(agents, 3, **settings, capture=c) for c in (True, False))
    captured.reset(), plain.reset()
    for _ in range(6):
        shown, expected = (env.step(env.sample_actions()) for env in (captured, plain))
        for key in expected.keys(True, True):
            assert torch.equal(shown[key], expected[key]), key
    assert captured.engine.world.capture == "whole"
    assert Rerun.made == 1


# -- rollouts ----------------------------------------------------------------------------------------------------


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Linear(4, 2)

    def forward(self, obs):
        logits = self.logits(obs)
        return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["module", "tensordict", "method"])
def test_captured_rollouts_are_the_rollouts(world, mode, kind):
    policy = Policy()
    acts = {
        "module": policy,
        "method": policy.forward,
        "tensordict": TensorDictModule(policy, in_keys=["observation"], out_keys=["action"]),
    }[kind]
    rollouts = []
    for engine in pair(world, autoreset_mode=mode):
        found = []
        for i in range(4):
            torch.manual_seed(i)
            found.append(engine.imagine(acts, 5))
            with torch.no_grad():
                policy.logits.weight.mul_(-1)  # read in place
        rollouts.append((found, engine.state()))
    assert Rerun.made == 1
    (captured, last), (plain, expected) = rollouts
    assert all(torch.equal(x, y) for x, y in zip(tensors(last), tensors(expected), strict=True))
    for a, b in zip(captured, plain, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))
    assert not torch.equal(captured[1]["observation"], captured[2]["observation"])


def test_a_policy_that_reads_the_host_plays_step_by_step(world, monkeypatch):
    monkeypatch.setattr(plain_values, "_SAID", set())
    captured, plain = pair(world)

    def policy(obs):
        return torch.tensor([int(row[0] > 0) for row in obs])

    with pytest.warns(UserWarning, match="policy cannot be captured"):
        rollouts = [[engine.imagine(policy, 3) for _ in range(3)] for engine in (captured, plain)]
    for a, b in zip(*rollouts, strict=True):
        assert torch.equal(a["next", "observation"], b["next", "observation"])


def test_torchrls_rollouts_are_captured_whole(world):
    policy = TensorDictModule(Policy(), in_keys=["observation"], out_keys=["action"])
    found = []
    for captured in (True, False):
        env = world.to_torchrl_env(4, capture=captured, max_episode_steps=3)
        env.set_seed(1)
        env.reset()
        played = []
        for i in range(4):
            torch.manual_seed(i)
            played.append(env.imagine(policy, 6))
        found.append(played)
    assert Rerun.made > 0
    for a, b in zip(*found, strict=True):
        assert {*a.keys(True, True)} == {*b.keys(True, True)}
        assert all(torch.equal(a[key], b[key]) for key in a.keys(True, True))


def test_an_output_that_is_the_state_before_is_not_overwritten_by_the_state_after():
    def fn(state, y):
        return {"x": state["x"] + y}, (state["x"], state["x"][:, :1])

    state = {"x": torch.zeros(4, 3)}
    captured = Captured(fn, state, torch.ones(4, 3))
    for step in range(3):
        state, (before, column) = captured(True, state, torch.ones(4, 3))
        assert torch.equal(before, torch.full((4, 3), float(step)))
        assert torch.equal(column, torch.full((4, 1), float(step)))
        assert torch.equal(state["x"], torch.full((4, 3), step + 1.0))


def test_an_arena_holds_each_output_once_and_passes_through_what_is_not_written():
    start = {"x": torch.arange(6.0).view(2, 3), "kept": torch.arange(4)}

    def fn(state, y):
        x = state["x"] + y
        return {"x": x, "kept": state["kept"]}, (x, x.t(), x[:1], x > 3, None, "said")

    captured = Captured(fn, start, torch.ones(2, 1))
    state, total = start, start["x"].clone()
    for step in range(3):
        y = torch.full((2, 1), float(step))
        state, (same, turned, part, flags, nothing, said) = captured(True, state, y)
        total += y
        assert torch.equal(state["x"], total)
        assert torch.equal(state["kept"], torch.arange(4))
        assert same.data_ptr() == state["x"].data_ptr()
        assert torch.equal(turned, total.t())
        assert torch.equal(part, total[:1])
        assert torch.equal(flags, total > 3)
        assert (nothing, said) == (None, "said")
