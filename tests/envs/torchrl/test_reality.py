"""From real data to imagination: TorchRL resets that start from observations, and resets out of a replay buffer."""

from __future__ import annotations

import warnings
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import (
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)
from torchrl.envs import GymEnv, ParallelEnv, SerialEnv, TransformedEnv
from torchrl.envs.transforms import Compose, ObservationNorm, RewardSum, StepCounter
from torchrl.envs.utils import check_env_specs

from wm_vec import WorldModel, batched
from wm_vec.adapters import CallableDynamics
from wm_vec.core import GivenStart
from wm_vec.envs import TorchRLEnv
from wm_vec.envs import TransformedEnv as Transformed

PLANE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
SEEN = gym.spaces.Dict({"place": PLANE, "eye": gym.spaces.Dict({"dial": gym.spaces.Box(0, 255, (3,), np.uint8)})})
PUSH = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


def small_env(num_envs=4):
    """In a function of the module, for processes to make it of."""
    return WorldModel.bundled("CartPole-v1").to_torchrl_env(num_envs, max_episode_steps=6, seed=0)


@pytest.fixture(scope="module")
def real():
    """What a collector gives of the real CartPole, ``(3, 40)``."""
    env = TransformedEnv(SerialEnv(3, lambda: GymEnv("CartPole-v1", categorical_action_encoding=True)), StepCounter())
    env.set_seed(1)
    torch.manual_seed(0)
    collector = Collector(env, None, frames_per_batch=120, total_frames=120)
    batch = next(iter(collector)).clone()
    collector.shutdown()
    return batch


@pytest.fixture(scope="module")
def buffer(real):
    kept = TensorDictReplayBuffer(storage=LazyTensorStorage(500), batch_size=16)
    kept.extend(real.reshape(-1))
    return kept


def observations(real, num_envs):
    """Real ones, spread over the episodes, alone in a TensorDict."""
    return real.reshape(-1)[3::7][:num_envs].select("observation").clone()


def among(rows, others):
    """``(B,)`` bool: which rows stand among the others, bit by bit."""
    return (rows[:, None] == others[None]).all(-1).any(1)


def bank_of(world):
    """The observations that episodes of a bundled world start with when nobody says otherwise."""
    return world.bank[:, world.bound["observation"].indices()]


# -- resets from observations ---------------------------------------------------------------------------------------


def test_a_reset_with_observations_starts_there(cartpole, real):
    env = cartpole.to_torchrl_env(8, seed=0)
    given = observations(real, 8)
    td = env.reset(given.clone())
    assert torch.equal(td["observation"], given["observation"])
    assert not td["done"].any()
    state = env.engine.state()
    assert state.elapsed.tolist() == [0] * 8
    assert state.episode.tolist() == [0] * 8
    assert state.seed.tolist() == list(range(8))


def test_from_there_it_goes_on_as_the_real_one_does(cartpole, real):
    """The imagined step from a real observation, under the real action, against the real step."""
    steps = real.reshape(-1)[~real["next", "done"].reshape(-1)][:64]
    env = cartpole.to_torchrl_env(64, seed=0)
    td = env.reset(steps.select("observation"))
    after = env.step(td.set("action", steps["action"]))["next", "observation"]
    moved = (steps["next", "observation"] - steps["observation"]).square().mean()
    assert (after - steps["next", "observation"]).square().mean() < 0.02 * moved


@pytest.mark.parametrize("break_when_any_done", [False, True])
def test_a_rollout_starts_there(cartpole, real, break_when_any_done):
    env = cartpole.to_torchrl_env(8, max_episode_steps=5, seed=0)
    given = observations(real, 8)
    rollout = env.rollout(12, tensordict=given.clone(), break_when_any_done=break_when_any_done)
    assert torch.equal(rollout["observation"][:, 0], given["observation"])
    if not break_when_any_done:
        later = rollout["observation"][:, 1:][rollout["next", "done"][:, :-1, 0]]
        assert len(later) >= 16
        assert among(later, bank_of(cartpole)).all(), "the episodes after that start as ever"


def test_the_seed_counts_as_ever(cartpole, real):
    """The noise of an episode is its seed's and number's, wherever it starts: as from the engine by hand."""
    env = cartpole.to_torchrl_env(8)
    given = observations(real, 8)
    rollouts = []
    for _ in range(2):
        env.set_seed(5)
        rollouts.append(env.rollout(10, tensordict=given.clone(), break_when_any_done=False))
    assert (rollouts[0] == rollouts[1]).all()
    vector = cartpole.to_vector_env(8, autoreset_mode="disabled")
    vector.engine.reset(seed=5, given=GivenStart(vector.engine.encode({"agent": given["observation"]})))
    assert torch.equal(vector.step(rollouts[0]["action"][:, 0])[0], rollouts[0]["next", "observation"][:, 0])


def test_a_partial_reset_ignores_observations(cartpole, real):
    """TorchRL's own convention: with `_reset` in it, a TensorDict is what is there, not what is wanted."""
    env = cartpole.to_torchrl_env(4, seed=0)
    before = env.reset()["observation"].clone()
    mask = torch.tensor([[True], [False], [True], [False]])
    td = observations(real, 4).set("_reset", mask).set("done", torch.zeros(4, 1, dtype=torch.bool))
    given = td["observation"].clone()
    env.reset(td)
    stands = env.engine.perspectives[0].observe(env.engine.predictions())
    assert torch.equal(stands[[1, 3]], before[[1, 3]]), "they go on"
    assert among(stands[[0, 2]], bank_of(cartpole)).all()
    assert not among(stands, given).any()


def test_where_an_episode_ended_another_starts_as_ever(cartpole, real):
    """Loops that hand the last TensorDict to reset get fresh episodes where it was done."""
    env = cartpole.to_torchrl_env(4, seed=0)
    td = observations(real, 4)
    given = td["observation"].clone()
    done = torch.tensor([[True], [False], [False], [True]])
    td = env.reset(td.set("done", done).set("truncated", done & torch.tensor([[True], [True], [True], [False]])))
    assert torch.equal(td["observation"][[1, 2]], given[[1, 2]])
    assert among(td["observation"][[0, 3]], bank_of(cartpole)).all()
    assert not td["done"].any()
    assert env.engine.state().episode.tolist() == [0] * 4


def test_a_loop_by_hand_goes_on_after_the_end(cartpole):
    env = cartpole.to_torchrl_env(1, max_episode_steps=4, seed=0)
    td, starts = env.reset(), []
    for _ in range(20):
        td = env.step_mdp(env.rand_step(td))
        if td["done"].all():
            td = env.reset(td)
            starts.append(td["observation"][0].clone())
    assert len(starts) == 5
    assert among(torch.stack(starts), bank_of(cartpole)).all()


def test_without_observations_nothing_changes(cartpole):
    env, other = (cartpole.to_torchrl_env(4, seed=0) for _ in range(2))
    empty = TensorDict({"action": torch.zeros(4, dtype=torch.int64)}, batch_size=[4])
    assert torch.equal(env.reset(empty)["observation"], other.reset()["observation"])


def encoding_env(num_envs, encode=True, **options):
    """A place that drifts, and a dial that shows it; the state holds the place alone."""

    def move(state, action):
        return {"state": state + action, "observation": show(state + action), "reward": state[:, 0]}

    def show(place):
        return {"place": place, "eye": {"dial": place[:, :1].expand(-1, 3).to(torch.uint8)}}

    dynamics = CallableDynamics(
        move,
        SEEN,
        PUSH,
        initial_state=torch.zeros(2, 2),
        initial_observation=show(torch.zeros(2, 2)),
        encode=(lambda observation: observation["place"]) if encode else None,
    )
    return TorchRLEnv.from_dynamics(dynamics, SEEN, PUSH, num_envs=num_envs, seed=0, **options)


def shown(num_envs):
    place = torch.arange(2.0 * num_envs).view(num_envs, 2)
    dial = torch.full((num_envs, 3), 7, dtype=torch.uint8)
    return TensorDict({"place": place, "eye": {"dial": dial}}, batch_size=[num_envs])


@pytest.mark.parametrize("expose_state", [False, True])
def test_observations_of_several_parts(expose_state):
    env = encoding_env(3, expose_state=expose_state)
    td = env.reset(shown(3))
    assert torch.equal(td["place"], shown(3)["place"])
    assert torch.equal(td["eye", "dial"], shown(3)["eye", "dial"])
    after = env.step(td.set("action", torch.full((3, 2), 0.5)))["next", "place"]
    assert torch.equal(after, shown(3)["place"] + 0.5)


def test_a_part_of_the_observations_is_refused():
    env = encoding_env(3)
    with pytest.raises(ValueError, match=r"it lacks \[\('eye', 'dial'\)\]\. Add them, or leave all of them out"):
        env.reset(shown(3).select("place"))
    with pytest.raises(ValueError, match=r"lacks \['place'\]"):
        env.reset(shown(3).select("eye"))


def test_a_model_that_cannot_encode_says_what_to_give():
    with pytest.raises(ValueError, match=r"Give encode=\(model, observation\) -> state"):
        encoding_env(3, encode=False).reset(shown(3))


def test_observations_that_do_not_fit_are_refused(cartpole):
    env = cartpole.to_torchrl_env(3, seed=0)
    with pytest.raises(ValueError, match=r"must have shape \('M', 4\), got \(3, 5\)"):
        env.reset(TensorDict({"observation": torch.zeros(3, 5)}, batch_size=[3]))
    with pytest.raises(RuntimeError, match="shape"):  # TorchRL's own check
        env.reset(TensorDict({"observation": torch.zeros(2, 4)}, batch_size=[2]))
    wild = torch.zeros(3, 4)
    wild[1, 1] = torch.inf
    with pytest.raises(ValueError, match="observation 1 has inf"):
        env.reset(TensorDict({"observation": wild}, batch_size=[3]))


def test_an_exposed_state_is_gone_on_from_only_when_asked(pendulum):
    """A TensorDict with a state in it has observations too: `set_state` decides, and says fresh or there."""
    env = pendulum.to_torchrl_env(3, expose_state=True, seed=0)
    kept = env.rand_step(env.reset())["next"].exclude("reward")
    there = env.reset(kept.clone(), set_state=True)
    assert torch.equal(there["observation"], kept["observation"])
    fresh = env.reset(kept.clone(), set_state=False)
    assert among(fresh["observation"], bank_of(pendulum)).all()
    bare = env.reset(kept.select("observation"))
    assert torch.equal(bare["observation"], kept["observation"]), "without a state it starts from the observation"
    assert env.engine.state().elapsed.tolist() == [0] * 3


def test_a_reset_from_observations_on_a_device_without_values():
    env = WorldModel.bundled("CartPole-v1", device="meta").to_torchrl_env(4, seed=0)
    td = env._reset(TensorDict({"observation": torch.zeros(4, 4, device="meta")}, batch_size=[4]))
    assert td["observation"].device.type == "meta"


def test_our_transformed_env_hands_them_on(cartpole, real):
    env = Transformed(cartpole.to_torchrl_env(8, max_episode_steps=5, seed=0), Compose(StepCounter(), RewardSum()))
    given = observations(real, 8)
    done = torch.arange(8)[:, None] == 3
    rollout = env.rollout(4, tensordict=given.clone().set("done", done), break_when_any_done=False)
    assert torch.equal(rollout["observation"][~done[:, 0], 0], given["observation"][~done[:, 0]])
    assert among(rollout["observation"][3:4, 0], bank_of(cartpole)).all()
    assert not rollout["step_count"][:, 0].any()
    assert not rollout["episode_reward"][:, 0].any()
    assert (rollout["step_count"][:, 1] <= 1).all()
    check_env_specs(env, break_when_any_done="both")
    td = env.reset(rollout[:, -1].exclude("next", "action").set("_reset", done))
    assert among(td["observation"][3:4], bank_of(cartpole)).all()


def test_observations_that_a_transform_changes_are_not_the_worlds(cartpole, real):
    env = Transformed(cartpole.to_torchrl_env(4, seed=0), ObservationNorm(0.5, 2.0, in_keys=["observation"]))
    with pytest.raises(ValueError, match=r"cannot start from \['observation'\], which a transform writes.*start_from"):
        env.reset(observations(real, 4))
    env.base_env.reset(observations(real, 4))
    env.start_from(real)
    seen = (env.reset()["observation"] - 0.5) / 2.0
    assert torch.isclose(seen[:, None], real["observation"].reshape(1, -1, 4), atol=1e-5).all(-1).any(1).all()


# -- what TorchRL itself hands to resets ----------------------------------------------------------------------------


def starts_of(data):
    """The observations of a batch with which episodes start: the counter says which."""
    return data["observation"][data["step_count"][..., 0] == 0]


@pytest.mark.parametrize("expose_state", [False, True])
def test_the_checker_passes_after_starts_from_observations(cartpole, real, expose_state):
    env = cartpole.to_torchrl_env(4, expose_state=expose_state, seed=0)
    env.reset(observations(real, 4))
    check_env_specs(env, break_when_any_done="both")


def test_a_collector_never_starts_from_what_it_saw_last(cartpole):
    env = TransformedEnv(cartpole.to_torchrl_env(16, max_episode_steps=6, seed=0), StepCounter())
    collector = Collector(env, None, frames_per_batch=16 * 10, total_frames=16 * 30)
    starts = []
    for number, batch in enumerate(collector):
        starts.append(starts_of(batch))
        if number == 1:
            collector.reset()
    collector.shutdown()
    starts = torch.cat(starts)
    assert len(starts) > 60
    assert among(starts, bank_of(cartpole)).all()


def test_rollouts_that_reset_themselves_do_not_either(cartpole):
    env = TransformedEnv(cartpole.to_torchrl_env(8, max_episode_steps=4, seed=0), StepCounter())
    last = env.rollout(10, break_when_any_done=False)[:, -1]["next"].exclude("reward")
    starts = starts_of(env.rollout(10, tensordict=last, break_when_any_done=False))
    assert among(starts, bank_of(cartpole)).all(), "TorchRL's transforms hand no observations on"


@pytest.mark.long
@pytest.mark.parametrize("batched_env", [SerialEnv, ParallelEnv])
def test_batches_of_environments(cartpole, real, batched_env):
    """They reset as ever in rollouts, and start from observations when they are handed some."""
    env = batched_env(2, [partial(small_env, 4), partial(small_env, 4)])
    try:
        env.set_seed(0)
        rollout = env.rollout(16, break_when_any_done=False)
        after_end = rollout["observation"][:, :, 1:][rollout["next", "done"][:, :, :-1, 0]]
        assert len(after_end) >= 16
        assert among(after_end, bank_of(cartpole)).all()
        given = observations(real, 8).reshape(2, 4)
        td = env.reset(given.clone())
        assert torch.equal(td["observation"], given["observation"])
        mask = torch.zeros(2, 4, 1, dtype=torch.bool)
        mask[1, 2] = True
        td = env.reset(td.set("_reset", mask))
        assert among(td["observation"][1, 2:3], bank_of(cartpole)).all()
        stay = ~mask[..., 0]
        assert torch.equal(td["observation"][stay], given["observation"][stay])
    finally:
        env.close()


# -- resets out of a replay buffer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["buffer", "transitions", "observations", "plain buffer", "list buffer"])
def test_later_episodes_start_from_what_was_really_seen(cartpole, real, buffer, kind):
    rows = real.reshape(-1)
    if kind == "plain buffer":
        source = ReplayBuffer(storage=LazyTensorStorage(200))
        source.extend(rows)
    elif kind == "list buffer":
        source = TensorDictReplayBuffer(storage=ListStorage(200))
        source.extend(rows)
    else:
        source = {"buffer": buffer, "transitions": real, "observations": rows.select("observation")}[kind]
    env = cartpole.to_torchrl_env(64, max_episode_steps=3, seed=0)
    env.start_from(source, num_states=100)
    td = env.rollout(9, break_when_any_done=False)
    starts = torch.cat([td["observation"][:, 0], td["observation"][:, 1:][td["next", "done"][:, :-1, 0]]])
    assert len(starts) >= 3 * 64
    assert among(starts, rows["observation"]).all()
    assert len(starts.unique(dim=0)) > 40


def test_a_real_state_is_drawn_by_the_envs_own_counters(cartpole, real):
    """Env i draws the same one whatever B is, and another in its next episode."""
    wide, narrow = cartpole.to_torchrl_env(32), cartpole.to_torchrl_env(5)
    for env in (wide, narrow):
        env.start_from(real, num_states=1000)
        env.set_seed(40)
    one, two = wide.reset()["observation"], narrow.reset()["observation"]
    assert torch.equal(one[:5], two)
    assert not torch.equal(narrow.reset()["observation"], two)


def test_the_buffers_own_samples_are_left_as_they_were(cartpole, real):
    """Neither its batch size nor what it holds ready, nor what a sampler without replacement has yet to give."""
    kept = TensorDictReplayBuffer(
        storage=LazyTensorStorage(500), sampler=SamplerWithoutReplacement(), batch_size=16, prefetch=2
    )
    kept.extend(real.reshape(-1))
    first = kept.sample()
    env = cartpole.to_torchrl_env(4, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.start_from(kept, num_states=64)
    later = [kept.sample() for _ in range(6)]
    assert {batch.shape for batch in later} == {(16,)}
    indices = torch.cat([batch["index"] for batch in (first, *later)])
    assert len(indices.unique()) == 7 * 16


def test_a_buffer_of_two_axes(cartpole, real):
    kept = TensorDictReplayBuffer(storage=LazyTensorStorage(300, ndim=2), batch_size=16)
    kept.extend(real)
    env = cartpole.to_torchrl_env(64, seed=0)
    env.start_from(kept)
    seen = env.reset()["observation"]
    assert among(seen, real["observation"].reshape(-1, 4)).all()


def test_of_too_many_some_are_drawn(cartpole, real):
    env = cartpole.to_torchrl_env(512, seed=0)
    torch.manual_seed(3)
    env.start_from(real, num_states=7)
    seen = env.reset()["observation"]
    assert among(seen, real["observation"].reshape(-1, 4)).all()
    assert len(seen.unique(dim=0)) == 7
    assert not among(seen, real["observation"].reshape(-1, 4)[:7]).all()


def test_padding_is_no_observation(cartpole):
    """Split trajectories are padded with zeros, which were never seen."""
    env = GymEnv("CartPole-v1", categorical_action_encoding=True)
    env.set_seed(0)
    collector = Collector(
        env,
        None,
        frames_per_batch=60,
        total_frames=60,
        split_trajs=True,
    )
    batch = next(iter(collector))
    collector.shutdown()
    assert not batch["collector", "mask"].all()
    env = cartpole.to_torchrl_env(256, seed=0)
    env.start_from(batch, num_states=1000)
    assert (env.reset()["observation"] != 0).any(-1).all()


def test_in_the_middle_of_a_collectors_run(cartpole, buffer):
    """Episodes under way go on; those that start after it start from the buffer."""
    env = TransformedEnv(cartpole.to_torchrl_env(16, max_episode_steps=5, seed=0), StepCounter(), auto_unwrap=False)
    collector = Collector(env, None, frames_per_batch=16 * 7, total_frames=16 * 21, track_traj_ids=False)
    seen = buffer[:]["observation"]
    for number, batch in enumerate(collector):
        starts, whose = starts_of(batch), seen if number else bank_of(cartpole)
        assert len(starts)
        assert among(starts, whose).all(), number
        if number == 0:
            env.start_from(buffer)  # a transformed environment hands the call on
    collector.shutdown()


def test_a_buffer_that_has_grown_is_taken_again(cartpole, real):
    env = cartpole.to_torchrl_env(64, seed=0)
    first, second = real.reshape(-1)[:50], real.reshape(-1)[50:]
    env.start_from(first)
    assert among(env.reset()["observation"], first["observation"]).all()
    env.start_from(second)
    assert among(env.reset()["observation"], second["observation"]).all()


def test_finetuning_brings_the_worlds_own_starts_back(real):
    world = WorldModel.bundled("CartPole-v1")
    env = world.to_torchrl_env(32, seed=0)
    middle = real.reshape(-1)[real["step_count"].reshape(-1) > 5]
    env.start_from(middle)
    assert not among(env.reset()["observation"], starts_of(real)).any()
    world.finetune(real, n_steps=1)
    assert among(env.reset()["observation"], starts_of(real)).all()


def test_drawing_from_a_buffers_states_reads_nothing_on_the_host(real):
    env = WorldModel.bundled("CartPole-v1", device="meta").to_torchrl_env(8, max_episode_steps=3, seed=0)
    env.start_from(real.select("observation").to("meta"))
    td = env._reset()
    for _ in range(5):
        _, td = env.step_and_maybe_reset(env.rand_action(td))
    assert td["observation"].device.type == "meta"


def test_observations_of_several_parts_out_of_a_buffer():
    env = encoding_env(16)
    rows = TensorDictReplayBuffer(storage=LazyTensorStorage(10), batch_size=4)
    rows.extend(shown(10))
    env.start_from(rows)
    assert among(env.reset()["place"], shown(10)["place"]).all()


def test_the_vector_environment_does_it_too(cartpole, buffer):
    vector = cartpole.to_vector_env(64, max_episode_steps=2)
    vector.start_from(buffer)
    first = vector.reset(seed=0)[0]
    vector.step(vector.sample_actions())
    observation, _, terminated, truncated, _ = vector.step(vector.sample_actions())
    second = observation[terminated | truncated]  # of episodes started in the same step
    assert len(second) > 40
    for seen in (first, second):
        assert among(seen, buffer[:]["observation"]).all()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (lambda real: TensorDictReplayBuffer(storage=LazyTensorStorage(9)), ValueError, "the replay buffer is empty"),
        (lambda real: real.exclude("observation"), ValueError, r"lack \['observation'\]; there is \[.*'action'"),
        (lambda real: real[:0], ValueError, "no observations to start from"),
        (
            lambda real: real["observation"],
            TypeError,
            "takes a replay buffer of TensorDicts or a TensorDict.*got Tensor",
        ),
        (lambda real: [real], TypeError, "got list"),
    ],
)
def test_sources_that_are_none(cartpole, real, source, error, message):
    env = cartpole.to_torchrl_env(2, seed=0)
    with pytest.raises(error, match=message):
        env.start_from(source(real))


def test_other_misuse_of_start_from(cartpole, pendulum, real):
    with pytest.raises(ValueError, match="num_states must be a whole number of at least 1, got 0"):
        cartpole.to_torchrl_env(2).start_from(real, num_states=0)
    with pytest.raises(ValueError, match=r"shape \('M', 3\), got \(120, 4\)"):
        pendulum.to_torchrl_env(2).start_from(real)

    @batched
    def fresh(seeds):
        return torch.zeros(len(seeds), 2)

    def still(state, action):
        return state, state[:, 0], state[:, 0] > 9, state[:, 0] > 9, {}

    env = TorchRLEnv.from_dynamics(CallableDynamics(still, PLANE, PUSH, reset_fn=fresh), PLANE, PUSH, num_envs=2)
    with pytest.raises(ValueError, match="starts every episode afresh; it has no bank"):
        env.start_from(TensorDict({"observation": torch.zeros(5, 2)}, batch_size=[5]))


def test_rewards_and_counters_of_transforms_start_afresh(cartpole, real):
    """`RewardSum` over episodes that start from observations: each sums its own."""
    env = TransformedEnv(cartpole.to_torchrl_env(8, max_episode_steps=6, seed=0), RewardSum())
    env.start_from(real)
    rollout = env.rollout(12, break_when_any_done=False)
    sums, rewards = rollout["next", "episode_reward"][..., 0], rollout["next", "reward"][..., 0]
    for row, row_rewards, done in zip(sums, rewards, rollout["next", "done"][..., 0], strict=True):
        total = 0.0
        for got, reward, over in zip(row.tolist(), row_rewards.tolist(), done.tolist(), strict=True):
            total += reward
            assert got == pytest.approx(total, abs=1e-4)
            total = 0.0 if over else total
