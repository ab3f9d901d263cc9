"""How envs are divided among workers, and how they take new worlds: all in one process."""

from __future__ import annotations

import os
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs import SerialEnv, TransformedEnv
from torchrl.envs.transforms import RewardSum

from tests.scale.worlds import (
    HORIZON,
    NUM_ENVS,
    ROOT_SEED,
    Switch,
    changed,
    continues,
    goes_on,
    lean,
    one_env,
    same,
    shares,
)
from wm_vec import WorldModel
from wm_vec.envs import TorchRLEnv
from wm_vec.train import CheckpointError
from wm_vec.workers import RandomActions, WorkerEnvs

STEPS = 2 * HORIZON + 2


def collected(makers, policy, num_batches=2):
    """What direct collectors over each maker's envs collect, all envs' trajectories ``(N, T)``."""
    parts = []
    for maker in makers:
        collector = Collector(maker, policy, frames_per_batch=maker.num_envs * STEPS)
        batches = iter(collector)
        parts.append(torch.cat([next(batches).exclude("collector") for _ in range(num_batches)], 1))
        collector.shutdown()
    return torch.cat(parts)


# -- seeds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_workers", "numbers", "seeds"),
    [
        (1, [6], [100]),
        (2, [3, 3], [100, 103]),
        (4, [2, 2, 1, 1], [100, 102, 104, 105]),
        (6, [1] * 6, [100, 101, 102, 103, 104, 105]),
    ],
)
def test_envs_are_shared_out_with_the_seeds_that_they_have_anyway(cartpole, num_workers, numbers, seeds):
    workers = shares(cartpole, num_workers)
    assert [maker.num_envs for maker in workers.makers] == numbers
    assert [maker.seed for maker in workers.makers] == seeds
    again = [workers.maker(worker, generation=2) for worker in range(num_workers)]
    assert [maker.num_envs for maker in again] == numbers
    assert [maker.seed for maker in again] == [seed + 12 for seed in seeds]


@pytest.mark.parametrize("act", [None, lean], ids=["random", "lean"])
def test_any_number_of_workers_gives_the_same_trajectories(cartpole, act):
    expected = one_env(cartpole).rollout(2 * STEPS, act, break_when_any_done=False)
    assert expected["next", "done"].sum() > 3 * NUM_ENVS
    for num_workers in (1, 2, 4):
        assert same(collected(shares(cartpole, num_workers).makers, act or RandomActions()), expected)


def test_without_exact_rows_they_differ_by_rounding_alone(pendulum):
    expected = one_env(pendulum, exact_rows=False).rollout(2 * STEPS, break_when_any_done=False)
    got = collected(shares(pendulum, 4, exact_rows=False).makers, RandomActions())
    assert torch.equal(got["action"], expected["action"]), "actions come from counters alone"
    torch.testing.assert_close(got["observation"], expected["observation"], rtol=1e-4, atol=1e-4)


def test_a_seed_that_was_not_given_is_one_root_for_all(cartpole):
    workers, others = (shares(cartpole, 2, seed=None) for _ in range(2))
    assert [maker.seed - workers.seed for maker in workers.makers] == [0, 3]
    assert workers.seed != others.seed


def test_envs_that_are_seeded_one_after_another_have_the_seeds_of_one(cartpole):
    uneven = shares(cartpole, 4)
    parts = [maker() for maker in uneven.makers]
    seed = 50
    for part in parts:
        seed = part.set_seed(seed)
    assert seed == 50 + NUM_ENVS
    got = torch.cat([part.rollout(STEPS, break_when_any_done=False) for part in parts])
    assert same(got, one_env(cartpole, seed=50).rollout(STEPS, break_when_any_done=False))
    assert parts[0].set_seed(9, static_seed=True) == 9
    assert parts[0].set_seed(None) is None


# -- makers -------------------------------------------------------------------------------------------------------


def test_makers_pickle_with_what_plain_pickles_refuse(cartpole):
    options = {"obs_fields": ["observation"], "act_fields": ["action"], "reward_fn": lambda obs, act, info: 2.5}
    workers = shares(cartpole, 2, **options, wrap=lambda env: TransformedEnv(env, RewardSum()))
    env = pickle.loads(pickle.dumps(workers.makers[1]))()
    rollout = env.rollout(4, break_when_any_done=False)
    assert rollout["next", "reward"].unique().tolist() == [2.5]
    assert rollout["next", "episode_reward"][0, :, 0].tolist() == [2.5, 5.0, 7.5, 10.0]


def test_a_world_can_lie_in_a_file_that_every_worker_loads(cartpole, tmp_path):
    cartpole.save(tmp_path / "world")
    workers = shares(tmp_path / "world", 2)
    assert len(pickle.dumps(workers.makers[0])) < 10_000 < os.path.getsize(tmp_path / "world")
    expected = one_env(cartpole).rollout(STEPS, lean, break_when_any_done=False)
    got = torch.cat([maker().rollout(STEPS, lean, break_when_any_done=False) for maker in workers.makers])
    assert same(got, expected)


def test_worlds_keep_their_precision(pendulum):
    world = WorldModel.bundled("Pendulum-v1", dtype=torch.float64)
    env = shares(world, 2, device=["cpu", torch.device("cpu")]).makers[1]()
    assert env.world.model.codec.mean.dtype == torch.float64
    assert torch.equal(env.reset()["observation"], one_env(world).reset()["observation"][3:])


def fall(state, action):
    """A body falls; an episode ends when it has landed."""
    after = state - 0.1 - 0.05 * torch.rand(1, generator=torch.Generator().manual_seed(1)) + 0.02 * action
    return {"state": after, "observation": after, "reward": -after[:, 0], "terminated": after[:, 0] < -0.6}


def falling(num_envs, seed):
    """Envs of a model that is no world of wm_vec."""
    from wm_vec.adapters import CallableDynamics

    spaces = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32), gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    starts = torch.linspace(0.0, 0.5, 30)[:, None]
    dynamics = CallableDynamics(fall, *spaces, initial_state=starts, initial_observation=starts)
    return TorchRLEnv.from_dynamics(dynamics, *spaces, num_envs=num_envs, seed=seed, max_episode_steps=HORIZON)


def test_envs_of_other_models_are_shared_out_by_a_function():
    expected = falling(NUM_ENVS, ROOT_SEED).rollout(2 * STEPS, break_when_any_done=False)
    workers = WorkerEnvs(falling, NUM_ENVS, 4, seed=ROOT_SEED)
    assert same(collected(pickle.loads(pickle.dumps(workers.makers)), RandomActions()), expected)
    with pytest.raises(TypeError, match="made by a function"):
        workers.update_world_()


# -- worlds that change -------------------------------------------------------------------------------------------


def test_a_direct_collector_steps_with_the_weights_that_were_sent(cartpole, tmp_path):
    cartpole.save(tmp_path / "mine")
    mine = WorldModel.load(tmp_path / "mine")
    workers = shares(mine, 1, expose_state=True, wrap=lambda env: TransformedEnv(env, RewardSum()))
    policy = Switch()
    collector = Collector(workers.makers[0], policy, frames_per_batch=NUM_ENVS * STEPS)
    batches = iter(collector)
    first = next(batches)
    assert goes_on(first, cartpole)
    new = changed(cartpole, tmp_path / "new")
    policy.set(1.0)
    collector.update_policy_weights_()
    workers.update_world_(new)
    second = next(batches)
    assert bool((second["action"] == 1).all())
    assert continues(second, first)
    assert goes_on(second, new)
    assert not goes_on(second, cartpole)
    workers.update_world_()  # the world that they were made with
    assert goes_on(next(batches), mine)
    new.save(tmp_path / "new")
    mine.load_weights(tmp_path / "new")
    assert goes_on(next(batches), cartpole), "workers keep their copy until a new one is sent"
    workers.update_world_()
    assert goes_on(next(batches), new)
    workers.update_world_(tmp_path / "mine")
    assert goes_on(next(batches), cartpole)
    collector.cascade_execute("env.load_world", workers.checkpoint(new))  # as it reaches Ray's workers
    assert goes_on(next(batches), new)
    collector.shutdown()


def test_a_step_in_mid_episode_takes_the_new_weights_and_a_reset_the_new_starts(cartpole, tmp_path):
    workers = shares(cartpole, 1, expose_state=True)
    env, plain = workers.makers[0](), one_env(cartpole, expose_state=True)
    td = env.rand_step(env.reset())["next"]
    new = changed(cartpole, tmp_path / "new")
    workers.update_world_(new)
    fresh = one_env(new, expose_state=True)
    fresh.reset(td.clone(), set_state=True)
    action = td.clone().set("action", torch.zeros(NUM_ENVS, dtype=torch.int64))
    after = env.step(action.clone())["next", "observation"]
    assert torch.equal(after, fresh.step(action.clone())["next", "observation"])
    plain.reset(td.clone(), set_state=True)
    assert not torch.equal(after, plain.step(action.clone())["next", "observation"])
    env.set_seed(4)
    assert torch.equal(env.reset()["observation"], one_env(new, seed=4).reset()["observation"])


def test_a_step_with_its_resets_takes_the_new_weights_too(cartpole, tmp_path):
    """Without the state in the TensorDict, step and resets are one call, which does not go through `_step`."""
    workers = shares(cartpole, 1)
    env, plain = workers.makers[0](), one_env(cartpole)
    new = changed(cartpole, tmp_path / "new")
    fresh = one_env(new)
    push = torch.zeros(NUM_ENVS, dtype=torch.int64)
    _, td = env.step_and_maybe_reset(env.reset().set("action", push))
    for other in (plain, fresh):
        other.reset()
        other.engine.set_state(env.engine.state())
    workers.update_world_(new)
    after, _ = env.step_and_maybe_reset(td.clone().set("action", push))
    expected, old = (other.step(td.clone().set("action", push)) for other in (fresh, plain))
    assert torch.equal(after["next", "observation"], expected["next", "observation"])
    assert not torch.equal(after["next", "observation"], old["next", "observation"])


def test_two_changes_within_one_tick_of_the_clock_are_two(cartpole, tmp_path):
    """Clocks of file systems are coarse, some of whole seconds, and files of the same world are of the same size."""
    workers = shares(cartpole, 1)
    env = workers.makers[0]()
    other = changed(cartpole, tmp_path / "other")
    seen, times = [], []
    for world in (cartpole, other) * 5:
        workers.update_world_(world)
        times.append(int(os.stat(env._follow).st_mtime))
        env.reset()
        seen.append(torch.equal(env.world.model.codec.step_mean, world.model.codec.step_mean))
    assert all(seen)
    assert len({*times}) == len(times)


def test_the_folder_is_removed_with_its_owner(cartpole):
    workers = shares(cartpole, 1)
    env = workers.makers[0]()
    workers.update_world_()
    folder = os.path.dirname(env._follow)
    assert os.listdir(folder) == ["world.safetensors"]
    env.reset()
    del workers
    assert not os.path.exists(folder)
    env.rollout(3)


def test_bytes_of_a_world_are_taken_whole_or_not_at_all(cartpole, pendulum, tmp_path):
    workers = shares(cartpole, 1)
    env = workers.makers[0]()
    before = {name: tensor.clone() for name, tensor in env.world.model.state_dict().items()}
    pendulum.save(tmp_path / "other")
    for wrong in ((tmp_path / "other").read_bytes(), workers.checkpoint()[:5000]):
        with pytest.raises(CheckpointError):
            env.load_world(wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in env.world.model.state_dict().items())
    new = changed(cartpole, tmp_path / "new")
    env.load_world(workers.checkpoint(new))
    env.set_seed(3)
    assert same(
        env.rollout(STEPS, lean, break_when_any_done=False),
        one_env(new, seed=3).rollout(STEPS, lean, break_when_any_done=False),
    )


# -- bad input ----------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(cartpole, pendulum, tmp_path):
    with pytest.raises(ValueError, match="3 workers need at least as many envs, got 2"):
        WorkerEnvs(cartpole, 2, 3)
    with pytest.raises(ValueError, match=r"WorkerEnvs: num_workers must be a whole number of at least 1, got 1\.5"):
        WorkerEnvs(cartpole, 2, 1.5)
    with pytest.raises(ValueError, match="one device or one each"):
        WorkerEnvs(cartpole, 4, 2, device=["cpu"])
    with pytest.raises(TypeError, match="max_episode_stepz"):
        WorkerEnvs(cartpole, 4, 2, max_episode_stepz=3)
    with pytest.raises(FileNotFoundError):
        WorkerEnvs(tmp_path / "nowhere", 4, 2)
    with pytest.raises(TypeError, match="takes no one_hot"):
        WorkerEnvs(falling, 4, 2, one_hot=True)
    with pytest.raises(TypeError, match="takes no device"):
        WorkerEnvs(falling, 4, 2, device="cpu")
    with pytest.raises(ValueError, match="seed"):
        WorkerEnvs(cartpole, 4, 2, seed=-1)
    workers = shares(cartpole, 2)
    with pytest.raises(ValueError, match="another schema or network"):
        workers.update_world_(pendulum)
    cartpole.save(tmp_path / "world")
    with pytest.raises(TypeError, match="give the new one"):
        shares(tmp_path / "world", 2).update_world_()


def test_random_actions_are_for_collectors_over_our_envs(cartpole):
    with pytest.raises(RuntimeError, match="is for collectors"):
        one_env(cartpole).rollout(2, RandomActions())
    batched = SerialEnv(2, shares(cartpole, 2).makers)
    with pytest.raises(TypeError, match="over a TorchRLEnv, got one over SerialEnv"):
        Collector(batched, RandomActions(), frames_per_batch=6)
