"""Resets of the vector environment: seeds, masks and indices."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.envs.rollouts import MODES, start
from wm_vec.core import spawn_seeds

NEXT = AutoresetMode.NEXT_STEP


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        {"reset_mask": np.array([False, True, False, True])},
        {"reset_mask": torch.tensor([False, True, False, True])},
        {"env_idx": [1, 3]},
        {"env_idx": torch.tensor([3, 1])},
        {"env_idx": np.array([1, 3, 3])},
        {"env_idx": np.array([1, 3], np.uint8)},
        {"env_idx": torch.tensor([False, True, False, True])},
        {"env_idx": np.array([False, True, False, True])},
        {"env_idx": [False, True, False, True]},
    ],
    ids=str,
)
def test_partial_resets_however_the_envs_are_named(cartpole, mode, options):
    env = start(cartpole, mode=mode, horizon=None)
    before = env.step(torch.ones(4, dtype=torch.int64))[0]
    copies = copy.deepcopy(options)
    after, _ = env.reset(options=options)
    assert options.keys() == copies.keys()
    for key, value in options.items():
        np.testing.assert_array_equal(value, copies[key])
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[[1, 3]] != before[[1, 3]]).any(1).all()
    assert env.state().elapsed.tolist() == [1, 0, 1, 0]
    assert env.state().episode.tolist() == [0, 1, 0, 1]
    info = env.step(torch.ones(4, dtype=torch.int64))[-1]
    assert info["episode"]["l"].tolist() == [2, 1, 2, 1]


def test_a_masked_reset_takes_a_pending_reset_away(cartpole):
    """In NEXT_STEP mode, an env that was reset by hand after its end steps at once."""
    env = start(cartpole, mode=NEXT, horizon=2)
    actions = torch.ones(4, dtype=torch.int64)
    env.step(actions)
    assert env.step(actions)[3].all()
    env.reset(options={"reset_mask": np.array([True, False, True, False])})
    info = env.step(actions)[-1]
    assert info["episode"]["l"][[0, 2]].tolist() == [1, 1]
    assert env.state().elapsed.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"reset_mask": mask}, r"reset_mask'\] must be bool of shape \(4,\)")
            for mask in (np.ones(3, bool), np.ones(4), [1, 0, 0, 1], torch.ones(4, 1).bool(), True, None)
        ),
        *(
            ({"env_idx": envs}, r"env_idx'\] must be whole numbers that lie in \[0, 4\), or bool of shape \(4,\)")
            for envs in ([4], [-1], 2**70, np.array([0.0, 2.0]), [0.5], 1j, [True] * 3, True, None, "all", [[1], []])
        ),
        ({"env_idx": [1], "reset_mask": np.ones(4, bool)}, "not both"),
        ({"mask": None}, "unknown options"),
    ],
)
def test_bad_reset_options_are_refused_and_nothing_is_lost(cartpole, options, message):
    env = start(cartpole)
    before = env.state()
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    assert torch.equal(env.state().dynamics["values"], before.dynamics["values"])


def test_seeds(cartpole):
    """An int counts up, a list gives one each, and None in a list lets an env go on to its next episode."""
    env = start(cartpole, seed=10)
    first, _ = env.reset(seed=10)
    listed, _ = env.reset(seed=[13, 12, 11, 10])
    assert torch.equal(first, listed.flip(0))
    second, _ = env.reset()
    mixed, _ = start(cartpole, seed=[13, 12, 11, 10]).reset(seed=[None, 7, None, 10])
    assert torch.equal(mixed[[0, 2]], second[[0, 2]])
    assert torch.equal(mixed[3], listed[3])
    assert torch.equal(env.reset(seed=spawn_seeds(0, 4))[0], env.reset(seed=spawn_seeds(0, 4))[0])


def test_none_in_the_first_seeds_is_entropy(cartpole):
    def first_seeds():
        env = cartpole.to_vector_env(3)
        env.reset(seed=[None, 5, None])
        return env.state().seed.tolist()

    one, other = first_seeds(), first_seeds()
    assert one[1] == other[1] == 5
    assert len({one[0], one[2], other[0], other[2]}) == 4


def test_the_first_reset_without_a_seed_is_entropy_and_the_constructors_seed_is_used(cartpole):
    one, other = (cartpole.to_vector_env(2).reset()[0] for _ in range(2))
    assert not torch.equal(one, other)
    one, other = (cartpole.to_vector_env(2, seed=3).reset()[0] for _ in range(2))
    assert torch.equal(one, other)
