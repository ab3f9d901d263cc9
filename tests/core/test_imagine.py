"""Policy and world in one call: the layout, the values, and the gradients."""

import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn

from tests.core.walk import BOX, Walk, constant, seen, started, walk_engine
from wm_vec import WorldModel
from wm_vec.canvas import Field
from wm_vec.core import Perspective


def policy(observation):
    return torch.tanh(observation[:, :1] * 3)


@pytest.mark.parametrize("mode", ["same_step", "disabled"])  # NEXT_STEP: tests/core/test_imagine_whole.py
def test_imagining_is_stepping_by_hand(mode):
    imagined, stepped = (walk_engine(5, autoreset_mode=mode, max_episode_steps=4, seed=0) for _ in range(2))
    imagined.reset(), stepped.reset()
    rollout = imagined.imagine(policy, 9)
    observation = stepped.predictions().clone()
    assert rollout.batch_size == (5, 9)
    for t in range(9):
        assert torch.equal(rollout["observation"][:, t], observation)
        action = policy(observation)
        assert torch.equal(rollout["action"][:, t], action)
        result = stepped.step(action)
        following = rollout["next"][:, t]
        assert torch.equal(following["observation"], seen(result.final_observation))
        assert torch.equal(following["reward"], result.reward)
        assert torch.equal(following["terminated"], result.terminated)
        assert torch.equal(following["truncated"][:, 0], result.truncated)
        assert torch.equal(following["done"], result.terminated | result.truncated[:, None])
        observation = seen(result.observation)
    assert bool((imagined.state() == stepped.state()).all()), "the engine goes on where imagination ended"


def test_layout():
    engine = started(3)
    rollout = engine.imagine(policy, 4)
    shapes = {str(key): (tuple(rollout[key].shape), rollout[key].dtype) for key in rollout.keys(True, True)}
    flag = ((3, 4, 1), torch.bool)
    assert shapes == {
        "observation": ((3, 4, 2), torch.float32),
        "action": ((3, 4, 1), torch.float32),
        "('next', 'observation')": ((3, 4, 2), torch.float32),
        "('next', 'reward')": ((3, 4, 1), torch.float32),
        "('next', 'terminated')": flag,
        "('next', 'truncated')": flag,
        "('next', 'done')": flag,
    }


def test_tensordict_policies_keep_what_they_add():
    engine = started(3)
    actor = TensorDictModule(nn.Linear(2, 1), in_keys=["observation"], out_keys=["action"])
    scored = nn.Sequential(nn.Linear(2, 1))
    both = TensorDictModule(scored, in_keys=["observation"], out_keys=["value"])
    from tensordict.nn import TensorDictSequential

    rollout = engine.imagine(TensorDictSequential(actor, both), 4)
    torch.testing.assert_close(rollout["value"], scored(rollout["observation"]).detach())


def test_without_grad_nothing_is_kept_and_anybody_can_train_on_it():
    engine = started(3)
    actor = nn.Linear(2, 1)
    rollout = engine.imagine(actor, 4)
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in rollout.values(True, True))
    nn.functional.mse_loss(actor(rollout["observation"]), rollout["action"] + 1).backward()
    assert actor.weight.grad is not None


def test_after_grad_the_engine_holds_no_graph():
    engine = started(3)
    actor = nn.Linear(2, 1)
    rollout = engine.imagine(actor, 3, grad=True)
    assert rollout["next", "reward"].requires_grad
    state = engine.state()
    assert not any(t.requires_grad for t in state.to_tensordict().values(True, True))
    assert not seen(engine.step(torch.zeros(3, 1)).observation).requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((policy, 0), ValueError, "horizon must be a whole number of at least 1, got 0"),
        ((lambda o: o, 1), ValueError, r"must have shape \(3, 1\), got \(3, 2\)"),
        ((lambda o: None, 1), TypeError, "torch tensor"),
    ],
)
def test_bad_imagination(arguments, error, message):
    engine = started(3)
    before = engine.state()
    with pytest.raises(error, match=message):
        engine.imagine(*arguments)
    assert bool((engine.state() == before).all())


# -- gradients ----------------------------------------------------------------------------------------------


def restless_world():
    """A small float64 canvas world with random weights, loud enough to respond to actions."""
    world = WorldModel(
        {"x": Field(w=2), "push": Field(is_output=False), "reward": Field(is_input=False)}, dtype=torch.float64
    )
    world.trained = True
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.05)
        world.model.codec.step_std.fill_(0.3)
    return world


def view(reward_fn=None, **more):
    return Perspective(BOX, obs_index=torch.tensor([0, 1]), obs_fields={"x": slice(0, 2)}, reward_fn=reward_fn, **more)


def total_reward(engine, start, weights, horizon=4):
    """The sum of imagined rewards as a function of the policy's parameters (3,)."""
    engine.set_state(start)
    rollout = engine.imagine(lambda o: torch.tanh(o @ weights[:2] + weights[2])[:, None], horizon, grad=True)
    return rollout["next", "reward"].sum()


REWARDS = {
    "vmap": lambda obs, act, info: -(obs["x"] ** 2).sum() - 0.1 * (act**2).sum() + info["step"] * obs["x"][0],
    "of predictions": lambda obs, act, info: info["predictions"]["reward"].mean(),
}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("exact_rows", [False, True])
def test_gradients_agree_with_finite_differences(reward, exact_rows):
    world = restless_world()
    fields = {path: slice(i, i + n) for path, i, n in (("x", 0, 2), ("push", 2, 1), ("reward", 3, 1))}
    engine = world.to_engine(3, [view(REWARDS[reward], all_fields=fields)], act_fields=["push"], exact_rows=exact_rows)
    engine.reset(seed=0)
    start = engine.state()
    weights = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(total_reward(engine, start, weights), weights)
    assert float(gradient.abs().min()) > 1e-4, "the world must respond for this to say anything"
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-6
        with torch.no_grad():
            up, down = (total_reward(engine, start, weights.detach() + s * step) for s in (1, -1))
        assert float((up - down) / 2e-6) == pytest.approx(float(gradient[i]), rel=1e-5, abs=1e-7)


def test_gradients_flow_through_carried_reward_states_and_across_resets():
    def change(obs, act, info, last):
        return obs["observation"][0] - last, obs["observation"][0]

    engine = walk_engine(
        2,
        [Perspective(BOX, reward_fn=change, reward_state=torch.tensor(0.0))],
        Walk(dtype=torch.float64),
        max_episode_steps=3,
    )
    engine.reset(seed=0)
    start = engine.state()
    weights = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: total_reward(engine, start, w, 5), (weights,))


def test_gradients_of_the_walk_by_hand():
    # x' = 0.9 x + a with reward x': d(r1 + r2) / d a1 = 1 + 0.9, / d a2 = 1.
    engine = started(1, dynamics=Walk(noise=0.0))
    actions = torch.tensor([0.1, 0.2], requires_grad=True)
    steps = iter(actions)
    rollout = engine.imagine(lambda o: next(steps).view(1, 1), 2, grad=True)
    rollout["next", "reward"].sum().backward()
    torch.testing.assert_close(actions.grad, torch.tensor([1.9, 1.0]))


def test_steps_that_keep_the_graph_and_a_fork_of_them_that_does_not():
    engine = walk_engine(1, dynamics=Walk(noise=0.0), autoreset_mode="disabled")
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"), engine.keep_graph():
        pass
    engine.reset(seed=0)
    actions = torch.tensor([[[0.1]], [[0.2]]], requires_grad=True)
    with engine.keep_graph():
        rewards = torch.cat([engine.step(action).reward for action in actions])
        forked = engine.fork([0])
    (gradient,) = torch.autograd.grad(rewards.sum(), actions)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.9, 1.0]))
    assert not engine.step(actions[0]).reward.requires_grad
    assert not forked.step(actions[0]).reward.requires_grad
    with engine.keep_graph(grad=False):
        assert not engine.step(actions[0]).reward.requires_grad
        assert not (actions * 2).requires_grad


def test_an_error_inside_leaves_the_state_as_it_was():
    one, two = (started(512, seed=3, max_episode_steps=1, dynamics=Walk(noise=0.0)) for _ in range(2))

    def fail_after_many_episodes():
        for _ in range(12):
            one.step(constant(one))
        raise KeyError

    with pytest.raises(KeyError), one.keep_graph():
        fail_after_many_episodes()
    for _ in range(8):
        assert torch.equal(seen(one.step(constant(one)).observation), seen(two.step(constant(two)).observation))


def test_a_graph_is_kept_once_and_not_against_no_grad():
    engine = walk_engine(2, seed=0)
    engine.reset()
    push = constant(engine).requires_grad_()
    with engine.keep_graph():
        with pytest.raises(RuntimeError, match="inside such a block already"), engine.keep_graph():
            pass
        with torch.no_grad():
            assert not engine.step(push).reward.requires_grad
        assert seen(engine.step(push).observation).requires_grad
    assert not seen(engine.step(push).observation).requires_grad


def test_a_step_that_fails_without_gradients_leaves_the_graph_as_it_was():
    fail = [False]

    class Failing(Walk):
        def step(self, state, action, rng):
            if fail[0]:
                raise OSError("mine")
            return super().step(state, action, rng)

    engine = walk_engine(1, dynamics=Failing(noise=0.0), autoreset_mode="disabled", seed=0)
    engine.reset()
    push = constant(engine).requires_grad_()
    with engine.keep_graph():
        engine.step(push)
        fail[0] = True
        with torch.no_grad(), pytest.raises(OSError, match="mine"):
            engine.step(push)
        fail[0] = False
        returns = engine.step(constant(engine)).episode_return
    (gradient,) = torch.autograd.grad(returns.sum(), push)
    torch.testing.assert_close(gradient, torch.tensor([[1.9]]))  # of x1 + x2, x2 = 0.9 x1 + a2
