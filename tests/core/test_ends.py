"""An env ends when all of its perspectives have: against a loop over envs in plain Python, and on a canvas."""

import math
import random
from copy import deepcopy

import pytest
import torch
from tensordict import TensorDict

from tests.core.walk import BOX, tensors_of
from wm_vec import Field, ModelConfig, WorldModel, compile_schema
from wm_vec.core import ActionSpec, Dynamics, Engine, EngineConfig, Perspective, Transition

MODES = ["same_step", "next_step", "disabled"]
START = [0.1, -0.2, 0.3]
HORIZON = 9


class Fields(Dynamics):
    """Each agent writes a number of its own, which moves towards 0.5."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, agents):
        self.agents = agents

    def initial_state(self, rng, num_envs):
        start = torch.tensor(START[: self.agents], dtype=self.dtype)
        return TensorDict({"x": start.repeat(num_envs, 1)}, batch_size=[num_envs])

    def observe(self, state):
        return state["x"]

    def current_action(self, state):
        return state["x"]

    def step(self, state, action, rng):
        x = 0.5 * action + 0.25
        return Transition(TensorDict({"x": x}, batch_size=x.shape[:1]), x)


def paid(x, act, last):
    """Its number and half of what it was paid before; NaN below an action of -0.5."""
    return x + 0.5 * last if act >= -0.5 else math.nan


def ends(x):
    """Above 0.6; NaN where an agent that has ended comes by on its way to 0.5."""
    return math.nan if 0.5 < x < 0.52 else x > 0.6


def agent(i):
    def reward_fn(obs, act, info, last):
        reward = torch.where(act[0] >= -0.5, obs["observation"][i] + 0.5 * last, torch.nan)
        return reward, reward

    def terminated_fn(obs, step, info):
        x = obs["observation"][i]
        return torch.where((x > 0.5) & (x < 0.52), torch.nan, (x > 0.6).double())

    start = torch.tensor(0.0, dtype=torch.float64)
    return Perspective(BOX, f"agent {i}", reward_fn=reward_fn, reward_state=start, terminated_fn=terminated_fn)


def engine_of(agents, num_envs, mode, **config):
    config = EngineConfig(autoreset_mode=mode, max_episode_steps=HORIZON, bank_size=1, **config)
    return Engine(Fields(agents), num_envs, [agent(i) for i in range(agents)], config)


class OneEnv:
    """What one env must do, agent by agent."""

    def __init__(self, agents, mode):
        self.agents, self.mode, self.episode = range(agents), mode, -1
        self.start()

    def start(self):
        self.x, self.ended = START[: len(self.agents)], [False for _ in self.agents]
        self.last, self.returns = ([0.0 for _ in self.agents] for _ in range(2))
        self.elapsed, self.episode, self.pending = 0, self.episode + 1, False

    def step(self, actions):
        if self.pending:
            self.start()
            return self.told([0.0 for _ in self.agents], self.ended, False, False, True)
        given = [x if over else min(max(a, -1.0), 1.0) for a, x, over in zip(actions, self.x, self.ended, strict=True)]
        x = [0.5 * a + 0.25 for a in given]
        reward, terminated, last = [0.0 for _ in self.agents], [True for _ in self.agents], [*self.last]
        broken = False
        for i in self.agents:
            if self.ended[i]:
                continue
            reward[i] = last[i] = paid(x[i], actions[i], self.last[i])
            terminated[i] = ends(x[i])
            broken |= any(math.isnan(number) for number in (actions[i], reward[i], terminated[i]))
        if broken:
            reward, terminated = [0.0 for _ in self.agents], [True for _ in self.agents]
        else:
            self.x, self.last = x, last
        self.elapsed += 1
        truncated = self.elapsed >= HORIZON
        over = all(terminated) or truncated
        self.returns = [total + one for total, one in zip(self.returns, reward, strict=True)]
        self.ended = [False for _ in self.agents] if over else terminated
        self.pending = over and self.mode == "next_step"
        told = self.told(reward, terminated, truncated, broken, False, over)
        if over and self.mode == "same_step":
            self.start()
            told["was_reset"] = True
        return told

    def told(self, reward, terminated, truncated, diverged, was_reset, finished=False):
        return {
            "reward": reward,
            "terminated": [*terminated],
            "truncated": truncated,
            "diverged": diverged,
            "finished": finished,
            "was_reset": was_reset,
            "episode_return": [*self.returns],
            "episode_length": self.elapsed,
        }


def random_actions(random, agents, num_envs):
    """Most within the bounds; some NaN, which end an episode where their agent still acts."""

    def one():
        return math.nan if random.random() < 0.04 else random.uniform(-0.53, 1.1)

    return [[one() for _ in range(agents)] for _ in range(num_envs)]


def by_name(actions):
    columns = torch.as_tensor(actions, dtype=torch.float64).split(1, 1)
    return {f"agent {i}": column for i, column in enumerate(columns)}


@pytest.mark.parametrize("exact_rows", [False, True])
@pytest.mark.parametrize("agents", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_env_ends_by_the_rule(mode, agents, exact_rows):
    num_envs, draw, seen = 5, random.Random(agents), set()
    engine = engine_of(agents, num_envs, mode, exact_rows=exact_rows)
    envs = [OneEnv(agents, mode) for _ in range(num_envs)]
    engine.reset()
    for _ in range(60):
        actions = random_actions(draw, agents, num_envs)
        before = [[*env.ended] for env in envs]
        expected = [env.step(one) for env, one in zip(envs, actions, strict=True)]
        output, state = engine.step(by_name(actions)), engine.state()
        for i, (env, told) in enumerate(zip(envs, expected, strict=True)):
            assert {name: getattr(output, name)[i].tolist() for name in told} == told
            assert state.dynamics["x"][i].tolist() == env.x
            assert state.ended[i].tolist() == env.ended
            assert state.pending[i].item() == env.pending
            assert (state.episode[i].item(), state.returns[i].tolist()) == (env.episode, env.returns)
            seen.add((any(before[i]), any(math.isnan(a) for a in actions[i]), told["diverged"], told["truncated"]))
        if mode == "disabled" and draw.random() < 0.5:
            engine.reset(mask=output.finished)
            for env, told in zip(envs, expected, strict=True):
                if told["finished"]:
                    env.start()
    if agents > 1:
        assert (True, True, False, False) in seen, "a NaN of an agent that has ended changes nothing"
        assert {(True, True, True, False), (True, False, False, True)} <= seen


@pytest.mark.parametrize("mode", MODES)
def test_states_and_forks_keep_who_has_ended(mode):
    engine, draw = engine_of(2, 4, mode), random.Random(3)
    engine.reset()
    engine.step(by_name([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))
    saved, picked = engine.state(), torch.tensor([3, 1, 0, 2, 2])
    fork, fresh, other = engine.fork(picked, rng="same"), engine.fork(picked), engine_of(2, 4, mode)
    other.set_state(saved)
    assert saved.ended.tolist() == [[True, False], [False, True], [False, False], [True, False]]
    assert torch.equal(fork.state().ended, saved.ended[picked])
    assert torch.equal(fresh.state().ended, saved.ended[picked])
    for _ in range(12):
        actions = torch.tensor(random_actions(draw, 2, 4))
        output, forked, again = (
            one.step(by_name(given)) for one, given in ((engine, actions), (fork, actions[picked]), (other, actions))
        )
        for whole, part, same in zip(*map(tensors_of, (output, forked, again)), strict=True):
            assert torch.equal(whole[picked], part)
            assert torch.equal(whole, same)


def test_a_restarted_env_has_all_its_agents():
    engine = engine_of(2, 2, "same_step")
    engine.reset()
    engine.step(by_name([[1.0, 0.0], [1.0, 0.0]]))
    assert engine.state().ended.tolist() == [[True, False]] * 2
    engine.reset(mask=torch.tensor([True, False]))
    assert engine.state().ended.tolist() == [[False, False], [True, False]]


def test_who_has_ended_gives_no_gradient():
    def root(obs, act, info, last):
        reward = (obs["observation"][0] + act[0] + last - 9.0).sqrt()  # of a negative number: NaN, both ways
        return reward, reward

    start = torch.tensor(0.0, dtype=torch.float64)
    stuck = Perspective(BOX, "agent 0", reward_fn=root, reward_state=start)
    free = Perspective(BOX, "agent 1", reward_fn=lambda obs, act, info: 3.0 * obs["observation"].sum() + act[0])
    with pytest.warns(UserWarning, match="reward_fn of 'agent 0' gives .nan"):
        engine = Engine(Fields(2), 2, [stuck, free], EngineConfig(bank_size=1))
    engine.reset()
    state = engine.state()
    state.ended[:, 0] = True
    engine.set_state(state)
    first, second = (torch.full((2, 1), 0.2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with engine.keep_graph():
        outputs = [engine.step({"agent 0": first, "agent 1": second}) for _ in range(2)]
    torch.stack([output.reward for output in outputs]).sum().backward()
    assert not any(bool(output.diverged.any()) for output in outputs)
    assert first.grad.tolist() == [[0.0]] * 2
    assert second.grad.tolist() == [[2 * (3.0 * 0.5 + 1.0)]] * 2


# -- a canvas ------------------------------------------------------------------------------------------------------

PUSH = ActionSpec("box", (1,), (-2.0,), (2.0,))


@pytest.fixture(scope="module")
def world():
    """Two fields to act on and one to see, of random weights."""
    torch.manual_seed(0)
    schema = compile_schema({"one": Field(), "two": Field(), "rest": Field(w=2)}, d_model=32)
    made = WorldModel(schema, config=ModelConfig(num_blocks=1, mlp_ratio=2, n_denoise_steps=2))
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.trained = True  # as far as warnings go
    return made


def acting(world, *fields, **settings):
    """An engine of agents that act on a field each and never end, at the same states and numbers whoever they are."""
    views = [Perspective(PUSH, field, reward_fn=lambda obs, act, info: obs["observation"].sum()) for field in fields]
    engine = world.to_engine(3, views, act_fields=list(fields), seed=0, **settings)
    engine.reset()
    return engine


@pytest.mark.parametrize("given", [0.7, 1e9, math.nan, math.inf])
@pytest.mark.parametrize("mode", MODES)
def test_an_agent_that_has_ended_writes_no_more(world, mode, given):
    both, alone = acting(world, "one", "two", autoreset_mode=mode), acting(world, "two", autoreset_mode=mode)
    state = both.state()
    assert torch.equal(state.dynamics["values"], alone.state().dynamics["values"])
    state.ended[:2, 0] = True  # the last env goes on with both
    both.set_state(state)
    for step in range(3):
        push = torch.full((3, 1), 0.4 - step)
        of_one = torch.tensor([[given], [given], [0.3]])
        output, expected = both.step({"one": of_one, "two": push}), alone.step({"two": push})
        assert torch.equal(output.final_state["values"][:2], expected.final_state["values"][:2])
        assert not torch.equal(output.final_state["values"][2], expected.final_state["values"][2])
        assert output.terminated.tolist() == [[True, False], [True, False], [False, False]]
        assert output.reward[:, 0].tolist()[:2] == [0.0, 0.0]
        assert torch.equal(output.reward[:2, 1:], expected.reward[:2])
    output = both.step({"one": of_one, "two": torch.tensor([[math.nan], [0.0], [0.0]])})
    assert output.diverged.tolist() == output.finished.tolist() == [True, False, False]
    assert output.terminated[:, 0].tolist() == [True, True, False]


def test_held_fields_of_an_agent_that_has_ended_stand_still(world):
    engine = acting(world, "one", "two", act_mode="hold")
    state, column = engine.state(), world.bound["one"].start
    state.ended[:, 0] = True
    engine.set_state(state)
    output = engine.step({"one": torch.ones(3, 1), "two": torch.ones(3, 1)})
    assert torch.equal(output.state["values"][:, column], state.dynamics["values"][:, column])
    assert output.state["values"][:, world.bound["two"].start].tolist() == [1.0] * 3


def test_a_dynamics_without_such_an_action_gets_it_as_it_comes():
    class Plain(Fields):
        current_action = Dynamics.current_action

    engine = Engine(Plain(2), 1, [agent(0), agent(1)], EngineConfig(bank_size=1))
    engine.reset()
    engine.step(by_name([[1.0, 0.0]]))
    output = engine.step(by_name([[-0.4, 0.0]]))
    assert output.terminated.tolist() == [[True, False]]
    assert output.state["x"].tolist() == [[0.5 * -0.4 + 0.25, 0.25]]


@pytest.mark.parametrize("mode", MODES)
def test_a_step_of_several_agents_reads_nothing_on_the_host(world, mode):
    engine = acting(deepcopy(world).to("meta"), "one", "two", autoreset_mode=mode)
    push = torch.zeros(3, 1, device="meta")
    assert engine.step({"one": push, "two": push}).reward.shape == (3, 2)
    assert engine.state().ended.shape == (3, 2)
