"""CEM and MPPI in worlds whose best actions are known."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.modules.planners import CEMPlanner
from torchrl.objectives.value import TD0Estimator

from tests.plan.worlds import World, aim, env_of, gambler, trap
from wm_vec import WorldModel
from wm_vec.envs import WorldModelVectorEnv
from wm_vec.plan import CEM, MPPI
from wm_vec.plan.planning_env import PlanningEnv

PLANNERS = [CEM, MPPI]
PUSH = Box(-1.0, 1.0, (1,), np.float32)
SMALL = {"horizon": 4, "num_candidates": 256, "num_iterations": 4, "num_elites": 24}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def fresh(*batch):
    return TensorDict({}, batch_size=batch)


# -- continuous actions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_all_states_of_any_batch_are_planned_for_at_once(planner, batch):
    env = env_of(World(aim, torch.tanh, size=2), Box(-1.0, 1.0, (2,), np.float32)).to_stateless()
    td = env.reset(fresh(*batch))
    kept = td.clone()
    planned = planner(env, **SMALL)(td)
    assert planned is td, "a policy writes its action into what it is handed"
    torch.testing.assert_close(td["action"], td["observation"], rtol=0, atol=0.15)
    assert not td["action"].requires_grad
    assert (td.exclude("action") == kept).all()


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_search_begins_where_the_bounds_are(planner):
    """TorchRL's own begins at 0 plus minus 1, and does not get to where these actions pay in as many iterations."""
    low, high = np.array([50.0, -0.01], np.float32), np.array([150.0, 0.01], np.float32)
    best = torch.tensor([120.0, -0.004])

    def far(x, action, noise):
        return x, -((action - best) / torch.tensor([50.0, 0.01])).square().sum(-1), None

    env = env_of(World(far), Box(low, high)).to_stateless()
    action = planner(env, **SMALL)(env.reset())["action"]
    torch.testing.assert_close((action - best) / torch.tensor([50.0, 0.01]), torch.zeros(2), rtol=0, atol=0.1)
    theirs = CEMPlanner(env, 4, 4, 256, 24)(env.reset())["action"]
    assert theirs[0] < 60


def test_actions_without_bounds_and_of_several_axes():
    best = torch.tensor([[1.5, -0.5], [0.3, 2.0]])

    def matrix(x, action, noise):
        return x, -(action - best.flatten()).square().sum(-1), None

    low = np.array([[-np.inf, -np.inf], [-1.0, 0.0]], np.float32)
    high = np.array([[np.inf, np.inf], [1.0, np.inf]], np.float32)
    env = env_of(World(matrix), Box(low, high)).to_stateless()
    planned = CEM(env, horizon=2, num_candidates=512, num_iterations=8, num_elites=32)(env.reset(fresh(2)))["action"]
    assert planned.shape == (2, 2, 2)
    torch.testing.assert_close(planned, best.expand(2, 2, 2), rtol=0, atol=0.1)


def test_mppi_weighs_by_the_advantage_however_large_returns_are():
    """``exp`` of returns of a million overflows; TorchRL's weights would be NaN."""

    def rich(x, action, noise):
        return x, 1e6 - 10 * (action[:, 0] - 0.6).square(), None

    env = env_of(World(rich), PUSH).to_stateless()
    action = MPPI(env, **SMALL, temperature=0.5)(env.reset())["action"]
    torch.testing.assert_close(action, torch.tensor([0.6]), rtol=0, atol=0.15)


def test_mppi_takes_torchrls_value_estimators():
    """The value, not the reward, says where to go: the network values the place by what it observes."""

    def walk(x, action, noise):
        return x + action, torch.zeros(len(x)), None

    value = TensorDictModule(lambda place: -(place - 0.7).square(), in_keys=["observation"], out_keys=["state_value"])
    env = env_of(World(walk, torch.zeros_like), PUSH).to_stateless()
    estimator = TD0Estimator(gamma=1.0, value_network=value)
    planner = MPPI(env, **{**SMALL, "horizon": 1}, temperature=20.0, advantage_module=estimator)
    torch.testing.assert_close(planner(env.reset())["action"], torch.tensor([0.7]), rtol=0, atol=0.1)


# -- discrete actions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize(
    ("space", "best"),
    [(Discrete(6), [4]), (MultiDiscrete([3, 5]), [2, 1]), (MultiBinary(3), [1, 0, 1])],
)
def test_discrete_actions_by_index_and_one_hot(planner, one_hot, space, best):
    target = torch.tensor(best, dtype=torch.float32)

    def choose(x, action, noise):
        return x, (action == target).float().sum(-1), None

    env = env_of(World(choose), space, one_hot=one_hot).to_stateless()
    td = planner(env, **SMALL, **({"temperature": 5.0} if planner is MPPI else {}))(env.reset(fresh(3)))
    assert env.action_spec.expand(3, *env.action_spec.shape).is_in(td["action"])
    assert env.step(td)["next", "reward"].flatten().tolist() == [float(len(best))] * 3


def test_a_choice_that_pays_only_later():
    """Of two classes one costs now and pays later: the plan is more than the next step."""

    def invest(x, action, noise):
        kept = torch.cat([action, x[:, :2]], 1)  # the last three choices
        return kept, 3 * x[:, 2] - action[:, 0], None

    env = env_of(World(invest, torch.zeros_like, size=3), Discrete(2)).to_stateless()
    search = {"num_candidates": 128, "num_iterations": 4, "num_elites": 16}
    assert CEM(env, horizon=6, **search)(env.reset())["action"].item() == 1
    assert CEM(env, horizon=3, **search)(env.reset())["action"].item() == 0, "it never sees what that pays"


# -- noise ------------------------------------------------------------------------------------------------------


def score(env, planner, num_envs=64, steps=4):
    """The mean reward of a planner in the world itself."""
    return env.rollout(steps, planner, tensordict=fresh(num_envs))["next", "reward"].mean().item()


@pytest.mark.parametrize("planner", PLANNERS)
def test_no_planner_sees_the_noise_of_the_future(planner):
    """Of a mean of 256 rewards that nobody can foresee the deviation is at most 1 / 16."""
    env = env_of(World(gambler), PUSH).to_stateless()
    assert abs(score(env, planner(env, **SMALL))) < 0.25
    peeking = CEMPlanner(env, 4, 4, 256, 24)
    assert score(env, peeking) > 0.6, "TorchRL's own on the states themselves: the noise of every step is in the seed"


def test_candidates_and_calls_meet_noise_of_their_own():
    env = env_of(World(gambler), PUSH, exact_rows=True).to_stateless()
    td = env.reset(fresh(2))
    planning = PlanningEnv(env)

    def imagined():
        many = td.select("world_state")[:, None].expand(2, 50)
        rollout = planning.rollout(3, lambda here: here.set("action", torch.zeros(2, 50, 1)), many)
        assert "world_state" not in rollout.keys()  # noqa: SIM118
        assert rollout["next", "observation"].shape == (2, 50, 3, 1)
        return rollout["next", "observation"].flatten().tolist()

    real = env.rollout(actions=[torch.zeros(2, 1)] * 3, max_steps=3, tensordict=td, auto_reset=False)
    everything = [*imagined(), *imagined(), *real["next", "observation"].flatten().tolist()]
    assert len(set(everything)) == len(everything) == 606


def test_plans_repeat_with_torchs_seed_and_the_environments():
    env = env_of(World(gambler), PUSH).to_stateless()
    planner = CEM(env, **SMALL)

    def acted():
        env.set_seed(3)
        torch.manual_seed(3)
        return env.rollout(3, planner, tensordict=fresh(4))["action"]

    assert torch.equal(acted(), acted())


# -- the ends of episodes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", PLANNERS)
def test_rewards_after_the_end_do_not_count(planner):
    env = env_of(World(trap, lambda noise: 0.8 + 0 * noise), PUSH).to_stateless()
    search = {**SMALL, "horizon": 5}
    rollout = env.rollout(6, planner(env, **search), tensordict=fresh(4))
    assert not rollout["next", "done"].any()
    lured = env.rollout(
        actions=[torch.full((4, 1), 0.5)] * 3, max_steps=3, tensordict=fresh(4), break_when_any_done=True
    )
    assert lured.shape == (4, 1), "over the edge in one step"
    beyond = lured[:, -1]["next"].exclude("reward").set("action", torch.zeros(4, 1))
    assert env.step(beyond)["next", "reward"].min() > 99, "where the bait is"


# -- as a policy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", PLANNERS)
def test_it_is_a_policy_of_both_environments_and_of_collectors(planner):
    stateful = env_of(World(aim, torch.tanh), PUSH, num_envs=3, max_episode_steps=2)
    policy = planner(stateful, **SMALL)
    assert policy.out_keys == ["action"]
    assert all(key[0] == "world_state" for key in policy.in_keys)
    rollouts = [
        stateful.rollout(4, policy, break_when_any_done=False),
        stateful.to_stateless().rollout(4, policy, tensordict=fresh(3), break_when_any_done=False),
    ]
    collector = Collector(stateful, policy, frames_per_batch=12, total_frames=12, auto_register_policy_transforms=False)
    rollouts += list(collector)
    collector.shutdown()
    for rollout in rollouts:
        assert rollout.shape == (3, 4)
        assert rollout["next", "done"].sum() == 6
        torch.testing.assert_close(rollout["action"], rollout["observation"], rtol=0, atol=0.15)


def test_from_the_state_of_a_gymnasium_vector_environment():
    world = World(aim, torch.tanh)
    vector = WorldModelVectorEnv.from_dynamics(world, Box(-9, 9, (1,), np.float32), PUSH, num_envs=5, seed=1)
    observation, _ = vector.reset()
    planner = CEM(vector.to_torchrl(), **SMALL)
    for _ in range(2):
        td = planner(TensorDict({"world_state": vector.state()}, batch_size=[5]))
        torch.testing.assert_close(td["action"], observation, rtol=0, atol=0.15)
        observation, reward, *_ = vector.step(td["action"])
        assert reward.min() > -0.03


def test_thousands_of_candidates():
    env = env_of(World(aim, torch.tanh), PUSH).to_stateless()
    planner = CEM(env, horizon=3, num_candidates=8192, num_iterations=3, num_elites=64)
    td = planner(env.reset(fresh(2)))
    torch.testing.assert_close(td["action"], td["observation"], rtol=0, atol=0.05)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_nothing_is_read_on_the_host(planner, name):
    """On the meta device every host read raises."""
    env = WorldModel.bundled(name, device="meta").to_torchrl_env(4, seed=0).to_stateless()
    small = {"horizon": 2, "num_candidates": 4, "num_iterations": 1, "num_elites": 2}
    td = env.reset(TensorDict({}, [2], device="meta"))
    action = planner(env, **small)(td)["action"]
    assert action.device.type == "meta"
    assert action.shape == (2, *env.action_spec.shape)


# -- what does not fit ------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(cartpole):
    env = env_of(World(aim), PUSH, num_envs=2, expose_state=False)
    planner = CEM(env, **SMALL)
    with pytest.raises(KeyError, match=r"needs 'world_state' in td, which has \['done', .*expose_state=True"):
        env.rollout(2, planner)
    with pytest.raises(ValueError, match="another world"):
        planner(cartpole.to_torchrl_env(2, expose_state=True, seed=0).reset())
    with pytest.raises(TypeError, match=r"MPPI plans in a StatelessTorchRLEnv.*got WorldModelVectorEnv.*to_torchrl"):
        MPPI(cartpole.to_vector_env(2))
    for wrong, message in (
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"num_iterations": 1.5}, "num_iterations must be a whole number"),
        ({"num_elites": 1}, "num_elites must be a whole number of at least 2, got 1"),
        ({"num_elites": 257}, "num_elites must lie between"),
    ):
        with pytest.raises(ValueError, match=message):
            CEM(env, **{**SMALL, **wrong})
    with pytest.raises(ValueError, match="temperature must be a number from 1e-30"):
        MPPI(env, temperature=0.0)
    assert isinstance(planner.env.env.action_space, gym.spaces.Box)
