"""Columns that several perspectives write: against a loop over envs in plain Python."""

import math
import random

import pytest
import torch
from tensordict import TensorDict

from wm_vec.core import ActionSpec, Dynamics, Engine, EngineConfig, Perspective, Transition
from wm_vec.core.actions import Sharing

SHARING = Sharing(((0, 2, 5), (1,), (3, 0), (4, 2, 1)), ("sum", "sum", "mean", "last"))
OWNER = [0, 0, 1, 1, 1, 2]


class Written(Dynamics):
    """Its state is what was written."""

    device, dtype = torch.device("cpu"), torch.float64

    def initial_state(self, rng, num_envs):
        return TensorDict({"x": torch.full((num_envs, 4), 0.5, dtype=self.dtype)}, batch_size=[num_envs])

    def observe(self, state):
        return state["x"]

    def current_action(self, state):
        return state["x"]

    def step(self, state, action, rng):
        return Transition(TensorDict({"x": action}, batch_size=action.shape[:1]), action)


class Overwritten(Written):
    current_action = Dynamics.current_action


def engine_of(dynamics, num_envs=6, sharing=SHARING):
    sizes = [OWNER.count(agent) for agent in range(3)]
    views = [
        Perspective(
            ActionSpec("box", (n,), (-1.0,) * n, (1.0,) * n), f"agent {i}", reward_fn=lambda obs, act, info: 0.0
        )
        for i, n in enumerate(sizes)
    ]
    engine = Engine(dynamics, num_envs, views, EngineConfig(bank_size=1), sharing=sharing)
    engine.reset(seed=0)
    return engine


def combined(given, ended, before):
    """What one env's four columns become."""
    after = []
    for sources, rule, old in zip(SHARING.sources, SHARING.rules, before, strict=True):
        values = [min(max(given[s], -1.0), 1.0) for s in sources if not ended[OWNER[s]]]
        if not values:
            after.append(old)
        elif rule == "last":
            after.append(values[-1])
        else:
            after.append(sum(values) / (len(values) if rule == "mean" else 1))
    return after


def by_name(given):
    columns = torch.tensor(given, dtype=torch.float64)
    return {f"agent {i}": columns[:, [c for c, owner in enumerate(OWNER) if owner == i]] for i in range(3)}


def test_columns_are_combined_by_their_rules_and_who_has_ended_does_not_count():
    draw, engine = random.Random(0), engine_of(Written())
    for _ in range(20):
        state = engine.state()
        state.ended = torch.tensor([[draw.random() < 0.5 for _ in range(3)] for _ in range(6)])
        state.ended[state.ended.all(1), 0] = False
        engine.set_state(state)
        given = [[draw.uniform(-1.4, 1.4) for _ in OWNER] for _ in range(6)]
        given = [
            [math.nan if ended[OWNER[c]] and draw.random() < 0.3 else x for c, x in enumerate(one)]
            for one, ended in zip(given, state.ended.tolist(), strict=True)
        ]
        envs = zip(given, state.ended.tolist(), state.dynamics["x"].tolist(), strict=True)
        expected = torch.tensor([combined(*env) for env in envs], dtype=torch.float64)
        torch.testing.assert_close(engine.step(by_name(given)).state["x"], expected, rtol=0, atol=1e-15)


def test_without_an_action_that_writes_nothing_all_that_is_given_counts():
    engine = engine_of(Overwritten(), 1)
    state = engine.state()
    state.ended[:, :2] = True
    engine.set_state(state)
    given = [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]]
    expected = torch.tensor([combined(given[0], [False] * 3, [0.0] * 4)], dtype=torch.float64)
    torch.testing.assert_close(engine.step(by_name(given)).state["x"], expected)


def test_gradients_reach_every_agent_that_acts():
    engine = engine_of(Written(), 1)
    state = engine.state()
    state.ended[:, 2] = True
    engine.set_state(state)
    actions = {name: torch.zeros_like(value).requires_grad_() for name, value in by_name([[0.0] * 6]).items()}
    with engine.keep_graph():
        engine.step(actions).final_state["x"].sum().backward()
    assert [actions[f"agent {i}"].grad.tolist() for i in range(3)] == [[[1.5, 2.0]], [[1.0, 0.5, 0.0]], [[0.0]]]


@pytest.mark.parametrize(
    ("sources", "rules"), [([(0,), ()], ["sum", "sum"]), ([(0,)], ["sum", "mean"]), ([(0,)], ["best"])]
)
def test_rules_that_cannot_be_are_refused(sources, rules):
    with pytest.raises(ValueError, match="Sharing"):
        Sharing(tuple(sources), tuple(rules))


@pytest.mark.parametrize("sources", [((0, 1, 2, 3, 4, 6),), ((0, 1, 2, 3, 4),)])
def test_every_column_must_write(sources):
    with pytest.raises(ValueError, match="6 columns"):
        engine_of(Written(), sharing=Sharing(sources, ("sum",)))


def test_one_perspective_shares_with_nobody():
    alone = Perspective(ActionSpec("box", (1,), (-1.0,), (1.0,)), reward_fn=lambda obs, act, info: 0.0)
    with pytest.raises(ValueError, match="it takes several perspectives"):
        Engine(Written(), 2, [alone], EngineConfig(bank_size=1), sharing=Sharing(((0,),), ("sum",)))
