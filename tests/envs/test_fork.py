"""States in and out: restored and forked environments."""

from __future__ import annotations

import pytest
import torch

from tests.envs.rollouts import MODES, assert_equal, random_actions, roll, start


@pytest.mark.parametrize("mode", MODES)
def test_restored_states_continue_bit_equal(cartpole, mode):
    env = start(cartpole, mode=mode)
    actions = random_actions(env, 50)
    roll(env, actions[:15])
    state = env.state()
    first = roll(env, actions[15:])
    env.set_state(state)
    assert_equal(first, roll(env, actions[15:]))
    # Also in another environment, and after others have written into the state that was handed in.
    other = start(cartpole, seed=99, mode=mode)
    mine = state.clone()
    other.set_state(mine)
    mine.dynamics["values"].fill_(7)
    mine.elapsed.fill_(7)
    assert_equal(first, roll(other, actions[15:]))


@pytest.mark.parametrize("mode", MODES)
def test_forks_that_share_the_noise_are_the_same_futures(cartpole, mode):
    env = start(cartpole, mode=mode, exact_rows=True)
    actions = random_actions(env, 40)
    roll(env, actions[:14])
    fork = env.fork([2, 0, 2, 3, 1], rng="same")
    index = [2, 0, 2, 3, 1]
    theirs = roll(fork, actions[14:, index])
    assert_equal(roll(env, actions[14:]), theirs, index)


def test_fresh_forks_start_equal_and_part(pendulum):
    env, undisturbed = start(pendulum), start(pendulum)
    actions = random_actions(env, 20)
    roll(env, actions[:5])
    roll(undisturbed, actions[:5])
    forks = [env.fork([1, 1, 3]) for _ in range(2)]
    assert torch.equal(forks[0].state().dynamics["values"], env.state().dynamics["values"][[1, 1, 3]])
    ends = [roll(fork, actions[5:10, [1, 1, 3]])["observation"][-1] for fork in forks]
    futures = torch.cat([ends[0][:2], ends[1][:2]])
    assert len({tuple(row.tolist()) for row in futures}) == 4
    assert_equal(roll(env, actions[5:]), roll(undisturbed, actions[5:]))


def test_states_and_forks_that_do_not_fit_are_refused(cartpole, pendulum):
    env = start(cartpole)
    with pytest.raises(ValueError, match="4 envs"):
        env.set_state(start(cartpole, 3).state())
    with pytest.raises(ValueError, match="another world"):
        env.set_state(start(pendulum).state())
    with pytest.raises(ValueError, match="'fresh' or 'same'"):
        env.fork([0], rng="other")
    with pytest.raises(ValueError, match="non-empty"):
        env.fork([])
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        cartpole.to_vector_env(2).state()


def test_a_state_handed_out_is_a_copy(cartpole):
    env, other = start(cartpole), start(cartpole)
    state = env.state()
    state.dynamics["values"].fill_(9)
    state.elapsed.fill_(9)
    state.returns.fill_(9)
    actions = random_actions(env, 20)
    assert_equal(roll(env, actions), roll(other, actions))
