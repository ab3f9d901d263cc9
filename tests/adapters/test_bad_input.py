"""What does not fit is refused with the adapter's name, what came, and what may come."""

from __future__ import annotations

import re
import traceback

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from torch import nn

import wm_vec
from wm_vec import AdapterError
from wm_vec.adapters.forms import RESET_FORMS, TRANSITION_FORMS
from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-100.0, 100.0, (2,), np.float32)
PICTURE = Box(0, 255, (3, 8, 8), np.uint8)
BOTH = Dict(place=PLANE, kind=Discrete(3))
PAIR = Tuple((PLANE, Discrete(3)))
PUSH = Box(-1.0, 1.0, (2,), np.float32)
NUM_ENVS = 3
WAYS = [(shape, batching) for shape in ("scalar", "vector") for batching in ("loop", "batched", "vmap")]
ways = pytest.mark.parametrize(("shape", "batching"), WAYS)
batches = pytest.mark.parametrize(("shape", "batching"), [way for way in WAYS if way[1] == "batched"])


def make(shape, batching, space=PLANE, **options):
    """An env of a model without methods, and an action."""
    options.setdefault("initial_state", torch.zeros(2))
    if "reset_fn" not in options:
        options.setdefault("initial_observation", zeros(space))
    if shape == "scalar":
        return WorldModelEnv(None, space, PUSH, batching=batching, **options), np.zeros(2, np.float32)
    env = WorldModelVectorEnv.from_callables(
        None, space, PUSH, num_envs=NUM_ENVS, batching=batching, bank_size=4, **options
    )
    return env, torch.zeros(NUM_ENVS, 2)


def zeros(space):
    """An observation of nothing but zeros."""
    if isinstance(space, Dict):
        return {key: zeros(part) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(zeros(part) for part in space.spaces)
    return torch.as_tensor(np.zeros(space.shape or (), space.dtype))


def refused(shape, batching, transition, space=PLANE, **options):
    """The message of the refusal, which names the adapter, the batching and the callable."""
    env, action = make(shape, batching, space, transition_fn=transition, **options)
    env.reset(seed=0)
    with pytest.raises(AdapterError) as caught:
        env.step(action)
    message = str(caught.value)
    assert message.startswith(f"CallableDynamics(batching={batching!r}), transition_fn")
    return message


def lead(shape, batching):
    """The axes that the model's tensors have in front, as messages write them."""
    return {"batched": [1] if shape == "scalar" else [NUM_ENVS]}.get(batching, [])


# -- observations -----------------------------------------------------------------------------------------------------


@ways
def test_observations_of_another_shape(shape, batching):
    message = refused(shape, batching, lambda state, action: (state, state[..., :1], 0.0))
    front = lead(shape, batching)
    assert f"observation must have shape {(*front, 2)}, got {(*front, 1)}" in message


@ways
def test_observations_of_another_dtype(shape, batching):
    def transition(state, action):
        return state, torch.zeros(*state.shape[:-1], 3, 8, 8), 0.0

    message = refused(shape, batching, transition, PICTURE)
    assert "observation has dtype torch.float32, its space torch.uint8" in message
    assert "scale" in message


@ways
def test_parts_of_observations_are_named(shape, batching):
    def narrow(state, action):
        return state, {"place": state[..., :1], "kind": state[..., 0].long()}, 0.0

    def fractional(state, action):
        return state, (state, state[..., 0]), 0.0

    front = lead(shape, batching)
    message = refused(shape, batching, narrow, BOTH)
    assert f"observation.place must have shape {(*front, 2)}, got {(*front, 1)}" in message
    assert "observation.1 has dtype torch.float32" in refused(shape, batching, fractional, PAIR)


@ways
@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (BOTH, lambda s: {"place": s}, r"mapping with the keys \['kind', 'place'\].*got \{'place': Tensor\("),
        (BOTH, lambda s: s, r"mapping with the keys \['kind', 'place'\].*got Tensor\("),
        (PAIR, lambda s: (s,), r"must be a tuple of 2, got a tuple of 1 \(Tensor"),
        (PAIR, lambda s: s, r"must be a tuple of 2, got Tensor\("),
        (PLANE, lambda s: {"place": s}, r"observation must be numbers, got \{'place': Tensor\("),
        (PLANE, lambda s: "here", "observation must be numbers, got str"),
    ],
)
def test_observations_of_another_structure(shape, batching, space, observation, message):
    assert re.search(message, refused(shape, batching, lambda s, action: (s, observation(s), 0.0), space))


@ways
@pytest.mark.parametrize(
    "missing",
    [lambda s: {"state": s, "reward": 0.0}, lambda s: {"state": s, "observation": None}, lambda s: {"reward": 1.0}],
)
def test_missing_observations(shape, batching, missing):
    message = refused(shape, batching, lambda state, action: missing(state))
    assert "It has no observation." in message
    assert re.search(r"returned \{'(state|reward)'", message)
    assert all(form in message for form in TRANSITION_FORMS)


# -- rewards and flags ------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("place", ["reward", "terminated", "truncated"])
def test_numbers_that_are_not_one_per_env(shape, batching, place):
    def transition(state, action):
        values = {"reward": 0.0, "terminated": False, "truncated": False, place: state}
        return {"state": state, "observation": state, **values}

    message = refused(shape, batching, transition)
    assert f"{place} must be one number" in message
    assert f"got Tensor{(*lead(shape, batching), 2)} float32" in message


@ways
@pytest.mark.parametrize("name", ["reward_fn", "terminal_fn"])
def test_functions_that_give_more_than_one_number_per_env(shape, batching, name):
    message = refused(
        shape, batching, lambda state, action: {"state": state, "observation": state}, **{name: lambda state: state}
    )
    assert {"reward_fn": "reward", "terminal_fn": "terminated"}[name] + " must be one number" in message


@ways
@pytest.mark.parametrize("reward", [None, "much", {"a": 1.0}], ids=str)
def test_rewards_that_are_no_numbers(shape, batching, reward):
    message = refused(shape, batching, lambda state, action: (state, state, reward))
    assert re.search(r"reward must be one number.*got (None|str|\{'a': 1.0\})", message)


def test_a_mean_over_all_envs_is_no_reward_of_each():
    message = refused("vector", "batched", lambda state, action: (state, state, state.mean()))
    assert f"reward must be one number per env, shape ({NUM_ENVS},)" in message
    assert ".mean(-1)" in message


# -- forms ------------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda s: None, "returned None"),
        (lambda s: (s,), r"returned a tuple of 1 \(Tensor"),
        (lambda s: (s, 0.0), r"returned a tuple of 2 \(Tensor\(.*\) float32, 0.0\)"),
        (lambda s: (s, s, 0.0, False, False, {}, 1), "returned a tuple of 7"),
        (lambda s: [s, 0.0, False, False, {}], "returned a list of 5"),
        (lambda s: "next", "returned str"),
        (lambda s: 3.5, "returned 3.5"),
    ],
)
def test_transitions_of_no_known_form(shape, batching, returned, what):
    message = refused(shape, batching, lambda state, action: returned(state))
    assert re.search(what, message)
    assert all(form in message for form in TRANSITION_FORMS)


@ways
def test_infos_that_are_no_mappings(shape, batching):
    message = refused(shape, batching, lambda state, action: (state, 0.0, False, False, 3))
    assert "info must be a mapping, got 3" in message


@ways
@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "returned None"),
        ((torch.zeros(2), torch.zeros(2), {}, 1), "returned a tuple of 4"),
        ((), "returned a tuple of 0"),
        ({"state": torch.zeros(2)}, "It has no observation."),
    ],
)
def test_resets_of_no_known_form(shape, batching, returned, what):
    with pytest.raises(AdapterError) as caught:
        make(shape, batching, reset_fn=lambda: returned, transition_fn=lambda s, a: s)[0].reset(seed=0)
    message = str(caught.value)
    assert message.startswith(f"CallableDynamics(batching={batching!r}), reset_fn")
    assert what in message
    assert all(form in message for form in RESET_FORMS)


@ways
@pytest.mark.parametrize(
    ("space", "returned", "what"),
    [
        (PLANE, torch.zeros(5), r"observation must have shape \(2,\), got \(5,\)"),
        (PLANE, (torch.zeros(2), torch.zeros(5)), r"observation must have shape \(2,\), got \(5,\)"),
        (PICTURE, torch.zeros(3, 8, 8), "observation has dtype torch.float32, its space torch.uint8"),
        # Read as (state, obs), since the second part has the keys of the space.
        (BOTH, (torch.zeros(2), {"place": torch.zeros(9), "kind": 0}), r"place must have shape \(2,\), got \(9,\)"),
        (BOTH, {"place": torch.zeros(9), "kind": 0}, r"place must have shape \(2,\), got \(9,\)"),
        (PLANE, (torch.zeros(2), torch.zeros(2), 5), "info must be a mapping, got 5"),
    ],
)
def test_resets_with_observations_outside_the_space(shape, batching, space, returned, what):
    with pytest.raises(AdapterError, match=rf"batching='{batching}'\), reset_fn.*{what}"):
        make(shape, batching, space, reset_fn=lambda: returned, transition_fn=lambda s, a: s)[0].reset(seed=0)


# -- batches ----------------------------------------------------------------------------------------------------------


@batches
@pytest.mark.parametrize("longer", ["state", "observation"])
def test_batches_that_come_back_at_another_size(shape, batching, longer):
    envs = lead(shape, batching)[0]

    def transition(state, action):
        more = torch.cat([state, state])
        return more if longer == "state" else state, more if longer == "observation" else state, 0.0

    message = refused(shape, batching, transition)
    assert f"{longer} came back for {2 * envs} envs, {envs} went in" in message
    assert "must keep the leading batch axis" in message


def test_rewards_of_another_number_of_envs():
    message = refused("vector", "batched", lambda state, action: (state, state, torch.zeros(NUM_ENVS + 1)))
    assert f"reward must be one number per env, shape ({NUM_ENVS},)" in message
    assert f"got Tensor({NUM_ENVS + 1},)" in message


def test_models_of_one_env_among_batches_are_told_of_the_other_ways():
    message = refused("vector", "batched", lambda state, action: (state, state[0], 0.0))
    assert "batching='vmap' or 'loop'" in message


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_models_of_batches_in_a_loop_are_told_of_batches(shape):
    message = refused(shape, "loop", lambda state, action: (state, state[None], 0.0))
    assert "batching='batched'" in message


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_resets_of_another_number_of_envs_than_seeds(batching):
    reset = wm_vec.batched(lambda seeds: torch.zeros(2 * len(seeds), 2))
    with pytest.raises(AdapterError, match=r"reset_fn.*observation came back for 2 envs, 1 went in"):
        make("vector", batching, reset_fn=reset, transition_fn=lambda s, a: s)[0].reset(seed=0)


def test_starts_of_other_numbers_of_states_and_observations():
    with pytest.raises(AdapterError, match=r"starts 4 envs, but state has shape \(5, 2\)"):
        make(
            "vector",
            "batched",
            transition_fn=lambda s, a: s,
            initial_state=torch.zeros(5, 2),
            initial_observation=torch.zeros(4, 2),
        )


@ways
def test_states_that_change_their_shape_or_dtype(shape, batching):
    if batching == "loop":
        env, action = make(shape, batching, transition_fn=lambda s, a: (s[..., :1], torch.zeros(2), 0.0))
        env.reset(seed=0)
        env.step(action)
        return
    for after in (lambda s: s[..., :1], lambda s: s.double()):
        message = refused(shape, batching, lambda s, a, after=after: (after(s), s, 0.0))
        assert re.search(r"state went in as Tensor\(.*\) float32 and came back as Tensor\(", message)


# -- models, spaces, settings -----------------------------------------------------------------------------------------


def test_models_with_none_of_the_methods():
    for model in (object(), nn.Linear, nn.Module(), 3, None):
        if model is nn.Linear:
            model = nn.ModuleList()
        with pytest.raises(AdapterError) as caught:
            WorldModelEnv(model, PLANE, PUSH, initial_observation=torch.zeros(2))
        message = str(caught.value)
        assert message.startswith(f"CallableDynamics: world_model ({type(model).__name__}) has none of the methods")
        for method in ("env_step", "step", "predict_step", "predict", "imagine_step", "transition", "__call__"):
            assert method in message
        assert "transition_fn(model, state, action)" in message


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_nothing_says_how_episodes_start(shape):
    with pytest.raises(AdapterError, match=r"CallableDynamics: nothing says how episodes start.*reset_fn.*reset_env"):
        make(shape, "loop", transition_fn=lambda s, a: s, initial_state=None, initial_observation=None)[0].reset()


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_states_that_nobody_can_see(shape):
    with pytest.raises(AdapterError, match=r"initial_state is no observation.*decode_observation, decode or observe"):
        make(shape, "loop", initial_state=torch.zeros(9), initial_observation=None, transition_fn=lambda s, a: s)[
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
    with pytest.raises(AdapterError, match=rf"CallableDynamics.*{role} must be a gymnasium.Space, {what}"):
        make_env(None, **given, transition_fn=lambda s, a: s, initial_state=torch.zeros(2), **options)


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
        WorldModelEnv(None, **given, transition_fn=lambda s, a: s, initial_state=torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "parallel"}, "batching must be one of 'batched', 'vmap', 'loop', got 'parallel'"),
        ({"rng": "torch"}, "rng must be 'counter' or 'global', got 'torch'"),
        ({"reset_fn": wm_vec.batched(lambda seeds: seeds)}, "marked batched.*'batched' or 'vmap', got 'loop'"),
        ({"device": "meta"}, r"model is on cpu, device is meta.*model\.to\('meta'\)"),
    ],
)
def test_settings_that_do_not_fit(options, message):
    with pytest.raises(AdapterError, match=message):
        WorldModelEnv(
            nn.Linear(2, 2), PLANE, PUSH, transition_fn=lambda s, a: s, initial_observation=torch.zeros(2), **options
        )


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
        # Under "loop" a vector env calls once for each of its envs.
        if len(calls) > 2 * (NUM_ENVS if (shape, batching) == ("vector", "loop") else 1):
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
        WorldModelEnv(Model(), PLANE, PUSH, transition_fn=lambda s, a: s, initial_state=torch.zeros(9))

    assert "world_model.decode" in raised_by(begin)


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_exceptions_of_renderers(shape):
    env, action = make(
        shape,
        "loop",
        transition_fn=lambda s, a: s,
        render_fn=lambda model, state, observation: culprit(),
        render_mode="rgb_array",
    )
    env.reset(seed=0)
    env.step(action)
    assert "render_fn" in raised_by(env.render)


@pytest.mark.parametrize("shape", ["scalar", "vector"])
def test_the_env_goes_on_after_an_exception(shape):
    """A step that raised changed nothing: the next one starts from the same state."""
    fail = [True]

    def transition(state, action):
        if fail[0]:
            culprit()
        return state + 1, state + 1, 0.0

    env, action = make(shape, "batched", transition_fn=transition)
    env.reset(seed=0)
    raised_by(lambda: env.step(action))
    fail[0] = False
    assert (np.asarray(env.step(action)[0]) == 1.0).all()
