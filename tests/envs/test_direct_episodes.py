"""The scalar env that calls a Python model directly: seeds, starts, episodes, and upstream's checkers."""

from __future__ import annotations

import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

import wm_vec
from tests.envs.direct_models import ACTION, PLANE, PUSH, ZEROS, Counter, count, spy, started
from wm_vec import AdapterError
from wm_vec.envs import WorldModelEnv

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
