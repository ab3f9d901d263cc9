"""The checker passes what is right, ours and Gymnasium's, and finds every planted fault."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from tensordict import TensorDict

from tests.envs import faulty
from wm_vec.core import ActionSpec, Dynamics, Engine, EngineConfig, Perspective, Transition
from wm_vec.envs import CheckError, WorldModelVectorEnv, check_vector_env
from wm_vec.envs.checker import CHECKS

STEPS = 24
HORIZON = 9
SAME, NEXT, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
MODES = [SAME, NEXT, DISABLED]


def make(world, num_envs=4, mode=SAME, kind=WorldModelVectorEnv):
    env = world.to_vector_env(num_envs, max_episode_steps=HORIZON, n_denoise_steps=1, autoreset_mode=mode)
    return kind(env.engine, env.single_observation_space, env.single_action_space)


def sync(env_id, num_envs=4, mode=SAME, **kwargs):
    return SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * num_envs, autoreset_mode=mode)


def found(env, **kwargs) -> set[str]:
    """The checks that find something."""
    with pytest.raises(CheckError) as error:
        check_vector_env(env, num_steps=STEPS, **kwargs)
    assert error.value.failures
    for failure in error.value.failures:
        assert failure.expected in str(error.value)
        assert failure.seen in str(error.value)
        assert failure.advice in str(error.value)
    return {failure.check for failure in error.value.failures}


# -- what is right ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_our_cartpole_passes_every_check(cartpole, mode):
    report = check_vector_env(make(cartpole, mode=mode), num_steps=STEPS, make_env=lambda n: make(cartpole, n, mode))
    skipped = [] if mode is SAME else ["final_obs"]
    assert sorted(report.skipped) == skipped
    assert sorted(report.passed) == sorted(set(CHECKS) - set(skipped))


def test_our_pendulum_passes(pendulum):
    assert not check_vector_env(make(pendulum), num_steps=STEPS).failures


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_own_vector_env_passes(mode):
    report = check_vector_env(
        sync("CartPole-v1", mode=mode), num_steps=64, make_env=lambda n: sync("CartPole-v1", n, mode)
    )
    assert set(report.skipped) <= {"statistics", "final_obs"}


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1"])
@pytest.mark.parametrize("mode", MODES)
def test_discrete_and_tuple_observations_and_constant_starts_pass(env_id, mode):
    assert not check_vector_env(sync(env_id, mode=mode), num_steps=64).failures


def test_statistics_of_gymnasiums_wrapper_agree_but_for_masked_resets():
    """In Gymnasium 1.4 SyncVectorEnv takes the mask out of the options before the wrapper reads it."""
    with pytest.raises(CheckError) as error:
        check_vector_env(RecordEpisodeStatistics(sync("CartPole-v1", mode=SAME)), num_steps=64)
    failures = error.value.failures
    assert [(f.check, "with masked resets" in f.what) for f in failures] == [("statistics", True)]


def test_one_env_passes_and_says_what_was_not_checked(cartpole):
    report = check_vector_env(make(cartpole, 1), num_steps=STEPS)
    assert {"row_independence", "partial_reset", "batch_size"} <= set(report.skipped)


def test_a_rollout_without_ends_says_that_modes_were_not_seen():
    report = check_vector_env(sync("Pendulum-v1", mode=SAME), num_steps=16)
    assert {"mode", "final_obs", "masks", "statistics"} <= set(report.skipped)
    assert "16 steps" in report.skipped["mode"]


class TorchsOwnNoise(Dynamics):
    """A foreign model: a random walk with torch's own generator."""

    rng = "global"
    device = torch.device("cpu")
    dtype = torch.float32

    def initial_state(self, rng, num_envs):
        return TensorDict({"x": torch.randn(num_envs, 2)}, batch_size=[num_envs])

    def observe(self, state):
        return state["x"]

    def step(self, state, action, rng):
        x = state["x"] + action + torch.randn_like(state["x"])
        return Transition(TensorDict({"x": x}, batch_size=state.batch_size), x, reward=x.sum(1))


def test_a_model_on_torchs_generator_is_checked_as_a_whole_batch():
    engine = Engine(
        TorchsOwnNoise(),
        4,
        [Perspective(ActionSpec("box", (2,), (-1.0, -1.0), (1.0, 1.0)))],
        EngineConfig(HORIZON),
    )
    space = gym.spaces.Box(-np.inf, np.inf, (2,))
    env = WorldModelVectorEnv(engine, space, gym.spaces.Box(-1, 1, (2,)))
    report = check_vector_env(env, num_steps=STEPS, make_env=lambda n: env)
    skipped = {"row_independence", "partial_reset", "batch_size", "seeding, env by env"}
    assert set(report.skipped) == skipped
    assert all("torch's own generator" in why for why in report.skipped.values())
    assert "seeding" in report.passed


# -- what is wrong ------------------------------------------------------------------------------


FAULTS = [
    (faulty.ReusedBuffer, {"aliasing"}),
    (faulty.WritesAction, {"aliasing"}),
    (faulty.ViewOfState, {"in_place"}),
    (faulty.KeepsAction, {"in_place"}),
    (faulty.FinalIsReset, {"final_obs"}),
    (faulty.FinalIsStale, {"final_obs"}),
    (faulty.FinalIsZero, {"final_obs"}),
    (faulty.NoFinal, {"mode"}),
    (faulty.InvertedMask, {"masks"}),
    (faulty.TerminationsAlone, {"masks"}),
    (faulty.LastRewardLost, {"statistics"}),
    (faulty.LengthOneOff, {"statistics"}),
    (faulty.FloatFlags, {"structure"}),
    (faulty.RewardColumn, {"structure"}),
    (faulty.DoubleObservations, {"structure"}),
    (faulty.OutOfBounds, {"structure"}),
    (faulty.KeepsGraph, {"structure"}),
    (faulty.SeedIgnored, {"seeding"}),
    (faulty.SeedFromClock, {"seeding"}),
    (faulty.OneSeedForAll, {"seeding"}),
    (faulty.EpisodeAgain, {"seeding"}),
    # An env that hears its neighbours also hears their seeds and resets.
    (faulty.ActsTogether, {"row_independence", "seeding"}),
    (faulty.BatchMean, {"row_independence", "seeding", "partial_reset"}),
    (faulty.ResetsAll, {"partial_reset"}),
    (faulty.ResetsNone, {"partial_reset"}),
    (faulty.StepsUnreset, {"step_before_reset"}),
    (faulty.KeepsTensors, {"memory"}),
]
FIRST = {min(checks): kind for kind, checks in reversed(FAULTS)}
"""One fault for every check; the others are planted in the long tests."""


@pytest.mark.parametrize(
    ("kind", "checks"),
    [pytest.param(*f, marks=[] if f[0] in FIRST.values() else pytest.mark.long) for f in FAULTS],
)
def test_a_planted_fault_is_found_by_the_right_check(cartpole, kind, checks):
    assert found(make(cartpole, kind=kind)) == checks


@pytest.mark.parametrize(
    ("declared", "real"), [(declared, real) for declared in MODES for real in MODES if declared is not real]
)
def test_a_wrong_declared_mode_is_found(cartpole, declared, real):
    env = make(cartpole, mode=real, kind=faulty.declaring(declared))
    assert "mode" in found(env)


def test_attribute_and_metadata_must_agree(cartpole):
    env = make(cartpole, mode=SAME)
    env.metadata["autoreset_mode"] = NEXT
    assert found(env) == {"declaration"}


def test_a_mode_must_be_declared(cartpole):
    env = make(cartpole)
    env.metadata = {}
    assert found(env) == {"declaration"}


@pytest.mark.parametrize(("kind", "check"), [(faulty.ResetsAll, "partial_reset"), (faulty.ResetsNone, "partial_reset")])
def test_masked_resets_are_checked_under_disabled(cartpole, kind, check):
    assert check in found(make(cartpole, mode=DISABLED, kind=kind))


def test_seeds_that_depend_on_the_batch_are_found_with_make_env(cartpole):
    env = make(cartpole, kind=faulty.SeedOfBatch)
    assert not check_vector_env(env, num_steps=STEPS).failures
    assert found(
        make(cartpole, kind=faulty.SeedOfBatch), make_env=lambda n: make(cartpole, n, kind=faulty.SeedOfBatch)
    ) == {"batch_size"}


def test_a_leak_of_arrays_is_found():
    assert found(faulty.KeepsArrays(sync("CartPole-v1"))) == {"memory"}


def test_too_few_steps_are_refused(cartpole):
    with pytest.raises(ValueError, match="num_steps must be a whole number of at least 8"):
        check_vector_env(make(cartpole), num_steps=7)


def test_an_environment_of_ours_that_is_running_is_checked_for_all_else(cartpole):
    env = make(cartpole, 2)
    env.reset(seed=0)
    report = check_vector_env(env, num_steps=8)
    assert report.skipped["step_before_reset"] == "the environment was reset before; hand in a fresh one, or make_env"
