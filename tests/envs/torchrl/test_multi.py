"""The TorchRL face of several agents: TorchRL's own checks, groups, and the numbers of the other faces."""

from copy import deepcopy

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import RewardSum, SerialEnv, TransformedEnv
from torchrl.envs.utils import MarlGroupMapType, check_env_specs, check_marl_grouping

from tests.envs.agents import AGENTS, capital, world
from wm_vec import AgentSpec

ALIKE = {
    "north": AgentSpec(
        ["firm.growth"],
        ["firm.capital"],
        lambda obs, act, info: obs["firm.growth"].sum(),
        lambda obs, step, info: step >= 2,
    ),
    "south": AgentSpec(["regime"], ["regime"], lambda obs, act, info: obs["regime"].sum() + act.sum(), act_high=2.0),
}
MIXED = {**AGENTS, "clerk": capital("person.mood")}
PER_AGENT, ALL_IN_ONE = MarlGroupMapType.ONE_GROUP_PER_AGENT, MarlGroupMapType.ALL_IN_ONE_GROUP


def env_of(agents=ALIKE, group_map=ALL_IN_ONE, num_envs=3, **options):
    settings = {"max_episode_steps": 5, "seed": 0, "combine": "last", **options}
    return world().to_multi_torchrl_env(agents, num_envs, group_map, **settings)


@pytest.mark.parametrize(
    ("agents", "group_map"),
    [
        (ALIKE, ALL_IN_ONE),
        (ALIKE, PER_AGENT),
        (ALIKE, {"team": ["south", "north"]}),
        (MIXED, None),
        (
            {**MIXED, **ALIKE},
            {"a": ["clerk"], "b": ["south", "north"], "c": ["employee"], "d": ["ceo"], "e": ["state"]},
        ),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_torchrls_checks_pass(agents, group_map, num_envs):
    env = env_of(agents, group_map, num_envs)
    check_marl_grouping(env.group_map, [*agents])
    check_env_specs(env, break_when_any_done="both")
    for group, names in env.group_map.items():
        assert env.full_action_spec[group, "action"].shape[:2] == (num_envs, len(names))
        assert env.full_reward_spec[group, "reward"].shape == (num_envs, len(names), 1)


@pytest.mark.parametrize("group_map", [ALL_IN_ONE, PER_AGENT, {"team": ["south", "north"]}])
def test_the_numbers_are_those_of_the_other_faces(group_map):
    env = env_of(group_map=group_map)
    many = world().to_multi_vector_env(ALIKE, 3, max_steps=5)
    env.set_seed(4)
    rollout = env.rollout(12, break_when_any_done=False)
    first = many.reset(seed=4)
    place = {name: (group, names.index(name)) for group, names in env.group_map.items() for name in names}

    def shown(td, name, key):
        group, column = place[name]
        return td[group, key][:, column]

    for td in rollout.unbind(1):
        for name in ALIKE:
            assert torch.equal(shown(td, name, "observation"), first[name, "observation"])
            assert torch.equal(~shown(td, name, "done")[:, 0], first[name, "active"])
        first = many.step({name: shown(td, name, "action") for name in ALIKE})
        assert torch.equal(td["next", "done"][:, 0], first["finished"])
        for name in ALIKE:
            assert torch.equal(shown(td["next"], name, "observation"), first[name, "final_observation"])
            for key in ("reward", "terminated", "truncated"):
                assert torch.equal(shown(td["next"], name, key)[:, 0], first[name, key])
    assert rollout["next", "done"].sum(1).tolist() == [[2]] * 3
    assert rollout["next", *place["north"][:1], "terminated"].any()


def test_the_same_seed_gives_the_same_rollout_random_actions_included():
    rollouts = []
    for seed in (3, 3, 4):
        env = env_of(seed=None)
        assert env.set_seed(seed) == seed + 3
        rollouts.append(env.rollout(9, break_when_any_done=False))
    assert (rollouts[0] == rollouts[1]).all()
    assert not torch.equal(rollouts[0]["agents", "observation"], rollouts[2]["agents", "observation"])
    action = rollouts[0]["agents", "action"]
    assert action[:, :, 0].abs().max() <= 1.0
    assert 1.0 < action[:, :, 1].max() <= 2.0


def test_a_collector_runs_over_it():
    collector = Collector(env_of(num_envs=4), None, frames_per_batch=40, total_frames=80)
    batches = [batch.clone() for batch in collector]
    collector.shutdown()
    assert [batch.shape for batch in batches] == [torch.Size([4, 10])] * 2
    for batch in batches:
        assert batch["next", "done"].sum(1).tolist() == [[2]] * 4
        ended = batch["next", "done"][:, :-1, 0]
        assert not batch["agents", "done"][:, 1:][ended].any()
        assert torch.equal(batch["agents", "done"][:, 1:][~ended], batch["next", "agents", "done"][:, :-1][~ended])


@pytest.mark.parametrize("group_map", [ALL_IN_ONE, PER_AGENT])
def test_torchrls_transforms_add_up_an_episodes_rewards(group_map):
    base = env_of(group_map=group_map)
    keys = [(group, "reward") for group in base.group_map]
    env = TransformedEnv(base, RewardSum(keys, [(group, "episode_reward") for group in base.group_map]))
    following = env.rollout(10, break_when_any_done=False)["next"]
    for group in base.group_map:
        for end in (4, 9):  # the last step of each episode of five
            total = following[group, "reward"][:, end - 4 : end + 1].sum(1)
            torch.testing.assert_close(following[group, "episode_reward"][:, end], total)
    assert SerialEnv(2, env_of).rollout(7, break_when_any_done=False).shape == (2, 3, 7)


def test_a_partial_reset_by_the_mask_at_the_root():
    env = env_of()
    env.rollout(2, break_when_any_done=False)
    before = env.engine.state()
    mask = torch.tensor([[False], [True], [False]])
    env.reset(TensorDict({"_reset": mask}, batch_size=[3]))
    after = env.engine.state()
    assert after.elapsed.tolist() == [2, 0, 2]
    assert torch.equal(after.dynamics["values"][[0, 2]], before.dynamics["values"][[0, 2]])
    with pytest.raises(ValueError, match=r"shape \(3, 1\)"):
        env.reset(TensorDict({"_reset": torch.ones(3, 2, dtype=torch.bool)}, batch_size=[3]))


def test_a_step_reads_nothing_on_the_host():
    env = deepcopy(world()).to("meta").to_multi_torchrl_env(ALIKE, 3, ALL_IN_ONE, max_episode_steps=5, seed=0)
    td = env.reset()
    for _ in range(2):
        _, td = env.step_and_maybe_reset(env.rand_action(td))
    assert td["agents", "observation"].shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("agents", "group_map", "error", "words"),
    [
        (MIXED, ALL_IN_ONE, ValueError, "they see or do different things"),
        (ALIKE, {"a": ["north"]}, ValueError, "south wasn't found"),
        (ALIKE, {"a": ["north", "south"], "b": ["north"]}, ValueError, "more than once"),
        (ALIKE, {"a": ["north", "south", "east"]}, ValueError, "east"),
        (ALIKE, {"next": ["north", "south"]}, ValueError, "'next' can be no group's name"),
        (ALIKE, ["north", "south"], TypeError, "group_map must be"),
        (ALIKE, {"a": "north"}, TypeError, "group_map must be"),
    ],
)
def test_groups_that_cannot_be_are_refused(agents, group_map, error, words):
    with pytest.raises(error, match=words):
        env_of(agents, group_map)


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [(None, KeyError, "has no"), (torch.zeros(3, 1, 2), ValueError, r"must have shape \(3, 2, 2\), got \(3, 1, 2\)")],
)
def test_actions_that_do_not_fit_say_so(action, error, words):
    env = env_of()
    td = env.reset()
    if action is not None:
        td = td.exclude("agents").set("agents", TensorDict({"action": action}, batch_size=[3]))
    with pytest.raises(error, match=words):
        env.step(td)
