"""Which arguments a callable gets: by the names that it declares, else by their number."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
ACTION = np.array([0.25, 0.5], np.float32)
START = torch.tensor([1.0, 2.0])


class Model:
    """No methods: everything is handed in."""


MODEL = Model()


def seen(*, model=None, state=None, action=None):
    """What a transition got, as its result: 1000 for a model, 100 for a state and 10 for an action that were right."""
    reward = 0.0
    if model is not None:
        assert model is MODEL
        reward += 1000
    if state is not None:
        assert state.tolist() == [1.0, 2.0]
        reward += 100
    if action is not None:
        assert action.tolist() == [0.25, 0.5]
        reward += 10
    return START, START, reward


def full(model, state, action):
    return seen(model=model, state=state, action=action)


class Callable:
    def __call__(self, state, action):
        return seen(state=state, action=action)

    def method(self, world_model, latent, act):
        return seen(model=world_model, state=latent, action=act)

    @staticmethod
    def static(state, action):
        return seen(state=state, action=action)

    @classmethod
    def of_class(cls, state, action):
        return seen(state=state, action=action)


class Module(nn.Module):
    def forward(self, state, action):
        return seen(state=state, action=action)


def with_all_by_position(*args):
    return full(*args)


@functools.wraps(full)
def wrapped(*args, **kwargs):
    return full(*args, **kwargs)


TRANSITIONS = {
    "all, by name": (full, 1110),
    "by name, in another order": (lambda action, model, state: seen(model=model, state=state, action=action), 1110),
    "by short names": (lambda s, a: seen(state=s, action=a), 110),
    "by other names": (lambda wm, latent, act: seen(model=wm, state=latent, action=act), 1110),
    "two, by number": (lambda x, u: seen(state=x, action=u), 110),
    "three, by number": (lambda theta, x, u: seen(model=theta, state=x, action=u), 1110),
    "by number, letters count for nothing": (lambda a, b: seen(state=a, action=b), 110),
    "by keyword alone": (lambda *, state, action: seen(state=state, action=action), 110),
    "by position and by keyword": (lambda state, *, action: seen(state=state, action=action), 110),
    "defaults of its own": (lambda state, action, scale=2.0: seen(state=state, action=action), 110),
    "defaults of known names": (lambda state, action=None: seen(state=state, action=action), 110),
    "keywords of its own": (lambda state, action, *, scale=2.0, **rest: seen(state=state, action=action), 110),
    "any positions": (with_all_by_position, 1110),
    "a decorated function": (wrapped, 1110),
    "a partial": (functools.partial(full, MODEL), 1110),
    "a partial by keyword": (functools.partial(full, model=MODEL), 1110),
    "a partial with options": (functools.partial(lambda state, action, scale: seen(state=state), scale=3), 100),
    "an object": (Callable(), 110),
    "a method": (Callable().method, 1110),
    "a static method": (Callable.static, 110),
    "a class method": (Callable.of_class, 110),
    "a module": (Module(), 110),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_transitions(name):
    transition, expected = TRANSITIONS[name]
    env = WorldModelEnv(MODEL, PLANE, PUSH, transition_fn=transition, initial_observation=START)
    env.reset(seed=0)
    assert env.step(ACTION)[1] == expected


def test_a_partial_keeps_what_it_has_bound():
    """The bound model is another one than the environment's."""
    own = object()
    transition = functools.partial(lambda state, action, model: (state, state, float(model is own)), model=own)
    env = WorldModelEnv(MODEL, PLANE, PUSH, transition_fn=transition, initial_observation=START)
    env.reset(seed=0)
    assert env.step(ACTION)[1] == 1.0


@pytest.mark.parametrize("add", [operator.add, torch.add, np.add], ids=["operator.add", "torch.add", "np.add"])
def test_builtins_that_take_state_and_action(add):
    env = WorldModelEnv(add, PLANE, PUSH, initial_observation=START)
    env.reset(seed=0)
    assert env.step(ACTION)[0].tolist() == [1.25, 2.5]


def test_compiled_and_scripted_modules():
    class Add(nn.Module):
        def forward(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return state + action

    example = (torch.zeros(2), torch.zeros(2))
    for module in (
        torch.jit.script(Add()),
        torch.jit.trace(Add(), example),
        torch.export.export(Add(), example).module(),
    ):
        env = WorldModelEnv(module, PLANE, PUSH, initial_observation=START)
        env.reset(seed=0)
        assert env.step(ACTION)[0].tolist() == [1.25, 2.5]


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        (lambda model, seed, options: (model is MODEL, seed, options), (True, 7, {"level": 2})),
        (lambda options, seed: (seed, options), (7, {"level": 2})),
        (lambda model, seed: (model is MODEL, seed), (True, 7)),
        (lambda seed: (seed,), (7,)),
        (lambda model: (model is MODEL,), (True,)),
        (lambda m, x, y: (m is MODEL, x, y), (True, 7, {"level": 2})),
        (lambda x: (x is MODEL,), (True,)),
        (lambda: (), ()),
        (lambda *, seed=None, options=None: (seed, options), (7, {"level": 2})),
        (lambda seed=None, options=None: (seed, options), (7, {"level": 2})),
        (lambda model, *, options: (model is MODEL, options), (True, {"level": 2})),
    ],
)
def test_resets(reset, expected):
    got = []

    @functools.wraps(reset)
    def recorded(*args, **kwargs):
        got.append(reset(*args, **kwargs))
        return START

    env = WorldModelEnv(MODEL, PLANE, PUSH, transition_fn=full, reset_fn=recorded)
    env.reset(seed=7, options={"level": 2})
    assert got == [expected]


@pytest.mark.parametrize("name", ["reward_fn", "terminal_fn"])
@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        (lambda model, state, observation, action: (model is MODEL, state, observation, action), (True, 3, 30, 0.25)),
        (lambda state, action: (state, action), (3, 0.25)),
        (lambda action, obs: (action, obs), (0.25, 30)),
        (lambda next_obs: (next_obs,), (30,)),
        (lambda model, next_state: (model is MODEL, next_state), (True, 3)),
        (lambda m, x: (m is MODEL, x), (True, 3)),
        (lambda m, x, y: (m is MODEL, x, y), (True, 3, 30)),
        (lambda m, x, y, u: (m is MODEL, x, y, u), (True, 3, 30, 0.25)),
        (lambda x: (x is MODEL,), (True,)),
        (lambda: (), ()),
    ],
)
def test_rewards_and_terminations(judge, name, expected):
    """State and observation are those after the step."""
    got = []

    @functools.wraps(judge)
    def recorded(*args):
        got.append(tuple(x[0].item() if isinstance(x, torch.Tensor) else x for x in judge(*args)))
        return 0.0

    env = WorldModelEnv(
        MODEL,
        PLANE,
        PUSH,
        transition_fn=lambda state, action: {"state": state + 2, "observation": 10 * (state + 2)},
        initial_state=START,
        initial_observation=START,
        **{name: recorded},
    )
    env.reset(seed=0)
    env.step(ACTION)
    assert got == [expected]


@pytest.mark.parametrize(
    "transform",
    [lambda model, action: 2 * action, lambda action: 2 * action, lambda x: 2 * x, lambda action, model: 2 * action],
)
def test_action_transforms(transform):
    env = WorldModelEnv(
        MODEL,
        PLANE,
        PUSH,
        transition_fn=lambda state, action: state + action,
        initial_observation=START,
        action_transform_fn=transform,
    )
    env.reset(seed=0)
    assert env.step(ACTION)[0].tolist() == [1.5, 3.0]


@pytest.mark.parametrize(
    "render", [lambda model, state, observation: state, lambda m, x: x, lambda observation: observation]
)
def test_renders(render):
    def frame(*args):
        return np.full((2, 3, 3), int(render(*args)[0]), np.uint8)

    functools.update_wrapper(frame, render)
    env = WorldModelEnv(
        MODEL, PLANE, PUSH, transition_fn=full, initial_observation=START, render_fn=frame, render_mode="rgb_array"
    )
    env.reset(seed=0)
    assert (env.render() == 1).all()


@pytest.mark.parametrize(
    ("argument", "function", "message"),
    [
        ("transition_fn", lambda: START, r"transition_fn takes \(\).*\(model, state, action\) or \(state, action\)"),
        ("transition_fn", lambda p, q, r, s: START, r"transition_fn takes \(p, q, r, s\)"),
        ("transition_fn", lambda state, *, temperature: state, "wants temperature by keyword"),
        # By number alone these would get something else than their names say.
        ("transition_fn", lambda action, hidden: hidden, r"takes \(action, hidden\)"),
        ("transition_fn", lambda hidden, action, rng: hidden, r"takes \(hidden, action, rng\)"),
        ("reward_fn", lambda state, action, next_state: 0.0, r"reward_fn takes \(state, action, next_state\)"),
        ("terminal_fn", lambda p, q, r, s, t: False, "terminal_fn takes"),
        ("action_transform_fn", lambda p, q, r: r, r"\(model, action\) or \(action\)"),
        ("reset_fn", lambda p, q, r, s: START, r"\(model, seed, options\)"),
        ("reset_fn", 3.0, "reset_fn must be callable, got 3.0"),
        ("render_fn", lambda p, q, r, s: None, r"\(model, state, observation\)"),
    ],
)
def test_signatures_that_fit_nothing_are_refused_at_once(argument, function, message):
    arguments = {"transition_fn": full, "initial_observation": START, argument: function}
    with pytest.raises(AdapterError, match=message):
        WorldModelEnv(MODEL, PLANE, PUSH, **arguments)


def test_random_numbers_of_ones_own():
    """A transition that asks for `rng` gets the numbers of its own seed, episode and step, in every way."""

    def transition(state, action, rng):
        noise = rng.normal(2)
        return state + (noise[0] if state.dim() == 1 else noise)

    rollouts = []
    for batching in ("batched", "vmap"):
        env = WorldModelVectorEnv.from_callables(
            MODEL, PLANE, PUSH, num_envs=5, batching=batching, transition_fn=transition, initial_observation=START
        )
        env.reset(seed=20)
        rollouts.append(torch.stack([env.step(torch.zeros(5, 2))[0] for _ in range(3)]))
    torch.testing.assert_close(*rollouts, atol=1e-6, rtol=0)
    # Env 3 is the scalar env at seed 23.
    env = WorldModelEnv(MODEL, PLANE, PUSH, transition_fn=transition, initial_observation=START)
    env.reset(seed=23)
    for step in range(3):
        np.testing.assert_allclose(env.step(ACTION)[0], rollouts[0][step, 3], atol=1e-6)
    assert rollouts[0][0].unique(dim=0).shape[0] == 5
