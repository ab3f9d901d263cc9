"""The scalar env that calls a Python model directly: what goes in reaches the model, what comes out is the model's."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.utils.env_checker import check_env

import wm_vec
from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv, make_world_model_env

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (2,), np.float32)
ZEROS = np.zeros(2, np.float32)
ACTION = np.array([0.25, 0.5], np.float32)


class Counter:
    """A state that is a Python object: where it began, and a list of what was done to it."""

    def __init__(self, began: int) -> None:
        self.began, self.done = began, []

    def seen(self) -> np.ndarray:
        return np.array([self.began, len(self.done)], np.float32)


def count(state, action):
    """The same object comes back, changed."""
    state.done.append(action)
    return state, state.seen(), float(len(state.done))


def started(transition, observation_space=PLANE, action_space=PUSH, seed=0, model=None, **options):
    """An env after its first reset."""
    if not {"reset_fn", "initial_state"} & set(options):
        options.setdefault("initial_observation", ZEROS)
    env = WorldModelEnv(model, observation_space, action_space, transition_fn=transition, **options)
    env.reset(seed=seed)
    return env


def spy(observation=ZEROS):
    """A transition that keeps its states and actions, and the lists that it keeps them in."""
    states, actions = [], []

    def transition(state, action):
        states.append(state)
        actions.append(action)
        return state, observation, 0.0

    return transition, states, actions


# -- actions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (Discrete(4, start=2), np.int64(3)),
        (PUSH, ACTION),
        (MultiDiscrete([3, 4]), np.array([2, 1])),
        (MultiBinary(2), np.array([1, 0], np.int8)),
        (Box(0, 255, (2, 2), np.uint8), np.full((2, 2), 7, np.uint8)),
    ],
    ids=str,
)
def test_an_action_transform_gets_the_action_in_numpy(space, action):
    got = []
    env = started(spy()[0], action_space=space, action_transform_fn=lambda model, action: got.append(action))
    env.step(action)
    assert type(got[0]) is type(action)
    assert got[0].dtype == action.dtype == space.dtype
    np.testing.assert_array_equal(got[0], action)


@pytest.mark.parametrize("torch_actions", [True, False])
@pytest.mark.parametrize("taken", [3, 0.5, "left", None, (1, 2), {"push": 1}, np.ones(3), torch.ones(2), object()])
def test_what_an_action_transform_returns_reaches_the_transition_untouched(taken, torch_actions):
    transition, _, actions = spy()
    env = started(transition, action_transform_fn=lambda action: taken, torch_actions=torch_actions)
    env.step(ACTION)
    assert actions[0] is taken


def test_an_int_of_a_discrete_space_stays_an_int():
    transition, _, actions = spy()
    env = started(transition, action_space=Discrete(5), action_transform_fn=lambda model, action: int(action) * 10)
    env.step(np.int64(3))
    assert type(actions[0]) is int
    assert actions[0] == 30


@pytest.mark.parametrize("space", [PUSH, Discrete(3), MultiBinary(2), Box(-1, 1, (2,), np.float64)], ids=str)
def test_without_a_transform_torch_actions_decides(space):
    space.seed(0)
    action = space.sample()
    transition, _, actions = spy()
    started(transition, action_space=space, torch_actions=True).step(action)
    started(transition, action_space=space, torch_actions=False).step(action)
    tensor, array = actions
    assert isinstance(tensor, torch.Tensor)
    assert tensor.device.type == "cpu"
    assert tensor.dtype is (torch.from_numpy(np.zeros(1, space.dtype)).dtype if isinstance(space, Box) else torch.int64)
    assert type(array) is type(action)
    assert array.dtype == space.dtype
    for got in (tensor, array):
        np.testing.assert_array_equal(got, action)


def test_tensors_go_to_the_device():
    transition, _, actions = spy()
    started(transition, device="meta").step(ACTION)
    assert actions[0].device.type == "meta"


@pytest.mark.parametrize("torch_actions", [True, False])
def test_nothing_is_clipped(torch_actions):
    transition, _, actions = spy()
    started(transition, torch_actions=torch_actions).step(np.array([50.0, -7.0], np.float32))
    assert actions[0].tolist() == [50.0, -7.0]


@pytest.mark.parametrize("torch_actions", [True, False])
def test_what_the_caller_writes_into_its_action_afterwards_changes_nothing(torch_actions):
    transition, _, actions = spy()
    action = ACTION.copy()
    started(transition, torch_actions=torch_actions).step(action)
    action[:] = 9.0
    assert actions[0].tolist() == ACTION.tolist()


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (PUSH, np.zeros(3, np.float32), r"numbers of shape \(2,\), got shape \(3,\)"),
        (PUSH, "left", r"numbers of shape \(2,\)"),
        (PUSH, np.array([np.nan, 0.0]), "must be finite"),
        (Discrete(3), 3, "one whole number of"),
        (Discrete(3), 0.5, "one whole number of"),
        (Discrete(3), None, "one whole number of"),
        (MultiDiscrete([2, 2]), np.array([0, 2]), "must be one of"),
        (MultiDiscrete([2, 2]), np.array([0.0, 1.0]), "whole numbers of shape"),
        (MultiBinary(2), np.array([256, 0]), "must be one of"),
    ],
)
def test_what_is_no_action_is_refused(space, action, message):
    transition, _, actions = spy()
    env = started(transition, action_space=space)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert actions == []


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_a_models_nan_is_handed_on():
    def broken(state, action):
        return state, np.array([np.nan, np.inf], np.float32), float("nan")

    env = started(broken)
    for _ in range(2):
        observation, reward, terminated, truncated, info = env.step(ACTION)
        np.testing.assert_array_equal(observation, [np.nan, np.inf])
        assert np.isnan(reward)
        assert (terminated, truncated) == (False, False)
        assert "diverged" not in info


@pytest.mark.parametrize("reward", [1, 0.1, np.float64(0.1), np.float32(0.5), np.array([2.0]), torch.tensor(0.25)])
@pytest.mark.parametrize("flag", [True, 0.7, np.True_, np.float32(0.9), torch.tensor(True), torch.tensor([0.6])])
def test_rewards_are_floats_and_flags_bools_of_python(reward, flag):
    env = started(lambda state, action: (state, state, reward, flag, flag, {}))
    _, got, terminated, truncated, _ = env.step(ACTION)
    assert type(got) is float
    assert got == np.asarray(reward).item()
    assert terminated is True
    assert truncated is True


def test_the_state_is_the_models_own_and_any_object():
    counter = Counter(7)
    env = started(count, reset_fn=lambda: (counter, counter.seen()))
    assert env.state is counter
    *_, info = env.step(ACTION)
    assert env.state is info["model_state"] is counter
    assert WorldModelEnv(None, PLANE, PUSH, transition_fn=count, reset_fn=lambda: 0).state is None


def test_a_reset_returns_exactly_the_adapters_info():
    reported = {"source": [1, 2], "model_state": "the adapter's own"}
    env = started(spy()[0], reset_fn=lambda: (ZEROS, reported))
    _, info = env.reset()
    assert type(info) is dict
    assert info == reported
    assert info is not reported
    assert info["source"] is reported["source"]
    env = started(spy()[0], reset_fn=lambda: ZEROS)
    assert env.reset()[1] == {}


def test_a_step_adds_the_state_and_the_elapsed_steps_alone():
    reported = {"source": [1, 2]}
    env = started(lambda state, action: (5, ZEROS, 0.0, False, False, reported))
    for steps in (1, 2):
        *_, info = env.step(ACTION)
        assert info == {"source": [1, 2], "model_state": 5, "elapsed_steps": steps}
        assert isinstance(info, dict)
        assert info["source"] is reported["source"]
    assert reported == {"source": [1, 2]}, "the adapter's own is left alone"
    env = started(lambda state, action: (ZEROS, 0.0, False, {}))
    assert set(env.step(ACTION)[4]) == {"model_state", "elapsed_steps"}


def test_entries_of_the_adapters_own_come_first():
    reported = {"model_state": "seen", "elapsed_steps": 99}
    env = started(lambda state, action: (5, ZEROS, 0.0, False, False, reported))
    *_, info = env.step(ACTION)
    assert info == reported
    assert env.state == 5


def test_the_info_of_a_step_is_a_dict_whose_keys_leave_out_the_state():
    """Gymnasium's checker compares infos by their keys, and a tensor has no single answer to ``==``."""
    env = started(lambda state, action: (torch.ones(2), ZEROS, 0.0, False, False, {"a": 1}))
    *_, info = env.step(ACTION)
    assert list(info.keys()) == ["a", "elapsed_steps"]
    for other in (dict(info), {**info}, info.copy(), copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
        assert set(other) == {"a", "model_state", "elapsed_steps"}
        assert torch.equal(other["model_state"], torch.ones(2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, bool])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_observations_are_copies_in_the_spaces_dtype(dtype, as_tensor):
    own = np.array([1, 0], dtype)
    buffer = torch.from_numpy(own) if as_tensor else own

    def transition(state, action):
        return state, buffer, 0.0

    env = started(transition, reset_fn=lambda: buffer)
    first, _ = env.reset()
    second, *_ = env.step(ACTION)
    own[:] = 0
    for observation in (first, second):
        assert type(observation) is np.ndarray
        assert observation.dtype == np.float32
        assert observation.tolist() == [1.0, 0.0]
    second[:] = 7
    assert own.tolist() == [0, 0]


def test_parts_of_observations_are_copies_too():
    space = Dict(place=PLANE, pair=Tuple((Discrete(9), Box(-9, 9, (), np.float32))))
    own = {"place": ZEROS.copy(), "pair": (np.array(4), torch.tensor(2.5, requires_grad=True))}
    env = started(lambda state, action: (0, own, 0.0), observation_space=space, reset_fn=lambda: (0, own))
    observation, *_ = env.step(ACTION)
    own["place"][:] = 5
    assert observation in space
    assert observation["place"].tolist() == [0.0, 0.0]
    assert observation["place"].dtype == np.float32
    assert (type(observation["pair"][0]), observation["pair"][0]) == (np.int64, 4)
    assert observation["pair"][1] == 2.5


@pytest.mark.parametrize("key", ["observation", "obs", "image", "pixels", "next_observation", "next_obs"])
def test_names_of_the_observation(key):
    env = started(
        lambda state, action: {"state": state + 1, key: state + 1.0},
        reset_fn=lambda: {"state": np.zeros(2, np.float32), key: np.full(2, 3.0, np.float32)},
    )
    observation, info = env.reset()
    assert observation.tolist() == [3.0, 3.0]
    assert info == {}
    observation, *_, info = env.step(ACTION)
    assert observation.tolist() == [1.0, 1.0]
    assert set(info) == {"model_state", "elapsed_steps"}


@pytest.mark.parametrize("key", ["state", "latent"])
def test_the_state_before_the_step_is_no_info(key):
    env = started(
        lambda state, action: {key: state, f"next_{key}": 2, "obs": ZEROS}, initial_state=1, initial_observation=ZEROS
    )
    assert env.step(ACTION)[4] == {"model_state": 2, "elapsed_steps": 1}


def test_near_misses_are_warned_of_once():
    env = started(lambda state, action: {"state": state, "obs": ZEROS, "rewards": 1.0})
    with pytest.warns(UserWarning, match="'rewards' went into info, since a reward goes by the key 'reward'"):
        env.step(ACTION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(ACTION)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{"num_envs": 4}, {"autoreset_mode": "same_step"}, {"exact_rows": True}, {"validate": True}, {"encode": count}],
    ids=lambda given: next(iter(given)),
)
def test_arguments_of_many_envs_are_refused(given):
    (name,) = given
    with pytest.raises(TypeError, match=rf"{name} is for many envs.*Leave it out.*from_callables\(.*num_envs"):
        WorldModelEnv(count, PLANE, PUSH, **given)


def test_a_bank_needs_a_batching():
    with pytest.raises(TypeError, match=r"bank_size needs batching='batched' or 'vmap'\. Leave it out"):
        WorldModelEnv(count, PLANE, PUSH, bank_size=8)
    env = WorldModelEnv(
        lambda state, action: state + action, PLANE, PUSH, batching="batched", bank_size=8, reset_fn=lambda: ZEROS
    )
    assert env.reset(seed=0)[0].tolist() == [0.0, 0.0]


def test_arguments_that_there_are_not():
    with pytest.raises(TypeError, match="unexpected keyword argument 'transitionfn'"):
        WorldModelEnv(count, PLANE, PUSH, transitionfn=count)


def test_the_loop_is_what_it_does_anyway():
    with pytest.raises(AdapterError, match=r"WorldModelEnv: batching='loop': leave `batching` out"):
        WorldModelEnv(count, PLANE, PUSH, batching="loop")


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_limits_that_are_none(limit):
    with pytest.raises(ValueError, match="max_episode_steps must be"):
        WorldModelEnv(count, PLANE, PUSH, max_episode_steps=limit, initial_observation=ZEROS)


@pytest.mark.parametrize("batching", [None, "batched", "vmap"])
def test_every_kind_goes_by_one_class(batching):
    env = make_world_model_env(
        lambda state, action: state + action, PLANE, PUSH, batching=batching, initial_observation=torch.zeros(2)
    )
    assert isinstance(env, WorldModelEnv)
    assert (env.engine is None) == (batching is None)
    env.reset(seed=0)
    assert env.step(ACTION)[0].tolist() == ACTION.tolist()
    for other in (copy.deepcopy(env), copy.copy(env)):
        assert type(other) is WorldModelEnv


# -- seeds ------------------------------------------------------------------------------------------------------------


def seeds_of(resets, **options):
    """The seeds that the model's reset gets, and the env."""
    got = []

    def reset(model, seed):
        got.append(seed)
        return ZEROS

    env = WorldModelEnv(None, PLANE, PUSH, transition_fn=spy()[0], reset_fn=reset, **options)
    for seed in resets:
        env.reset(seed=seed)
    return got, env


def test_a_seeded_reset_hands_its_seed_on_and_later_ones_draw_from_np_random():
    got, env = seeds_of([5, None, None])
    generator, _ = gym.utils.seeding.np_random(5)
    assert got == [5, int(generator.integers(2**31)), int(generator.integers(2**31))]
    assert env.np_random.bit_generator.state == generator.bit_generator.state
    assert seeds_of([9, 5, None, None])[0][1:] == got


def test_an_unseeded_env_draws_from_np_random_alone():
    assert seeds_of([None])[0] != seeds_of([None])[0]
    got, env = seeds_of([])
    env.np_random = np.random.default_rng(3)
    env.reset()
    assert got == [int(np.random.default_rng(3).integers(2**31))]


def test_the_constructors_seed_is_that_of_the_first_reset():
    assert seeds_of([None, None], seed=5)[0] == seeds_of([5, None])[0]
    assert seeds_of([8, None], seed=5)[0] == seeds_of([8, None])[0]


def test_the_constructors_seed_seeds_a_copy_of_the_action_space():
    space = Box(-1.0, 1.0, (2,), np.float32)
    env, same = (WorldModelEnv(spy()[0], PLANE, space, initial_observation=ZEROS, seed=5) for _ in range(2))
    assert env.action_space is not space
    np.testing.assert_array_equal(env.action_space.sample(), same.action_space.sample())
    assert WorldModelEnv(spy()[0], PLANE, space, initial_observation=ZEROS).action_space is space


def test_global_generators_are_seeded_by_seed_episode_and_step():
    """So envs in any number and order have the draws of their own seeds, and nobody else's draws change."""

    def noisy(state, action):
        return state + torch.randn(2).numpy() + np.random.randn(2).astype(np.float32), 0.0, False, {}  # noqa: NPY002

    def episode(*seeds):
        envs = [started(noisy, rng="global", seed=seed) for seed in seeds]
        return [[env.step(ACTION)[0].tolist() for env in envs] for _ in range(3)]

    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    both = episode(3, 4)
    assert torch.rand(1) == expected
    assert [three for three, _ in both] == [three for _, three in episode(9, 3)]
    assert len({tuple(seen) for step in both for seen in step}) == 6
    with pytest.warns(UserWarning, match="transition_fn uses torch's and NumPy's global random generator"):
        started(noisy).step(ACTION)


# -- starts -----------------------------------------------------------------------------------------------------------


def test_without_any_start_episodes_start_with_a_seeded_sample():
    transition, states, _ = spy()
    with pytest.warns(UserWarning, match="nothing says how episodes start.*sample of the observation space") as caught:
        env = WorldModelEnv(None, PLANE, PUSH, transition_fn=transition)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        firsts = [env.reset(seed=seed)[0].tolist() for seed in (3, None, None, 3, None, 4)]
    assert all(np.asarray(first, np.float32) in PLANE for first in firsts)
    assert firsts[:2] == firsts[3:5]
    assert len({tuple(first) for first in firsts}) == 4
    env.step(ACTION)
    assert states[0].tolist() == firsts[-1], "it is the state too"


def test_a_sample_leaves_the_callers_space_alone():
    space = Box(-1.0, 1.0, (2,), np.float32, seed=0)
    expected = Box(-1.0, 1.0, (2,), np.float32, seed=0).sample()
    with pytest.warns(UserWarning, match="nothing says how episodes start"):
        WorldModelEnv(None, space, PUSH, transition_fn=spy()[0]).reset(seed=3)
    np.testing.assert_array_equal(space.sample(), expected)


def test_a_given_state_or_observation_starts_every_episode():
    state = torch.tensor([1.0, 2.0])
    transition, states, _ = spy()
    for given in ({"initial_state": state}, {"initial_observation": state}):
        env = started(transition, **given)
        assert env.reset()[0].tolist() == [1.0, 2.0]
        env.step(ACTION)
        assert isinstance(states[-1], torch.Tensor)

    class Model:
        def decode(self, state):
            return state["z"] * 10

    env = started(transition, model=Model(), initial_state={"z": state})
    assert env.reset()[0].tolist() == [10.0, 20.0]
    env.step(ACTION)
    assert set(states[-1]) == {"z"}


def test_a_given_object_is_copied_at_every_reset():
    """So episodes start alike, though the transition writes into its state, and what was handed in stays as it was."""
    given = Counter(3)
    env = started(count, initial_state=given, initial_observation=given.seen())
    for _ in range(2):
        assert env.reset()[0].tolist() == [3, 0]
        assert [env.step(ACTION)[0].tolist() for _ in range(2)] == [[3, 1], [3, 2]]
    assert given.done == []


def test_objects_that_cannot_be_copied_run_and_are_refused_as_a_given_start():
    def guarded(seed):
        counter = Counter(seed)
        counter.lock = threading.Lock()
        return counter, counter.seen()

    env = started(count, reset_fn=guarded, seed=5)
    assert env.step(ACTION)[0].tolist() == [5, 1]
    env = WorldModelEnv(None, PLANE, PUSH, transition_fn=count, initial_state=guarded(1)[0], initial_observation=ZEROS)
    with pytest.raises(TypeError, match="lock") as caught:
        env.reset()
    assert any("cannot be copied" in note and "Give reset_fn" in note for note in caught.value.__notes__)


def test_one_simulator_that_every_reset_returns():
    simulator = Counter(0)

    def restart(seed):
        simulator.began, simulator.done = seed, []
        return simulator, simulator.seen()

    env = started(count, reset_fn=restart, max_episode_steps=2)
    for seed in (4, 6):
        assert env.reset(seed=seed)[0].tolist() == [seed, 0]
        assert [env.step(ACTION)[0].tolist() for _ in range(2)] == [[seed, 1], [seed, 2]]


def test_resets_of_many_seeds_are_refused():
    with pytest.raises(AdapterError, match=r"marked batched.*batching='batched' or 'vmap'"):
        WorldModelEnv(count, PLANE, PUSH, reset_fn=wm_vec.batched(lambda seeds: seeds))


# -- episodes ---------------------------------------------------------------------------------------------------------


def test_a_step_before_reset_says_what_to_do():
    env = WorldModelEnv(None, PLANE, PUSH, transition_fn=count, initial_observation=ZEROS)
    with pytest.raises(RuntimeError, match=r"^Call reset\(\) before step\(\)"):
        env.step(ACTION)


def test_the_limit_truncates_and_counts_from_the_reset():
    env = started(spy()[0], max_episode_steps=2)
    for _ in range(2):
        env.reset()
        steps = [env.step(ACTION) for _ in range(3)]
        assert [step[3] for step in steps] == [False, True, True]
        assert [step[4]["elapsed_steps"] for step in steps] == [1, 2, 3]


def test_reward_and_terminal_functions_get_what_the_model_returned():
    got = []

    def judge(model, state, observation, action):
        got.append((model, state, observation, action))
        return 1

    model, seen = object(), np.ones(2, np.float32)
    env = started(
        lambda state, action: {"state": "next", "obs": seen},
        model=model,
        reward_fn=judge,
        terminal_fn=judge,
        action_transform_fn=lambda action: "taken",
    )
    assert env.step(ACTION)[1:4] == (1.0, True, False)
    for arguments in got:
        assert arguments[:2] == (model, "next")
        assert arguments[2] is seen
        assert arguments[3] == "taken"
    assert len(got) == 2


def test_models_run_without_gradients():
    net = torch.nn.Linear(2, 2)
    env = started(lambda state, action: (net(state), net(state), net(state).sum()), reset_fn=lambda: net(torch.ones(2)))
    assert not env.state.requires_grad
    env.step(ACTION)
    assert not env.state.requires_grad


def test_frames_and_tables_show_the_last_observation(capsys):
    picture = Box(0, 255, (8, 8, 3), np.uint8)
    buffer = np.zeros((8, 8, 3), np.uint8)

    def brighten(state, action):
        buffer[:] += 1
        return state, buffer, 0.0

    env = started(brighten, observation_space=picture, reset_fn=lambda: (0, buffer), render_mode="rgb_array")
    assert (env.render() == 0).all()
    observation, *_ = env.step(ACTION)
    observation[:] = 99
    buffer[:] = 77
    assert (env.render() == 1).all()
    env = started(lambda state, action: (state, ACTION, 0.0), render_mode="human")
    env.step(ACTION)
    assert "observation" in capsys.readouterr().out
    env = WorldModelEnv(None, PLANE, PUSH, transition_fn=count, initial_observation=ZEROS, render_mode="human")
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        env.render()


def test_a_render_fn_gets_the_model_its_state_and_the_observation():
    def paint(model, state, observation):
        return (model, state, observation.tolist())

    env = started(lambda state, action: ("after", ACTION, 0.0), model="model", render_fn=paint, render_mode="rgb_array")
    env.step(ACTION)
    assert env.render() == ("model", "after", ACTION.tolist())


def test_closing_it_closes_the_model():
    class Model:
        closed = 0

        def close(self):
            self.closed += 1

    model = Model()
    started(spy()[0], model=model).close()
    started(spy()[0], model=object()).close()
    assert model.closed == 1


# -- checkers ---------------------------------------------------------------------------------------------------------


STATES = {
    "tensor": lambda place: torch.from_numpy(place),
    "dict of tensors": lambda place: {"z": torch.from_numpy(place), "age": 3},
    "array": lambda place: place,
    "object": lambda place: Counter(1),
}


@pytest.mark.parametrize("kind", STATES)
def test_upstreams_checkers_pass(kind):
    """Whatever the state is, though infos hold it."""
    space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(seed):
        place = np.random.default_rng(seed).uniform(-1, 1, 2).astype(np.float32)
        return STATES[kind](place), place

    def transition(state, action):
        return STATES[kind](0.5 * action), 0.5 * action, float(action.sum())

    env = WorldModelEnv(None, space, PUSH, reset_fn=reset, transition_fn=transition, torch_actions=False)
    check_env(env, skip_render_check=True)
    pytest.importorskip("stable_baselines3.common.env_checker").check_env(env)


def test_many_of_them_in_gymnasiums_vector_env():
    def one(start):
        counter = Counter(start)
        return lambda: WorldModelEnv(
            None, PLANE, PUSH, transition_fn=count, initial_state=counter, initial_observation=counter.seen()
        )

    envs = gym.vector.SyncVectorEnv([one(start) for start in range(3)])
    envs.reset(seed=0)
    for steps in (1, 2):
        observation, reward, *_, infos = envs.step(np.zeros((3, 2), np.float32))
        assert observation.tolist() == [[0, steps], [1, steps], [2, steps]]
        assert reward.tolist() == [steps] * 3
        assert infos["elapsed_steps"].tolist() == [steps] * 3
        assert [state.began for state in infos["model_state"]] == [0, 1, 2]
