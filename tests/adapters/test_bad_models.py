"""Models, spaces and settings that do not fit together are refused at once; exceptions keep their own words."""

from __future__ import annotations

import traceback

import gymnasium as gym
import numpy as np
import pytest
import torch
import torchrl.envs
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from torch import nn

import wm_vec
from tests.adapters.ways import PLANE, PUSH, make, ways
from tests.core.walk import Walk
from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv


@pytest.mark.parametrize("model", [object(), nn.Module(), nn.ModuleList(), 3, None], ids=lambda m: type(m).__name__)
def test_models_with_none_of_the_methods(model):
    with pytest.raises(AdapterError) as caught:
        WorldModelEnv(model, PLANE, PUSH, initial_observation=torch.zeros(2))
    message = str(caught.value)
    assert message.startswith(f"WorldModelEnv: world_model ({type(model).__name__}) has none of the methods")
    for method in ("env_step", "step", "predict_step", "predict", "imagine_step", "transition", "__call__"):
        assert method in message
    assert "transition_fn(model, state, action)" in message


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_nothing_says_how_episodes_start(shape):
    """Of a model that is called directly they start with a sample; see tests/envs/test_direct_episodes.py."""
    with pytest.raises(AdapterError, match=r"CallableDynamics: nothing says how episodes start.*reset_fn.*reset_env"):
        make(shape, "batched", transition_fn=lambda s, a: (s, s, 0.0), initial_state=None, initial_observation=None)[
            0
        ].reset()


@pytest.mark.parametrize(("shape", "batching"), [("scalar", None), ("vector", "batched")])
def test_states_that_nobody_can_see(shape, batching):
    with pytest.raises(AdapterError, match=r"initial_state is no observation.*decode_observation, decode or observe"):
        make(shape, batching, initial_state=torch.zeros(9), initial_observation=None, transition_fn=lambda s, a: s)[
            0
        ].reset()


class OldBox:
    """As the spaces of the package before Gymnasium, which people still hand in."""

    __module__ = "gym.spaces.box"
    shape, dtype = (2,), np.float32


@pytest.mark.parametrize("shape", ["scalar", "vector"])
@pytest.mark.parametrize("role", ["observation_space", "action_space"])
@pytest.mark.parametrize(
    ("space", "what"),
    [
        (OldBox(), r"got OldBox.*old `gym`"),
        (None, "got None"),
        ((2,), r"got a tuple of 1 \(2\)"),
        (Box, "got type"),
    ],
    ids=["old gym", "None", "a tuple", "a class"],
)
def test_spaces_that_are_not_gymnasiums(shape, role, space, what):
    given = {"observation_space": PLANE, "action_space": PUSH, role: space}
    make_env = WorldModelEnv if shape == "scalar" else WorldModelVectorEnv.from_callables
    options = {} if shape == "scalar" else {"num_envs": 2}
    adapter = "WorldModelEnv" if shape == "scalar" else "CallableDynamics"
    with pytest.raises(AdapterError, match=rf"{adapter}.*{role} must be a gymnasium.Space, {what}"):
        make_env(None, **given, transition_fn=lambda s, a: (s, s, 0.0), initial_state=torch.zeros(2), **options)


@pytest.mark.parametrize(
    ("role", "space"),
    [
        ("observation_space", spaces.Text(3)),
        ("observation_space", Dict(words=spaces.Sequence(Discrete(2)))),
        ("action_space", Dict(push=PUSH)),
        ("action_space", Tuple((PUSH, PUSH))),
        ("action_space", spaces.Text(3)),
    ],
    ids=str,
)
def test_spaces_that_are_no_tensors(role, space):
    given = {"observation_space": PLANE, "action_space": PUSH, role: space}
    with pytest.raises(AdapterError, match=rf"{role}.*Box.*Discrete.*MultiDiscrete.*MultiBinary"):
        WorldModelEnv(None, **given, transition_fn=lambda s, a: (s, s, 0.0), initial_state=torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "parallel"}, "batching must be one of 'batched', 'vmap', got 'parallel'"),
        ({"batching": "vmap", "torch_actions": False}, r"torch_actions=False.*WorldModelEnv.*SyncVectorEnv"),
        ({"rng": "torch"}, "rng must be 'counter' or 'global', got 'torch'"),
        ({"reset_fn": wm_vec.batched(lambda seeds: seeds)}, "marked batched.*'batched' or 'vmap'"),
        ({"device": "meta"}, r"model is on cpu, device is meta.*model\.to\('meta'\)"),
    ],
)
def test_settings_that_do_not_fit(options, message):
    with pytest.raises(AdapterError, match=message):
        WorldModelEnv(
            nn.Linear(2, 2),
            PLANE,
            PUSH,
            transition_fn=lambda s, a: (s, s, 0.0),
            initial_observation=torch.zeros(2),
            **options,
        )


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_the_loop_is_replaced_by_code_that_runs(shape):
    """The message shows what to use instead, for Gymnasium and for TorchRL."""
    with pytest.raises(AdapterError, match="leave `batching` out") as caught:
        make(shape, "loop", transition_fn=lambda s, a: (s, s, 0.0))
    in_gymnasium, in_torchrl = (line.strip() for line in str(caught.value).splitlines() if line.startswith("    "))
    names = {
        "gym": gym,
        "torchrl": torchrl,
        "WorldModelEnv": WorldModelEnv,
        "model": lambda state, action: (np.zeros(2, np.float32), 1.0, False, False, {}),
        "observation_space": PLANE,
        "action_space": PUSH,
        "n": 3,
    }
    with pytest.warns(UserWarning, match="nothing says how episodes start"):
        envs, env = eval(in_gymnasium, names), eval(in_torchrl, names)
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[1].tolist() == [1.0] * 3
    assert env.rand_step(env.reset())["next", "reward"].item() == 1.0


# -- exceptions of the callables' own ---------------------------------------------------------------------------------


class OwnError(Exception):
    """What a user's code may raise."""


def culprit(*_):
    raise OwnError("the user's own words")


CALLABLES = ["transition_fn", "reward_fn", "terminal_fn", "action_transform_fn"]


def raised_by(action):
    """The exception, which kept its type, its words and the frame that raised it; and its notes."""
    with pytest.raises(OwnError) as caught:
        action()
    assert str(caught.value) == "the user's own words"
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "culprit"
    return "\n".join(caught.value.__notes__)


@ways
@pytest.mark.parametrize("name", CALLABLES)
def test_exceptions_say_in_which_callable_and_step(shape, batching, name):
    """Two steps go well, the third raises."""
    calls = []

    def later(*args):
        calls.append(args)
        if len(calls) > 2:
            culprit()
        return args[1] if name == "action_transform_fn" else 0.0

    def transition(state, action):
        if name == "transition_fn":
            later()
        return {"state": state, "observation": state}

    callables = {"transition_fn": transition}
    if name == "action_transform_fn":
        callables[name] = lambda model, action: later(model, action)
    elif name != "transition_fn":
        callables[name] = lambda state, observation: later()
    env, action = make(shape, batching, **callables)
    env.reset(seed=5)
    env.step(action)
    env.step(action)
    notes = raised_by(lambda: env.step(action))
    assert name in notes
    assert "step 3 of episode 0" in notes
    assert "seed 5" in notes


@ways
def test_exceptions_of_the_models_own_methods(shape, batching):
    class Model:
        def predict(self, state, action):
            culprit()

    make_env = WorldModelEnv if shape == "scalar" else WorldModelVectorEnv.from_callables
    options = {} if shape == "scalar" else {"num_envs": 2}
    env = make_env(Model(), PLANE, PUSH, batching=batching, initial_observation=torch.zeros(2), **options)
    env.reset(seed=0)
    action = np.zeros(2, np.float32) if shape == "scalar" else torch.zeros(2, 2)
    assert "world_model.predict" in raised_by(lambda: env.step(action))


@ways
def test_exceptions_at_resets(shape, batching):
    def reset(seed):
        culprit()

    def begin():
        make(shape, batching, reset_fn=reset, transition_fn=lambda s, a: s)[0].reset(seed=5)

    notes = raised_by(begin)
    assert "reset_fn" in notes
    assert "reset" in notes
    assert "seed" in notes


def test_exceptions_of_decoders():
    class Model:
        def decode(self, state):
            culprit()

    def begin():
        WorldModelEnv(Model(), PLANE, PUSH, transition_fn=lambda s, a: (s, s, 0.0), initial_state=torch.zeros(9))

    assert "world_model.decode" in raised_by(begin)


@pytest.mark.parametrize(("shape", "batching"), [("scalar", None), ("vector", "batched")])
def test_exceptions_of_renderers(shape, batching):
    env, action = make(
        shape,
        batching,
        transition_fn=lambda s, a: (s, s, 0.0),
        render_fn=lambda model, state, observation: culprit(),
        render_mode="rgb_array",
    )
    env.reset(seed=0)
    env.step(action)
    assert "render_fn" in raised_by(env.render)


@pytest.mark.parametrize(("shape", "batching"), [("scalar", None), ("scalar", "batched"), ("vector", "batched")])
def test_the_env_goes_on_after_an_exception(shape, batching):
    """A step that raised changed nothing: the next one starts from the same state."""
    fail = [True]

    def transition(state, action):
        if fail[0]:
            culprit()
        return state + 1, state + 1, 0.0

    env, action = make(shape, batching, transition_fn=transition)
    env.reset(seed=0)
    raised_by(lambda: env.step(action))
    fail[0] = False
    assert (np.asarray(env.step(action)[0]) == 1.0).all()


@pytest.mark.parametrize(
    ("seen", "space", "message"),
    [
        (lambda x: x.to(torch.complex64), PLANE, "has dtype torch.complex64, its space torch.float32"),
        (lambda x: x[:, :1], PLANE, r"must have shape \(0, 2\), got \(0, 1\)"),
        (lambda x: {"x": x}, PLANE, "must be numbers"),
        (lambda x: x, Dict(x=PLANE), "must be a mapping with the keys"),
        (lambda x: x, Box(0, 255, (2,), np.uint8), "has dtype torch.float32, its space torch.uint8"),
    ],
)
def test_observations_of_a_dynamics_that_are_none_of_its_space(seen, space, message):
    class Seen(Walk):
        def observe(self, state):
            return seen(super().observe(state))

    with pytest.raises(AdapterError, match=f"Seen, observe: observation.*{message}"):
        WorldModelVectorEnv.from_dynamics(Seen(), space, Box(-1.0, 1.0, (1,)), num_envs=2)
