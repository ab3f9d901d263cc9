"""Worlds learn from what TorchRL's collectors and replay buffers hold, as they hold it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ListStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, GymEnv, InitTracker, PendulumEnv, RewardSum, SerialEnv, StepCounter, TransformedEnv
from torchrl.envs.transforms import CatTensors, RenameTransform, UnsqueezeTransform

from wm_vec import TrainConfig, WorldModel
from wm_vec.canvas import EnvSignature
from wm_vec.canvas.signature import UnsupportedSpaceError
from wm_vec.core import GivenStart
from wm_vec.train import data_from_transitions
from wm_vec.train.data import DataError


def cartpole_env(num_envs=3, transforms=(), categorical=True):
    env = SerialEnv(num_envs, lambda: GymEnv("CartPole-v1", categorical_action_encoding=categorical))
    return TransformedEnv(env, Compose(*transforms)) if transforms else env


def collected(env, frames, batches=1, **options):
    """What a collector yields; random actions."""
    torch.manual_seed(0)
    env.set_seed(2)
    collector = Collector(env, None, frames_per_batch=frames, total_frames=frames * batches, **options)
    found = [batch.clone() for batch in collector]
    collector.shutdown()
    return found


@pytest.fixture(scope="module")
def batches():
    """Two batches ``(3, 60)`` of the real CartPole, with the usual transforms; episodes go on from one to the other."""
    return collected(cartpole_env(3, [StepCounter(), RewardSum()]), 180, 2)


@pytest.fixture(scope="module")
def world():
    return WorldModel.from_env("CartPole-v1")


def true_starts(batches):
    """The observations with which episodes start, by CartPole's own rule: within 0.05 of the middle, all four."""
    seen = torch.cat([batch["observation"].reshape(-1, 4) for batch in batches])
    counts = torch.cat([batch["step_count"].reshape(-1) for batch in batches])
    starts = seen[counts == 0]
    assert (starts.abs() <= 0.05).all()
    return starts


def same_rows(one, two):
    """Whether two tables hold the same rows, in whatever order."""
    return sorted(map(tuple, one.tolist())) == sorted(map(tuple, two.tolist()))


def check_steps(data, batch):
    """Every step of a batch lies on the canvas as CartPole's layout says: observation, action, reward, end."""
    flat = batch.reshape(-1)
    action = flat["action"] if flat["action"].dim() == 1 else flat["action"].int().argmax(-1)
    assert torch.equal(data.values[:, :4], flat["observation"])
    assert torch.equal(data.values[:, 4], action.float())
    assert torch.equal(data.next_values[:, :4], flat["next", "observation"])
    assert data.next_values[:, 5].unique().tolist() == [1.0], "CartPole pays 1 a step"
    assert torch.equal(data.next_values[:, 6].bool(), flat["next", "terminated"][:, 0])


# -- collectors -----------------------------------------------------------------------------------------------------


def test_a_batch_of_a_collector_with_counters_and_sums(world, batches):
    for batch in batches:
        data = world.as_data(batch)
        check_steps(data, batch)
        assert data.known[:, :5].all()
        assert not data.known[:, 5:].any()


def test_an_episode_that_goes_on_from_the_batch_before_starts_nothing(world, batches):
    second = world.as_data(batches[1])
    assert (batches[1]["step_count"][:, 0] > 0).any(), "rows begin in the middle of episodes"
    assert same_rows(second.starts[:, :4], true_starts(batches[1:]))


def test_episodes_are_told_apart_by_the_collectors_ids(world, batches):
    """An episode over two batches is one, so that its steps are held out together."""
    data = world.as_data(torch.cat(batches, 1))
    ids = torch.cat([batch["collector", "traj_ids"] for batch in batches], 1).reshape(-1)
    assert torch.equal(data.episode, ids)
    training, held_out = data.split()
    assert not set(training.episode.tolist()) & set(held_out.episode.tolist())


def test_one_hot_actions(world):
    (batch,) = collected(cartpole_env(2, categorical=False), 80)
    assert batch["action"].shape == (2, 40, 2)
    check_steps(world.as_data(batch), batch)


def test_a_single_environment(world):
    (batch,) = collected(GymEnv("CartPole-v1"), 50)
    assert batch.shape == (50,)
    check_steps(world.as_data(batch), batch)


def test_marks_of_the_init_tracker(world):
    first, second = collected(cartpole_env(2, [InitTracker()]), 80, 2)
    for batch in (first, second):
        data = world.as_data(batch)
        assert torch.equal(data.starts[:, :4], batch["observation"][batch["is_init"][..., 0]])


def test_without_marks_a_row_begins_an_episode(world):
    """As a first batch does, of which nothing says otherwise."""
    first, _ = collected(cartpole_env(3), 180, 2, track_traj_ids=False)
    data = world.as_data(first)
    ends = first["next", "done"][:, :-1, 0]
    assert len(data.starts) == 3 + int(ends.sum())
    assert (data.starts.abs() <= 0.05).all()
    assert len(data.episode.unique()) == 3 + int(ends.sum())


@pytest.mark.parametrize("options", [{"split_trajs": True}, {"trajs_per_batch": 3, "traj_format": "padded"}], ids=str)
@pytest.mark.filterwarnings("ignore:split_trajs")
def test_padding_of_split_trajectories_is_left_out(world, options):
    env = TransformedEnv(GymEnv("CartPole-v1", categorical_action_encoding=True), StepCounter())
    batch = collected(env, 120, **options)[0]
    real = batch["collector", "mask"]
    assert not real.all()
    data = world.as_data(batch)
    assert len(data) == int(real.sum())
    check_steps(data, batch[real])
    assert same_rows(data.starts[:, :4], true_starts([batch[real]]))
    assert len(data.episode.unique()) == batch.shape[0]


def test_a_list_of_batches(world, batches):
    data = world.as_data(batches)
    assert len(data) == 360
    assert same_rows(data.starts[:, :4], true_starts(batches))


def test_pendulum():
    env = TransformedEnv(SerialEnv(2, lambda: GymEnv("Pendulum-v1")), Compose(StepCounter(), RewardSum()))
    (batch,) = collected(env, 500)
    world = WorldModel.from_torchrl_env(env)
    data = world.as_data(batch)
    flat = batch.reshape(-1)
    assert torch.equal(data.values[:, :3], flat["observation"])
    assert torch.equal(data.values[:, 3:4], flat["action"])
    assert torch.equal(data.next_values[:, 4:5], flat["next", "reward"])
    assert not data.next_values[:, 5].any(), "a time limit is no end"
    assert same_rows(data.starts[:, :3], flat["observation"][flat["step_count"][:, 0] == 0])
    assert len(data.starts) == 4


@pytest.mark.long
def test_a_world_learns_cartpole_from_a_collector():
    """Far better than standing still, after few steps; and its episodes start where the real ones do."""
    env = cartpole_env(4, [StepCounter()])
    batch, fresh = collected(env, 1600, 2)
    world = WorldModel.from_torchrl_env(env)
    report = world.finetune(batch, config=TrainConfig(n_steps=250, batch_size=128))
    assert report.steps == 250
    assert same_rows(world.bank[:, :4], true_starts([batch]))
    steps = fresh.reshape(-1)[~fresh["next", "done"].reshape(-1)][:256]
    vector = world.to_vector_env(256, max_episode_steps=9)
    vector.engine.reset(seed=0, given=GivenStart(vector.engine.encode({"agent": steps["observation"]})))
    after = vector.step(steps["action"])[4]["final_obs"]
    moved = (steps["next", "observation"] - steps["observation"]).square().mean(0)
    error = (after - steps["next", "observation"]).square().mean(0)
    assert (error < 0.15 * moved).all(), (error / moved).tolist()


# -- replay buffers -------------------------------------------------------------------------------------------------


def filled(batches, storage=None):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000) if storage is None else storage)
    for batch in batches:
        buffer.extend(batch.reshape(-1))
    return buffer


@pytest.mark.parametrize("storage", [LazyTensorStorage, ListStorage])
def test_a_replay_buffer_as_it_is(world, batches, storage):
    data = world.as_data(filled(batches, storage(1000)))
    check_steps(data, torch.cat([batch.reshape(-1) for batch in batches]))
    assert same_rows(data.starts[:, :4], true_starts(batches))


def test_a_replay_buffer_of_two_axes(world, batches):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000, ndim=2), batch_size=32)
    buffer.extend(batches[0])
    data = world.as_data(buffer)
    check_steps(data, batches[0])
    assert same_rows(data.starts[:, :4], true_starts(batches[:1]))


@pytest.mark.parametrize("marks", ["step_count", "none"])
def test_shuffled_samples_start_only_what_really_starts(world, batches, marks):
    """After an end, a shuffled step is any other's. Where nothing tells, every state may start an episode."""
    torch.manual_seed(0)
    sample = filled(batches).sample(300)
    if marks == "none":
        sample = sample.exclude("step_count")
    data = world.as_data(sample)
    assert len(data) == 300
    if marks == "none":
        assert same_rows(data.starts[:, :4], sample["observation"])
    else:
        assert (data.starts[:, :4].abs() <= 0.05).all()
        assert len(data.starts) == int((sample["step_count"] == 0).sum())
    assert len(data.episode.unique()) == len(sample["collector", "traj_ids"].unique())


def test_shuffled_steps_without_ids_are_held_out_one_by_one(world, batches):
    sample = filled(batches).sample(200).exclude("collector", "step_count")
    training, held_out = world.as_data(sample).split()
    assert len(held_out) == pytest.approx(20, abs=3)
    assert len(training) + len(held_out) == 200


def test_where_one_batch_ends_in_a_buffer_another_episode_begins(world, batches):
    """Rows that were flattened one after another, without marks: where a step does not lead to the next, no episode is
    one, and none starts."""
    bare = [batch.exclude("collector", "step_count") for batch in batches]
    data = world.as_data(filled(bare))
    ended = torch.cat([batch["next", "done"].reshape(-1) for batch in batches])
    seams = [59, 119, 179, 239, 299]
    assert len(data.episode.unique()) == int(ended[:-1].sum()) + 1 + sum(not ended[i] for i in seams)
    assert len(data.starts) == int(ended[:-1].sum()) + 1


def test_a_buffer_that_has_gone_round(world, batches):
    """The oldest steps are overwritten: an episode without its start, and a seam in the middle."""
    data = world.as_data(filled(batches, LazyTensorStorage(250)))
    assert len(data) == 250
    assert (data.starts[:, :4].abs() <= 0.05).all()


def test_an_empty_buffer(world):
    with pytest.raises(DataError, match="buffer is empty"):
        world.as_data(TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=2))


# -- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda td: td.exclude("observation"), r"lack \['observation'\].*CatTensors"),
        (lambda td: td.exclude("observation").set("pixels", torch.zeros(3, 60, 3, 8, 8)), "takes no pixels"),
        (lambda td: td.exclude(("next", "observation")), r"lack \[\('next', 'observation'\)\].*compact_obs"),
        (lambda td: td.exclude(("next", "terminated")), "ended by itself, rather than by a time limit"),
        (lambda td: td.exclude("action", ("next", "reward")), r"lack \['action', \('next', 'reward'\)\]"),
        (lambda td: td.set("observation", td["observation"][..., :3]), "Each observation must have 4 numbers"),
        (lambda td: td.set("action", td["action"] + 1), "class index of Discrete"),
        (lambda td: td[:0], "empty"),
        (
            lambda td: td.set(("collector", "mask"), torch.zeros(3, 60, dtype=torch.bool)),
            "The transitions are empty",
        ),
    ],
)
def test_transitions_that_lack_something_say_what_to_do(world, batches, change, message):
    with pytest.raises(DataError, match=message):
        world.as_data(change(batches[0].clone()))


def test_a_collector_itself_is_no_data(world):
    collector = Collector(GymEnv("CartPole-v1"), None, frames_per_batch=10, total_frames=20)
    with pytest.raises(DataError, match=r"no episode but a TensorDict.*give what they yield"):
        world.as_data(collector)
    collector.shutdown()


# -- worlds from TorchRL's environments -----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0", "FrozenLake-v1"])
@pytest.mark.parametrize("categorical", [False, True])
def test_its_world_is_the_one_of_the_gymnasium_environment(env_id, categorical):
    env = TransformedEnv(GymEnv(env_id, categorical_action_encoding=categorical), StepCounter())
    assert WorldModel.from_torchrl_env(env).signature == EnvSignature.of_env(env_id)


def test_of_a_batch_it_is_one_environments(pendulum):
    made = WorldModel.from_torchrl_env(pendulum.to_torchrl_env(5, expose_state=True), max_episode_steps=50).signature
    assert made.observation_space == pendulum.signature.observation_space
    assert made.action_space == pendulum.signature.action_space
    assert made.max_episode_steps == 50
    serial = WorldModel.from_torchrl_env(cartpole_env(2)).signature
    assert serial.observation_space == gym.make("CartPole-v1").observation_space
    assert serial.action_space == Discrete(2)


def test_torchrls_own_pendulum_after_its_entries_are_joined():
    joined = TransformedEnv(
        PendulumEnv(),
        Compose(
            UnsqueezeTransform(-1, in_keys=["th", "thdot"]), CatTensors(["th", "thdot"], out_key="observation", dim=-1)
        ),
    )
    signature = WorldModel.from_torchrl_env(joined).signature
    assert signature.observation_space.shape == (2,)
    assert signature.action_space == Box(-2.0, 2.0, (1,))
    assert signature.max_episode_steps is None


def test_environments_that_make_no_world():
    with pytest.raises(ValueError, match=r"no 'observation' entry; it has .*'th'.*CatTensors"):
        WorldModel.from_torchrl_env(PendulumEnv())
    renamed = TransformedEnv(GymEnv("CartPole-v1"), RenameTransform(["observation"], ["seen"]))
    with pytest.raises(ValueError, match=r"no 'observation' entry; it has \['seen'\]"):
        WorldModel.from_torchrl_env(renamed)
    from wm_vec.adapters import CallableDynamics
    from wm_vec.envs import TorchRLEnv

    def env_of(observations, actions):
        start = torch.as_tensor(np.zeros(observations.shape, observations.dtype))
        dynamics = CallableDynamics(lambda s, a: s, observations, actions, initial_observation=start)
        return TorchRLEnv.from_dynamics(dynamics, observations, actions, num_envs=2)

    plane, pixels = Box(-1, 1, (2,)), Box(0, 255, (3, 64, 64), np.uint8)
    assert WorldModel.from_torchrl_env(env_of(plane, MultiDiscrete([2, 3]))).num_positions == 2 + 2 + 2
    with pytest.raises(ValueError, match="The observation spec is a UnboundedDiscrete"):
        WorldModel.from_torchrl_env(env_of(MultiDiscrete([[2], [3]]), Discrete(2)))
    with pytest.raises(UnsupportedSpaceError, match="needs 12292 positions"):
        WorldModel.from_torchrl_env(env_of(pixels, plane))


def test_steps_of_images_few_enough_are_numbers():
    """A canvas takes small images as numbers, one position each."""
    signature = EnvSignature(Box(0, 255, (2, 2), np.uint8), Discrete(2))
    seen = torch.arange(16, dtype=torch.uint8).view(4, 2, 2)
    step = TensorDict(
        {
            "observation": seen,
            "action": torch.tensor([0, 1, 0, 1]),
            "next": {"observation": seen + 4, "reward": torch.zeros(4, 1), "terminated": torch.zeros(4, 1).bool()},
        },
        batch_size=[4],
    )
    data = data_from_transitions(step, signature.schema(32), signature)
    assert data.values[2, :4].tolist() == [8.0, 9.0, 10.0, 11.0]
    assert len(data.episode.unique()) == 1, "every step leads to the next"
