"""The environment whose whole state is in the TensorDict: TorchRLEnv's numbers, at any batch shape."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import TransformedEnv
from torchrl.envs.transforms import StepCounter
from torchrl.envs.utils import check_env_specs

from tests.core.walk import Walk, walk_engine
from tests.envs.torchrl.test_env import plane_env
from wm_vec import WorldModel
from wm_vec.adapters import CallableDynamics
from wm_vec.envs import StatelessTorchRLEnv, TorchRLEnv, WorldModelVectorEnv

KINDS = [
    ("box", False),
    ("discrete", False),
    ("discrete", True),
    ("several", False),
    ("several", True),
    ("binary", False),
]
WALK_SPACES = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


def fresh(*batch):
    """What asks a reset for that many envs."""
    return TensorDict({}, batch_size=batch)


def walk_env(num_envs=4, noise=0.1, **options) -> TorchRLEnv:
    """Moves by the action and some noise; the reward is where it is."""
    engine = walk_engine(num_envs, dynamics=Walk(noise), autoreset_mode="disabled", **options)
    return TorchRLEnv(engine, *WALK_SPACES, expose_state=True)


def assert_same(one, two, **tolerance):
    """Two rollouts hold the same, bit for bit unless a tolerance is given."""
    assert set(one.keys(True, True)) == set(two.keys(True, True))
    for key in two.keys(True, True):
        torch.testing.assert_close(one[key], two[key], **(tolerance or {"rtol": 0, "atol": 0}))


# -- from real observations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_episodes_start_from_real_observations_as_torchrlenvs_do(cartpole, batch):
    num_envs = torch.Size(batch).numel()
    seen = torch.linspace(-0.1, 0.1, num_envs * 4).view(*batch, 4)
    done = torch.zeros(*batch, 1, dtype=torch.bool)
    done.view(-1)[-1] = True  # which starts as ever
    given = TensorDict({"observation": seen, "done": done}, batch_size=batch)
    locked = cartpole.to_torchrl_env(num_envs, expose_state=True, seed=3)
    env = locked.to_stateless()
    td, expected = env.reset(given.clone()), locked.reset(given.clone().reshape(num_envs))
    assert_same(td.reshape(num_envs), expected)
    assert torch.equal(td["observation"].view(-1, 4)[:-1], seen.view(-1, 4)[:-1])
    assert not torch.equal(td["observation"].view(-1, 4)[-1], seen.view(-1, 4)[-1])
    further = env.reset(given.exclude("done"))["world_state", "seed"].view(-1)
    assert further.tolist() == list(range(3 + num_envs, 3 + 2 * num_envs)), "seeds count on"


def test_bad_observations_to_start_from_are_refused(cartpole):
    env = cartpole.to_torchrl_env(1).to_stateless()
    with pytest.raises(ValueError, match=r"got \(3, 77\)"):
        env.reset(TensorDict({"observation": torch.zeros(3, 77)}, batch_size=[3]))
    with pytest.raises(ValueError, match=r"must have shape \(3, 1\)"):
        env.reset(TensorDict({"observation": torch.zeros(3, 4), "done": torch.zeros(3, 2).bool()}, batch_size=[3]))


# -- TorchRL's checker ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "one_hot"), KINDS)
def test_torchrls_checker_passes(kind, one_hot):
    env = plane_env(kind, 3, one_hot=one_hot, seed=0).to_stateless()
    assert isinstance(env, StatelessTorchRLEnv)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(env, tensordict=env.reset(fresh(2, 5)), break_when_any_done=False)


def test_it_passes_on_learned_worlds(cartpole, pendulum):
    fields = {"obs_fields": ["observation"], "act_fields": ["action"], "reward_fn": lambda obs, act, info: 1.0}
    for env in (pendulum.to_torchrl_env(), cartpole.to_torchrl_env(one_hot=True), cartpole.to_torchrl_env(**fields)):
        check_env_specs(env.to_stateless(), break_when_any_done="both")


# -- the numbers of TorchRLEnv --------------------------------------------------------------------------------


def paid_by_change(obs, act, info, before):
    """A reward that keeps state: how far the pole's angle moved since the last step."""
    return (obs["observation"][2] - before).abs(), obs["observation"][2]


@pytest.mark.parametrize("stateful_reward", [False, True])
@pytest.mark.parametrize("exact_rows", [False, True])
def test_a_seeded_rollout_is_the_stateful_ones_random_actions_and_resets_included(
    cartpole, exact_rows, stateful_reward
):
    options = {"max_episode_steps": 17, "exact_rows": exact_rows, "expose_state": True}
    if stateful_reward:
        own = {"obs_fields": ["observation"], "act_fields": ["action"], "reward_fn": paid_by_change}
        options |= own | {"reward_state": torch.tensor(0.0)}
    stateful = cartpole.to_torchrl_env(6, **options)
    env = stateful.to_stateless()
    for each in (stateful, env):
        each.set_seed(11)
    theirs = stateful.rollout(40, break_when_any_done=False)
    assert theirs["next", "done"].sum() > 6, "resets are part of it"
    flat = env.rollout(40, tensordict=fresh(6), break_when_any_done=False)
    # On one machine chunks of one size are equal bit for bit; other batch sizes may round otherwise.
    assert_same(flat, theirs, **({} if exact_rows else {"rtol": 1e-4, "atol": 1e-4}))
    if exact_rows:
        env.set_seed(11)
        block = env.rollout(40, tensordict=fresh(2, 3), break_when_any_done=False)
        assert_same(block.reshape(6, 40), theirs)
        env.set_seed(11)
        assert_same(env.rollout(10, break_when_any_done=False), theirs[0, :10])


def test_resets_count_seeds_in_row_major_order():
    env = walk_env(seed=5).to_stateless()
    assert env.reset()["world_state", "seed"].item() == 5, "the seed that it was made with"
    assert env.reset(fresh(3))["world_state", "seed"].tolist() == [6, 7, 8], "never one twice"
    env.set_seed(20)
    td = env.reset(fresh(2, 3))
    assert td["world_state", "seed"].tolist() == [[20, 21, 22], [23, 24, 25]]
    assert td["observation"].shape == (2, 3, 2)
    assert len({tuple(row.tolist()) for row in td["observation"].reshape(6, 2)}) == 6
    unseeded = walk_env().to_stateless()
    assert len(set(unseeded.reset(fresh(100))["world_state", "seed"].tolist())) == 100


def test_each_environment_takes_the_others_states(pendulum):
    stateful = pendulum.to_torchrl_env(3, expose_state=True, exact_rows=True, seed=0)
    env = stateful.to_stateless()
    stateful.rollout(5)
    here = stateful.rand_step(stateful.reset())["next"]
    action = stateful.rand_action(here.clone())["action"]
    state = here.select("world_state").clone()
    there = env.reset(state, set_state=True)
    assert torch.equal(there["observation"], here["observation"])
    assert not there["done"].any()
    after = stateful.step(here.exclude("reward").set("action", action))["next"]
    assert_same(env.step(there.set("action", action))["next"], after)
    back = stateful.reset(env.rand_step(there)["next"].exclude("reward"), set_state=True)
    assert torch.equal(back["world_state", "elapsed"], torch.tensor([2, 2, 2]))


def test_a_masked_reset_gives_the_episodes_that_the_stateful_one_gives():
    stateful, env = walk_env(4, seed=3), walk_env(4, seed=3).to_stateless()
    action = torch.full((4, 1), 0.2)
    theirs = stateful.step(stateful.reset().set("action", action))["next"].exclude("reward")
    ours = env.step(env.reset(fresh(4)).set("action", action))["next"].exclude("reward")
    mask = torch.tensor([[True], [False], [True], [False]])
    before = ours["observation"].clone()
    for done in (mask, ~mask, mask):
        theirs = stateful.reset(theirs.set("_reset", done), set_state=False)
        ours = env.reset(ours.set("_reset", done), set_state=False)
        assert_same(ours, theirs)
    assert ours["world_state", "episode"].tolist() == [2, 1, 2, 1]
    # A mask asks for fresh episodes also where TorchRL would take the state for one to go on from.
    for each, td in ((stateful, theirs), (env, ours)):
        with pytest.warns(FutureWarning, match="set_state"):
            each.reset(td.set("_reset", mask))
    assert_same(ours, theirs)
    assert ours["world_state", "episode"].tolist() == [3, 1, 3, 1]
    again = env.reset(ours, set_state=False)
    assert again["world_state", "episode"].tolist() == [4, 2, 4, 2], "without a mask all of them"
    assert not torch.equal(before, again["observation"])


def test_rows_that_are_not_in_the_mask_stay_as_they_are(cartpole):
    env = cartpole.to_torchrl_env(max_episode_steps=30, seed=1).to_stateless()
    td = env.rollout(9, tensordict=fresh(4, 2), break_when_any_done=False)[..., -1]["next"].exclude("reward")
    mask = torch.zeros(4, 2, 1, dtype=torch.bool)
    mask[1, 0] = mask[3, 1] = True
    after = env.reset(td.clone().set("_reset", mask), set_state=False)
    rest = ~mask[..., 0]
    assert_same(after[rest], td[rest])
    assert after["world_state", "elapsed"][mask[..., 0]].tolist() == [0, 0]


def test_rollouts_stop_when_all_are_done_and_collectors_run(cartpole):
    env = cartpole.to_torchrl_env(max_episode_steps=12, seed=0).to_stateless()
    rollout = env.rollout(50, tensordict=fresh(5), break_when_any_done=False, break_when_all_done=True)
    ends = rollout["next", "done"].int().argmax(1)[:, 0]
    assert rollout.shape == (5, int(ends.max()) + 1)
    assert int(ends.max()) <= 11
    collector = Collector(TransformedEnv(env, StepCounter()), None, frames_per_batch=30, total_frames=60)
    counts = torch.cat([batch["next", "step_count"] for batch in collector])
    collector.shutdown()
    assert len(counts) == 60
    assert 5 < int(counts.max()) <= 12, "which resets at the horizon"


# -- the state is a value -------------------------------------------------------------------------------------


def test_steps_start_over_from_kept_states_and_write_into_none():
    env = walk_env(seed=0).to_stateless()
    td = env.rand_action(env.reset(fresh(3)))
    kept = td.clone()
    first = env.step(td.copy())["next"]
    for key in first["world_state"].keys(True, True):
        first["world_state"].get(key).fill_(True)
    assert_same(td, kept)
    second = env.step(td)["next"]
    assert second["world_state", "elapsed"].tolist() == [1, 1, 1]
    assert_same(second, env.step(kept)["next"])


def test_states_come_out_of_a_replay_buffer_as_they_went_in(pendulum):
    env = pendulum.to_torchrl_env(exact_rows=True, seed=0).to_stateless()
    rollout = env.rollout(6, tensordict=fresh(4), break_when_any_done=False).reshape(-1)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(24), batch_size=8)
    buffer.extend(rollout)
    sample = buffer.sample()
    again = env.step(sample.exclude("next"))
    for key in ("observation", "reward", ("world_state", "returns")):
        assert torch.equal(again["next"].get(key), sample["next"].get(key))


@pytest.mark.parametrize("batching", ["batched", "vmap"])
def test_any_dynamics_does(batching):
    def move(state, action):
        after = state + action
        return {"state": after, "observation": after, "reward": after[..., 0]}

    space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    dynamics = CallableDynamics(move, space, space, batching=batching, initial_state=torch.tensor([0.5]))
    env = TorchRLEnv.from_dynamics(dynamics, space, space, num_envs=2).to_stateless()
    td = env.reset(fresh(2, 2))
    pushes = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    for _ in range(2):
        after = env.step(td.copy().set("action", pushes))["next"]
        assert after["observation"].tolist() == [[[1.5], [2.5]], [[3.5], [4.5]]]
        further = env.step(after.exclude("reward").set("action", pushes))["next"]
        assert further["reward"].tolist() == [[[2.5], [4.5]], [[6.5], [8.5]]]
    with torch.no_grad():
        assert env.rollout(3, tensordict=fresh(3)).shape == (3, 3)


# -- gradients ------------------------------------------------------------------------------------------------


def test_gradients_of_rewards_reach_actions_and_states_through_time():
    """Of x' = 0.9 x + a + noise, paid x'[0]: d(r1 + r2 + r3)/da1 = 1 + 0.9 + 0.81, and 0.9 of that for the start."""
    env = walk_env(noise=0.05, seed=0).to_stateless()
    td = env.reset(fresh(2, 2))
    start = td["world_state", "dynamics", "x"].clone().requires_grad_()
    td["world_state", "dynamics", "x"] = start
    actions = torch.zeros(3, 2, 2, 1, requires_grad=True)
    total = 0.0
    for action in actions:
        td = env.step(td.set("action", action))["next"]
        total, td = total + td["reward"].sum(), td.exclude("reward")
    total.backward()
    expected = torch.tensor([2.71, 1.9, 1.0])[:, None, None, None].expand(3, 2, 2, 1)
    torch.testing.assert_close(actions.grad, expected)
    torch.testing.assert_close(start.grad[..., 0], torch.full((2, 2), 0.9 * 2.71))
    assert not start.grad[..., 1].any(), "nobody is paid for the second number"
    with torch.no_grad():
        assert not env.rand_step(td)["next", "reward"].requires_grad


def test_a_policy_learns_by_the_gradient_of_its_rollouts(pendulum):
    env = pendulum.to_torchrl_env(max_episode_steps=4, seed=0).to_stateless()
    torch.manual_seed(0)
    net = nn.Linear(3, 1)

    def act(td):
        return td.set("action", net(td["observation"]))

    rollout = env.rollout(8, act, tensordict=fresh(16), break_when_any_done=False)
    assert rollout["next", "done"].sum() == 32, "gradients pass over resets"
    rollout["next", "reward"].mean().backward()
    steepest = net.weight.grad.clone()
    assert torch.isfinite(steepest).all()
    assert steepest.abs().sum() > 0


# -- forks ----------------------------------------------------------------------------------------------------


def test_forks_start_equal_and_part(pendulum):
    env = pendulum.to_torchrl_env(exact_rows=True, seed=0).to_stateless()
    td = env.rollout(4, tensordict=fresh(2), break_when_any_done=False)[:, -1].exclude("next")
    kept = td.clone()
    many = td[:, None].expand(2, 5)
    forks = [env.fork(many), env.fork(many)]
    assert_same(td, kept)
    for fork in forks:
        assert_same(fork.exclude(("world_state", "seed")), many.exclude(("world_state", "seed")))
    seeds = torch.cat([fork["world_state", "seed"].flatten() for fork in forks] + [td["world_state", "seed"]])
    assert len(set(seeds.tolist())) == 22
    assert int(seeds.min()) >= 0
    futures = [env.step(fork.clone())["next", "observation"].reshape(10, 3) for fork in forks]
    real = env.step(td.clone())["next", "observation"]
    assert len({tuple(row.tolist()) for row in torch.cat([*futures, real])}) == 22, "noise of their own"
    same = env.step(env.fork(many, rng="same"))["next", "observation"]
    assert torch.equal(same, real[:, None].expand(2, 5, 3)), "and here the very noise of the future"
    env.set_seed(0)
    assert_same(env.fork(many), forks[0])
    with pytest.raises(ValueError, match="'fresh' or 'same'"):
        env.fork(td, rng="other")


def test_its_forks_are_the_engines(pendulum):
    """One rule for both: the n-th fork of the same states draws the same seeds."""
    vector = pendulum.to_vector_env(3, autoreset_mode="disabled", seed=4)
    vector.reset()
    env = vector.to_torchrl().to_stateless()
    td = TensorDict({"world_state": vector.state()}, batch_size=[3])[[2, 0, 2, 1]]
    for _ in range(2):
        assert torch.equal(env.fork(td)["world_state", "seed"], vector.engine.fork([2, 0, 2, 1]).state().seed)


# -- no host reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "one_hot"), [("CartPole-v1", True), ("Pendulum-v1", False)])
def test_nothing_is_read_on_the_host(name, one_hot):
    """On the meta device every host read raises."""
    world = WorldModel.bundled(name, device="meta")
    env = world.to_torchrl_env(8, max_episode_steps=5, seed=0, one_hot=one_hot).to_stateless()
    for batch in ((), (2, 4)):
        rollout = env.rollout(7, tensordict=TensorDict({}, batch, device="meta"), break_when_any_done=False)
        assert rollout.shape == (*batch, 7)
        assert rollout.device.type == "meta"
        forked = env.fork(rollout[..., 0].exclude("next"))
        assert env.step(env.reset(forked, set_state=True))["next", "reward"].shape == (*batch, 1)


# -- what does not fit ----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(cartpole, pendulum):
    env = cartpole.to_torchrl_env(seed=0).to_stateless()
    td = env.rand_action(env.reset(fresh(3)))
    with pytest.raises(KeyError, match=r"StatelessTorchRLEnv\.step needs 'world_state' in td, which has .*'action'"):
        env.step(td.exclude("world_state"))
    with pytest.raises(KeyError, match=r"reset needs 'world_state'.*expose_state"):
        env.reset(td.exclude("world_state"), set_state=True)
    with pytest.raises(KeyError, match=r"StatelessTorchRLEnv\.step: the TensorDict has no 'action'"):
        env.step(td.exclude("action"))
    with pytest.raises(ValueError, match=r"'action' must have shape \(3,\), got \(3, 1\)"):
        env.step(td.clone().set("action", torch.zeros(3, 1, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"must have shape \(1, 3\), got \(1, 3, 2\).*look one-hot"):
        env.step(td[None].clone().set("action", torch.zeros(1, 3, 2, dtype=torch.int64)))
    with pytest.raises(TypeError, match="must be whole numbers"):
        env.step(td.clone().set("action", torch.zeros(3)))
    other = pendulum.to_torchrl_env(seed=0).to_stateless()
    with pytest.raises(ValueError, match="another world"):
        env.step(other.reset(fresh(3)).set("action", td["action"]))
    with pytest.raises(ValueError, match="another world"):
        env.fork(other.reset())
    with pytest.raises(ValueError, match=r"another world: it has \['x'\], not \['dynamics'"):
        env.step(td.clone().set("world_state", TensorDict({"x": torch.zeros(3)}, [3])))
    with pytest.raises(ValueError, match="must be a TensorDict with the state, got Tensor"):
        env.step(td.clone().set("world_state", torch.zeros(3)))
    with pytest.raises(ValueError, match=r"of \(3,\) envs in a TensorDict of \(\)"):
        env.reset(TensorDict({"world_state": td["world_state"]}), set_state=True)
    with pytest.raises(ValueError, match=r"'_reset' must have shape \(3, 1\), got \(3, 2\)"):
        env._reset(td.clone().set("_reset", torch.ones(3, 2, dtype=torch.bool)))
    with pytest.raises(ValueError, match="cannot be moved to cuda"):
        env.to("cuda:0")
    vector = cartpole.to_vector_env(2)
    with pytest.raises(ValueError, match=r"StatelessTorchRLEnv needs .* autoreset_mode='disabled'"):
        StatelessTorchRLEnv(vector.engine, vector.single_observation_space, vector.single_action_space)


def test_one_hot_says_nothing_of_continuous_actions(pendulum):
    env = pendulum.to_torchrl_env(3, one_hot=True, seed=0)
    check_env_specs(env)
    check_env_specs(env.to_stateless())


def test_the_vector_environments_own_world_goes_on_there():
    vector = WorldModelVectorEnv(
        walk_engine(3, dynamics=Walk(0.1), autoreset_mode="disabled", seed=2, exact_rows=True), *WALK_SPACES
    )
    vector.reset()
    vector.step(vector.sample_actions())
    env = vector.to_torchrl().to_stateless()
    td = env.reset(TensorDict({"world_state": vector.state()}, batch_size=[3]), set_state=True)
    action = vector.sample_actions()
    after = env.step(td.set("action", action))["next"]
    observation, reward, *_ = vector.step(action)
    assert torch.equal(after["observation"], observation)
    assert torch.equal(after["reward"][:, 0], reward)
