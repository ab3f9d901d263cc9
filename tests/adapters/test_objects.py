"""States that are Python objects, under "loop": some of them written into by their own transition."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from wm_vec.envs import WorldModelEnv, WorldModelVectorEnv

PLANE = Box(-1e4, 1e4, (2,), np.float32)
PUSH = Box(-1.0, 1.0, (1,), np.float32)


class Counter:
    """A state of one's own: where it began, and a list of what was done to it."""

    def __init__(self, began: int) -> None:
        self.began, self.done = began, []

    def seen(self) -> np.ndarray:
        return np.array([self.began, len(self.done)], np.float32)


def reset(seed):
    counter = Counter(seed % 1000)
    return counter, counter.seen()


def in_place(state, action):
    """The same object comes back, changed."""
    state.done.append(float(action))
    return state, state.seen(), sum(state.done)


def anew(state, action):
    """Another object comes back; the old one stays as it was."""
    after = Counter(state.began)
    after.done = [*state.done, float(action)]
    return after, after.seen(), sum(after.done)


transitions = pytest.mark.parametrize("transition", [in_place, anew])


def vector_env(transition, num_envs=6, **options):
    options.setdefault("bank_size", 3)
    return WorldModelVectorEnv.from_callables(
        None, PLANE, PUSH, num_envs=num_envs, batching="loop", reset_fn=reset, transition_fn=transition, **options
    )


def pushes(steps, num_envs=6):
    return torch.rand(steps, num_envs, 1, generator=torch.Generator().manual_seed(4))


def run(env, actions):
    """Observations and rewards of each step."""
    return [[part.clone() for part in env.step(action)[:2]] for action in actions]


def equal(a, b):
    return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


@transitions
@pytest.mark.parametrize("autoreset_mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("exact_rows", [False, True])
def test_episodes_drawn_from_one_bank_do_not_leak_into_each_other(transition, autoreset_mode, exact_rows):
    """More envs than starts, many episodes: every one begins with nothing done, and sums its own actions alone."""
    env = vector_env(transition, max_episode_steps=4, autoreset_mode=autoreset_mode, exact_rows=exact_rows)
    observation, _ = env.reset(seed=0)
    assert observation[:, 1].tolist() == [0] * 6
    assert observation[:, 0].unique().numel() <= 3
    began, sums, length = observation[:, 0], torch.zeros(6, dtype=torch.float64), 0
    episodes = 0
    for action in pushes(30):
        if autoreset_mode == "disabled" and length == 4:
            observation, _ = env.reset(options={"reset_mask": torch.ones(6, dtype=torch.bool)})
            began, sums, length = observation[:, 0], torch.zeros(6, dtype=torch.float64), 0
            assert observation[:, 1].tolist() == [0] * 6
            episodes += 1
        observation, reward, _, truncated, info = env.step(action)
        if autoreset_mode == "next_step" and length == 4:
            began, sums, length = observation[:, 0], torch.zeros(6, dtype=torch.float64), 0
            assert observation[:, 1].tolist() == [0] * 6
            episodes += 1
            continue
        length += 1
        sums += action[:, 0].double()
        torch.testing.assert_close(reward, sums)
        assert truncated.all() == (length == 4)
        last = info["final_obs"] if autoreset_mode == "same_step" else observation
        assert last[:, 1].tolist() == [length] * 6
        assert torch.equal(last[:, 0], began)
        if autoreset_mode == "same_step" and length == 4:
            began, sums, length = observation[:, 0], torch.zeros(6, dtype=torch.float64), 0
            assert observation[:, 1].tolist() == [0] * 6
            episodes += 1
    assert episodes >= 6


@transitions
def test_states_are_restored_and_pickled(transition):
    env = vector_env(transition, max_episode_steps=5)
    env.reset(seed=0)
    actions = pushes(12)
    run(env, actions[:3])
    # Not the same one, since pickling reads every object.
    saved, written = env.state(), pickle.dumps(env.state())
    onwards = run(env, actions[3:])
    for state in (saved, pickle.loads(written), saved):
        env.set_state(state)
        assert equal(run(env, actions[3:]), onwards)


@transitions
def test_a_whole_env_is_pickled(transition):
    env = vector_env(transition, max_episode_steps=5)
    env.reset(seed=0)
    actions = pushes(12)
    run(env, actions[:3])
    other = pickle.loads(pickle.dumps(env))
    assert equal(run(env, actions[3:]), run(other, actions[3:]))


@pytest.mark.parametrize(
    ("transition", "parent_first"),
    [(in_place, True), (in_place, False), (anew, True), (anew, False)],
)
def test_forks_and_their_parent_do_not_touch_each_other(transition, parent_first):
    """Env 1, forked twice: each goes on from what was done before the fork, whoever steps first."""
    env = vector_env(transition)
    env.reset(seed=0)
    actions = pushes(5)
    before = run(env, actions[:2])[-1][1][1]
    fork = env.fork([1, 1, 4], rng="same")
    ones, halves = torch.ones(6, 1), torch.full((3, 1), 0.5)
    steps = [lambda: env.step(ones)[1][1], lambda: fork.step(halves)[1][:2]]
    results = [step() for step in steps] if parent_first else [step() for step in steps[::-1]][::-1]
    torch.testing.assert_close(results[0], before + 1)
    torch.testing.assert_close(results[1], torch.stack([before + 0.5] * 2))


@transitions
def test_imagination_of_objects(transition):
    env = vector_env(transition)
    env.reset(seed=0)
    imagined = env.imagine(lambda observation: torch.ones(6, 1), 4)
    assert imagined["next", "observation"][..., 1].tolist() == [[1, 2, 3, 4]] * 6
    assert imagined["next", "reward"][..., 0].tolist() == [[1, 2, 3, 4]] * 6


@transitions
def test_model_states_are_the_objects(transition):
    env = vector_env(transition)
    env.reset(seed=0)
    action = pushes(1)[0]
    *_, info = env.step(action)
    states = info["model_state"]
    assert [type(state) for state in states] == [Counter] * 6
    np.testing.assert_allclose([state.done[0] for state in states], action[:, 0])
    scalar = WorldModelEnv(None, PLANE, PUSH, reset_fn=reset, transition_fn=transition)
    assert scalar.state is None
    scalar.reset(seed=17)
    assert scalar.state.began == 17
    *_, info = scalar.step(np.ones(1, np.float32))
    assert scalar.state.done == info["model_state"].done == [1.0]


def test_one_simulator_for_all_resets_is_copied_for_each():
    """Its reset begins anew in place and returns the very same object every time."""
    simulator = Counter(0)

    def restart(seed):
        simulator.began, simulator.done = seed % 1000, []
        return simulator, simulator.seen()

    env = WorldModelVectorEnv.from_callables(
        None,
        PLANE,
        PUSH,
        num_envs=32,
        batching="loop",
        bank_size=8,
        reset_fn=restart,
        transition_fn=in_place,
    )
    first, _ = env.reset(seed=0)
    observation, *_ = env.step(torch.zeros(32, 1))
    assert torch.equal(observation[:, 0], first[:, 0])
    assert first[:, 0].unique().numel() > 4
    assert observation[:, 1].tolist() == [1] * 32


def test_objects_that_cannot_be_copied():
    """They run in the scalar env, which never copies; a bank says what the matter is."""

    def guarded(seed):
        counter = Counter(seed % 1000)
        counter.lock = threading.Lock()
        return counter, counter.seen()

    env = WorldModelEnv(None, PLANE, PUSH, reset_fn=guarded, transition_fn=in_place, max_episode_steps=3)
    for seed in (5, 6):
        observation, _ = env.reset(seed=seed)
        for _ in range(3):
            observation, *_ = env.step(np.ones(1, np.float32))
        assert observation.tolist() == [seed, 3]
    with pytest.raises(TypeError, match="lock") as caught:
        WorldModelVectorEnv.from_callables(
            None, PLANE, PUSH, num_envs=2, batching="loop", reset_fn=guarded, transition_fn=in_place
        ).reset(seed=0)
    assert any("cannot be copied" in note and "bank" in note for note in caught.value.__notes__)


def test_a_given_object_starts_every_episode():
    """What was handed in stays as it was."""
    given = Counter(3)
    arguments = {"initial_state": given, "initial_observation": given.seen(), "transition_fn": in_place}
    scalar = WorldModelEnv(None, PLANE, PUSH, **arguments)
    vector = WorldModelVectorEnv.from_callables(None, PLANE, PUSH, num_envs=3, batching="loop", **arguments)
    for _ in range(2):
        scalar.reset(seed=0)
        vector.reset(seed=0)
        for n in (1, 2):
            assert scalar.step(np.ones(1, np.float32))[0].tolist() == [3, n]
            assert vector.step(torch.ones(3, 1))[0].tolist() == [[3, n]] * 3
    assert given.done == []
