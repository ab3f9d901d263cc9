"""Imagination through the TorchRL face: a collector's rollout, and gradients that end where episodes do."""

from __future__ import annotations

import gc

import gymnasium as gym
import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import A2CLoss, ClipPPOLoss
from torchrl.objectives.value import GAE, TDLambdaEstimator
from torchrl.objectives.value.functional import vec_td_lambda_return_estimate

from tests.envs.torchrl.test_env import plane_env
from wm_vec.adapters import CallableDynamics
from wm_vec.envs import TorchRLEnv

LINE = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
PUSH = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)


class Line(nn.Module):
    """x' = x / 2 + a, paid x'; beyond 4 the episode ends."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.5))

    def forward(self, state, action):
        after = self.decay * state + action
        return {"state": after, "observation": after, "reward": after[:, 0], "terminated": after[:, 0] > 4.0}


def line_env(num_envs=1, start=1.0, world=None, **options):
    dynamics = CallableDynamics(
        world or Line().requires_grad_(False),
        LINE,
        PUSH,
        transition_fn=lambda model, state, action: model(state, action),
        initial_state=torch.tensor([[start]]),
        initial_observation=torch.tensor([[start]]),
    )
    env = TorchRLEnv.from_dynamics(dynamics, LINE, PUSH, num_envs=num_envs, seed=0, **options)
    env.reset()
    return env


def reading(actions):
    """A policy that takes its actions from ``(B, T)``, one column after another."""
    columns = iter(actions.unbind(1))
    return lambda observation: next(columns)[:, None]


def lean(observation):
    return (observation[:, 2] > 0).long()


def lean_hot(observation):
    return nn.functional.one_hot(lean(observation), 2).bool()


def steer(observation):
    return 2 * torch.tanh(observation[:, :1] - observation[:, 2:])


def climb(eye, place):
    """Of a Dict of observations, in the spec's order."""
    return torch.tanh(place + eye["image"].float().mean((1, 2, 3))[:, None])


# -- the rollout --------------------------------------------------------------------------------------------


def envs_and_policies(cartpole, pendulum):
    return {
        "classes": (lambda: cartpole.to_torchrl_env(5, max_episode_steps=12, seed=3), lean),
        "one-hot": (lambda: cartpole.to_torchrl_env(5, max_episode_steps=12, one_hot=True, seed=3), lean_hot),
        "learned": (lambda: pendulum.to_torchrl_env(3, max_episode_steps=7, seed=3), steer),
        "state": (lambda: pendulum.to_torchrl_env(3, max_episode_steps=7, expose_state=True, seed=3), None),
        "exact": (lambda: pendulum.to_torchrl_env(3, max_episode_steps=7, exact_rows=True, seed=3), steer),
        "tree": (lambda: plane_env("box", 4, seed=3), climb),
    }


@pytest.mark.parametrize("name", ["classes", "one-hot", "learned", "state", "exact", "tree"])
def test_it_is_the_rollout_of_the_same_policy_number_for_number(name, cartpole, pendulum):
    """Episodes end in its last step too: three imaginations of seven steps are one rollout of twenty-one."""
    make, policy = envs_and_policies(cartpole, pendulum)[name]
    policy = policy or TensorDictModule(steer, ["observation"], ["action"])
    env = make()
    env.reset()
    imagined = torch.cat([env.imagine(policy, 7) for _ in range(3)], 1)
    rolled = make().rollout(21, policy, break_when_any_done=False)
    assert set(imagined.keys(True, True)) == set(rolled.keys(True, True))
    assert (imagined == rolled).all()
    assert imagined.shape == rolled.shape == (*env.batch_size, 21)
    assert int(rolled["next", "done"].sum()) >= 3
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in imagined.values(True, True))


def test_its_layout_is_a_collectors(cartpole):
    def env():
        return cartpole.to_torchrl_env(4, max_episode_steps=5, one_hot=True, seed=0)

    policy = TensorDictModule(lean_hot, ["observation"], ["action"])
    collector = Collector(env(), policy, frames_per_batch=4 * 12, total_frames=4 * 12, track_traj_ids=False)
    (batch,) = list(collector)
    collector.shutdown()
    own = env()
    own.reset()
    imagined = own.imagine(policy, 12)

    def layout(td):
        return {key: (tuple(td[key].shape), td[key].dtype) for key in td.keys(True, True)}

    assert layout(imagined) == layout(batch)
    assert imagined.names == batch.names


@pytest.mark.parametrize("name", ["learned", "tree"])
def test_with_a_graph_the_numbers_are_the_same(name, cartpole, pendulum):
    make, policy = envs_and_policies(cartpole, pendulum)[name]
    rollouts, states = [], []
    for grad in (False, True):
        env = make()
        env.reset()
        rollouts.append(env.imagine(policy, 9, grad))
        states.append(env.engine.state())
    for key, tensor in rollouts[0].items(True, True):
        torch.testing.assert_close(rollouts[1][key], tensor, rtol=1e-5, atol=1e-5)
    assert states[0].elapsed.tolist() == states[1].elapsed.tolist()


def test_it_reads_nothing_on_the_host(pendulum):
    """On the meta device every host read raises."""
    env = type(pendulum).bundled("Pendulum-v1", device="meta").to_torchrl_env(8, max_episode_steps=3, seed=0)
    env._reset()
    for grad in (False, True):
        rollout = env.imagine(steer, 5, grad)
        assert rollout["next", "reward"].shape == (8, 5, 1)
        assert rollout.device.type == "meta"


@pytest.mark.parametrize("grad", [False, True])
def test_an_error_on_the_way_leaves_the_envs_where_they_were(pendulum, grad):
    env, untouched = (pendulum.to_torchrl_env(3, max_episode_steps=2, seed=0) for _ in range(2))
    with pytest.raises(RuntimeError, match=r"imagine: call reset\(\) first"):
        env.imagine(steer, 2, grad)
    env.reset(), untouched.reset()
    before = env.engine.state()
    calls = iter(range(3))
    with pytest.raises(StopIteration):
        env.imagine(lambda observation: steer(observation) + next(calls), 5, grad)
    with pytest.raises(ValueError, match="whole number of at least 1, got 0"):
        env.imagine(steer, 0, grad)
    after = env.engine.state()
    assert (after == before).all()
    assert not any(t.requires_grad for t in after.to_tensordict().values(True, True))
    assert torch.is_grad_enabled()
    assert (env.imagine(steer, 5) == untouched.imagine(steer, 5)).all(), "the noise to come included"


# -- gradients ----------------------------------------------------------------------------------------------


def jacobian(rewards, actions):
    """``(T, T)`` of one env: how the reward of step i answers to the action of step j."""
    rows = [torch.autograd.grad(reward, actions, retain_graph=True)[0][0] for reward in rewards]
    return torch.stack(rows)


@pytest.mark.parametrize("ending", ["none", "truncated", "terminated"])
def test_gradients_by_hand(ending):
    """x' = x / 2 + a from 1, paid x': rewards 0.5 + a0, 0.25 + a0 / 2 + a1, ...; d r_i / d a_j = 2^-(i-j) for j <= i.

    An episode that ends with step 1 cuts that off: what follows starts from 1 again, whatever was done before.
    """
    env = line_env(max_episode_steps=2 if ending == "truncated" else None)
    pushes = [1.0, 5.0 if ending == "terminated" else 2.0, -1.0, 0.5]
    actions = torch.tensor([pushes], requires_grad=True)
    rollout = env.imagine(reading(actions), 4, grad=True)
    reward = rollout["next", "reward"].flatten()
    places = [1.0]
    for t, push in enumerate(pushes):
        places.append((1.0 if ending != "none" and t == 2 else places[-1]) / 2 + push)
    assert reward.tolist() == places[1:]
    whole = [[1, 0, 0, 0], [1 / 2, 1, 0, 0], [1 / 4, 1 / 2, 1, 0], [1 / 8, 1 / 4, 1 / 2, 1]]
    cut = [[1, 0, 0, 0], [1 / 2, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1 / 2, 1]]
    assert jacobian(reward, actions).tolist() == (whole if ending == "none" else cut)
    ends = [False, ending != "none", False, ending == "truncated"]
    assert rollout["next", "done"].flatten().tolist() == ends
    root = [1.0, places[1], places[2] if ending == "none" else 1.0, places[3]]
    assert rollout["observation"].flatten().tolist() == root, "after an end the root is the fresh episode's"
    assert not rollout["done"].any()


def test_one_rows_end_leaves_the_others_gradients_alone():
    env = line_env(2)
    actions = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    rollout = env.imagine(reading(actions), 3, grad=True)
    assert rollout["next", "terminated"][..., 0].tolist() == [[True, False, False], [False] * 3]
    (gradient,) = torch.autograd.grad(rollout["next", "reward"].sum(), actions)
    assert gradient.tolist() == [[1.0, 1.5, 1.0], [1.75, 1.5, 1.0]]


def test_no_gradient_crosses_from_one_imagination_into_the_next():
    env = line_env()
    first = torch.zeros(1, 2, requires_grad=True)
    env.imagine(reading(first), 2, grad=True)
    assert not any(t.requires_grad for t in env.engine.state().to_tensordict().values(True, True))
    second = torch.zeros(1, 2, requires_grad=True)
    reward = env.imagine(reading(second), 2, grad=True)["next", "reward"].sum()
    given = torch.autograd.grad(reward, (first, second), allow_unused=True)
    assert given[0] is None
    assert given[1].tolist() == [[1.5, 1.0]]
    pushed = env.step(env.reset().set("action", torch.zeros(1, 1, requires_grad=True)))
    assert not pushed["next", "observation"].requires_grad, "steps outside keep none"


def test_a_frozen_world_collects_no_gradients_and_another_does():
    """From 1 without a push: rewards h, h^2, so d(h + h^2) / dh = 1 + 2h = 2."""
    for frozen in (True, False):
        world = Line().requires_grad_(not frozen)
        actions = torch.zeros(1, 2, requires_grad=True)
        line_env(world=world).imagine(reading(actions), 2, grad=True)["next", "reward"].sum().backward()
        assert actions.grad.tolist() == [[1.5, 1.0]]
        assert world.decay.grad is None if frozen else float(world.decay.grad) == 2.0


def test_the_weights_of_a_learned_world_stay_out_of_the_graph(pendulum):
    env = pendulum.to_torchrl_env(4, seed=0)
    env.reset()
    gain = torch.tensor([[0.1], [0.2], [0.3]], requires_grad=True)
    env.imagine(lambda observation: observation @ gain, 3, grad=True)["next", "reward"].sum().backward()
    assert float(gain.grad.abs().min()) > 0
    assert all(parameter.grad is None for parameter in pendulum.model.parameters())


# -- TorchRL's losses and estimators --------------------------------------------------------------------------


class Place(nn.Module):
    """A critic by which a place is worth what it says."""

    def forward(self, observation):
        return observation


def test_lambda_returns_by_hand_and_their_gradient():
    """Discount 1/2, lambda 1/2; the places are 2, 3, then from the start 1 again 0.5 and 1.25; the world ends at 3.

    Truncated there, step 1 is worth 3 + 3/2 = 4.5. Step 0: 2 + 1/2 (1/2 * 2 + 1/2 * 4.5) = 3.625. The last: 1.25 *
    1.5 = 1.875; step 2: 0.5 + 1/2 (0.25 + 0.9375) = 1.09375.
    G1 = 1.5 x2, x2 = x1 / 2 + a1; G0 = x1 + x1 / 4 + G1 / 4. dG0/da0 = 1.25 + 1.5/2/4 = 1.4375, dG0/da1 = 1.5/4.
    """
    env = line_env(max_episode_steps=2)
    actions = torch.tensor([[1.5, 2.0, 0.0, 1.0]], requires_grad=True)
    rollout = env.imagine(reading(actions), 4, grad=True)
    after = rollout["next"]
    assert after["reward"].flatten().tolist() == [2.0, 3.0, 0.5, 1.25]
    critic = ValueOperator(Place(), in_keys=["observation"])
    estimator = TDLambdaEstimator(gamma=0.5, lmbda=0.5, value_network=critic, differentiable=True)
    ends = after["reward"], after["done"], after["terminated"]
    for returns in (
        estimator.value_estimate(rollout),
        vec_td_lambda_return_estimate(0.5, 0.5, after["observation"], *ends),
    ):
        torch.testing.assert_close(returns.flatten(), torch.tensor([3.625, 4.5, 1.09375, 1.875]))
        gradient = jacobian(returns.flatten(), actions)
        assert gradient[0].tolist() == [1.4375, 0.375, 0.0, 0.0]
        assert gradient[1].tolist() == [0.75, 1.5, 0.0, 0.0]
        assert gradient[2:, :2].abs().max() == 0


@pytest.mark.parametrize("loss_class", [ClipPPOLoss, A2CLoss])
def test_torchrls_losses_take_it_as_it_is(pendulum, loss_class):
    torch.manual_seed(0)
    env = pendulum.to_torchrl_env(6, max_episode_steps=5, seed=0)
    env.reset()

    class Split(nn.Linear):
        def forward(self, observation):
            loc, scale = super().forward(observation).chunk(2, -1)
            return loc, nn.functional.softplus(scale)

    actor = ProbabilisticActor(
        TensorDictModule(Split(3, 2), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=env.action_spec_unbatched,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -2.0, "high": 2.0},
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Linear(3, 1), in_keys=["observation"])
    rollout = env.imagine(actor, 8)
    GAE(gamma=0.99, lmbda=0.95, value_network=critic)(rollout)
    assert rollout["advantage"].shape == (6, 8, 1)
    losses = loss_class(actor, critic)(rollout)
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    assert all(parameter.grad is not None for parameter in (*actor.parameters(), *critic.parameters()))


def test_iterations_leave_nothing_behind(pendulum):
    """After four more iterations as many tensors live as after one."""
    env = pendulum.to_torchrl_env(4, max_episode_steps=5, seed=0)
    env.reset()
    actor = nn.Linear(3, 1)

    def alive(iterations):
        for _ in range(iterations):
            env.imagine(actor, 4, grad=True)["next", "reward"].mean().backward()
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    alive(2)
    assert alive(1) == alive(4)
