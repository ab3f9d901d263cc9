"""One env with its counters on the host gives what the tensors of a batch of one give, bit for bit."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from tests.core.walk import BOX, Walk, walk_engine
from wm_vec.core import Engine, Perspective, Transition


class Breaking(Walk):
    """Turns NaN when pushed hard, and very large, but finite, when pushed harder the other way."""

    def step(self, state, action, rng):
        out = super().step(state, action, rng)
        x = torch.where(action > 0.99, torch.nan, out.observation)
        x = torch.where(action < -0.99, torch.finfo(x.dtype).max, x)
        return Transition(TensorDict({"x": x}, x.shape[:1]), x, x[:, 0], out.terminated, out.truncated, out.info)


def counting_reward(obs, action, info, state):
    return obs["observation"][0] + 0.1 * state, state + 1


PERSPECTIVES = {
    "the dynamics' own reward": Perspective(BOX),
    "functions": Perspective(
        BOX,
        reward_fn=lambda obs, action, info: obs["observation"].sum() + 0.01 * info["step"],
        terminated_fn=lambda obs, step, info: (step > 6) | (obs["observation"][1] > 1.5),
    ),
    "a stateful reward": Perspective(BOX, reward_fn=counting_reward, reward_state=torch.tensor(1.0)),
}


def single(perspective, dynamics=None, **options):
    return Engine(dynamics or Walk(0.3, truncates=True), 1, [perspective], autoreset_mode="disabled", **options)


def assert_same(row, result):
    assert torch.equal(row.observation, result.observation)
    assert torch.equal(row.predictions, result.predictions)
    assert torch.equal(row.row["x"], result.model_state["x"])
    assert row.reward == result.reward.item()
    assert (row.terminated, row.truncated) == (result.terminated.item(), result.truncated.item())
    assert (row.diverged, row.episode_length) == (result.diverged.item(), result.episode_length.item())
    assert torch.equal(row.info["speed"], result.info["speed"])


@pytest.mark.parametrize("exact_rows", [False, True])
@pytest.mark.parametrize("horizon", [None, 9])
@pytest.mark.parametrize("kind", PERSPECTIVES)
def test_it_is_the_step_of_a_batch_of_one(kind, horizon, exact_rows):
    options = {"max_episode_steps": horizon, "exact_rows": exact_rows}
    one, batch = (single(PERSPECTIVES[kind], **options) for _ in range(2))
    assert torch.equal(one.reset(5), batch.reset(5))
    actions = torch.rand(60, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    episodes = 0
    for t, action in enumerate(actions):
        row, result = one.step_row(action), batch.step(action)
        assert_same(row, result)
        if row.terminated or row.truncated:
            assert torch.equal(one.reset(), batch.reset())
            episodes += 1
        elif t % 7 == 0:
            assert (one.state() == batch.state()).all(), "counters and returns as tensors again"
    assert episodes >= 3


@pytest.mark.parametrize(("push", "diverges"), [(1.0, True), (-1.0, False)])
def test_what_breaks_down_is_contained_and_what_is_large_is_not(push, diverges):
    one, batch = (single(Perspective(BOX), Breaking(0.0)) for _ in range(2))
    one.reset(0)
    batch.reset(0)
    for value in (0.1, push):
        action = torch.full((1, 1), value)
        row, result = one.step_row(action), batch.step(action)
        assert_same(row, result)
    assert row.diverged is diverges
    assert row.terminated or not diverges
    assert torch.isfinite(row.observation).all()


def test_it_mixes_with_everything_else():
    """Steps of either kind, states and forks in between: the counters follow."""
    one, batch = (single(Perspective(BOX), max_episode_steps=50) for _ in range(2))
    one.reset(1)
    batch.reset(1)
    action = torch.full((1, 1), 0.2)
    for t in range(12):
        row = one.step_row(action) if t % 3 else None
        if row is None:
            one.step(action)
        batch.step(action)
        if t == 5:
            one.set_state(one.state())
    assert (one.state() == batch.state()).all()
    assert torch.equal(one.fork([0], "same").step(action).observation, batch.fork([0], "same").step(action).observation)
    assert torch.equal(one.sample_actions(), batch.sample_actions())


def test_it_is_for_one_env_that_was_reset():
    engine = single(Perspective(BOX))
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        engine.step_row(torch.zeros(1, 1))
    engine.reset(0)
    with pytest.raises(ValueError, match=r"shape \(1, 1\)"):
        engine.step_row(torch.zeros(2, 1))
    many = walk_engine(3)
    many.reset(0)
    with pytest.raises(ValueError, match="one env"):
        many.step_row(torch.zeros(3, 1))
