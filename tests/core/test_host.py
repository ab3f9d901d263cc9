"""Finishing a step in host memory, against the same loop over rows as the operation's reference."""

import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import assume, given, settings

from tests.core.walk import BOX, Walk, bank_of, constant, walk_engine
from tests.kernels.test_finish_step import arguments, by_hand, steps
from wm_vec import WorldModel
from wm_vec.core import Engine, Perspective, Transition
from wm_vec.core.host import HostRows
from wm_vec.core.proposal import Proposal, on_host
from wm_vec.core.rows import Rows


class Given:
    """Starts row i, whose seed is i, at ``bank_index[i]``; keeps which rows were drawn for."""

    def __init__(self, step):
        self.bank, self.bank_index = arguments(step)[2], torch.tensor(step["bank_index"])
        self.info, self.drawn = {}, []

    def draw(self, seed, episode, options=None):
        self.drawn += seed.tolist()
        return self.bank, self.bank_index[seed]


def finished(step, starts):
    previous, proposed, _, _, action, *judged, elapsed, episode, returns, _, horizon, _ = arguments(step)
    seeds, pending = torch.arange(len(elapsed)), torch.zeros(len(elapsed), dtype=torch.bool)
    rows = Rows(previous, elapsed, episode, seeds, returns, pending)
    given = [tensor for tensor in (*proposed, *judged, elapsed, episode, returns) if tensor is not None]
    kept = [tensor.clone() for tensor in given]
    with torch.no_grad():
        out = on_host(Proposal(proposed, proposed[0], *judged, {}))
        if not math.isfinite(out.total + (0.0 if action is None else action.sum().item())):
            return None
        host = HostRows.of(rows)
        finished = host.finished_step(host.finish(out, horizon, starts, keep=True))
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(kept, given, strict=True)), "none is written"
    return host.to_rows(), finished


@settings(max_examples=300, deadline=None)
@given(steps(modes=["same_step", "disabled"]))
def test_every_row_is_what_the_design_says(step):
    starts = Given(step)
    out = finished(step, None if step["autoreset"] == "disabled" else starts)
    numbers = [x for row in (*step["proposed"][0], *step["reward"], *(step["action"] or [])) for x in row]
    if not all(math.isfinite(x) for x in (*numbers, *step["proposed"][1])):
        assert out is None, "rows that may have diverged are left to the reference"
        return
    assume(out is not None)  # a sum of the largest numbers overflows
    after, got = out
    expected = [by_hand(step, i) for i in range(len(step["elapsed"]))]
    for i, row in enumerate(expected):
        for name, want in row.items():
            value = getattr(got, name)
            have = [leaf[i].tolist() for leaf in value] if isinstance(value, list) else value[i].tolist()
            assert have == want, f"row {i}, {name}, {step['autoreset']}"
        assert [leaf[i].tolist() for leaf in after.leaves] == row["state"]
        assert (after.elapsed[i], after.episode[i]) == (row["elapsed"], row["episode"])
        assert after.returns[i].tolist() == row["returns"]
    assert starts.drawn == [i for i, row in enumerate(expected) if row["was_reset"]], "no others are drawn for"


def test_a_reward_state_without_a_function_stays_apart_from_the_dynamics_state():
    view = Perspective(BOX, reward_state=torch.tensor(0.5))
    engine, plain = (WorldModel.bundled("Pendulum-v1").to_engine(3, [own]) for own in (view, Perspective(BOX)))
    engine.reset(seed=0), plain.reset(seed=0)
    for _ in range(2):
        result, expected = (one.step_columns(torch.zeros(3, 1)) for one in (engine, plain))
        assert torch.equal(result.observation, expected.observation)
    assert engine.state().reward_state["agent"].tolist() == [0.5] * 3


def test_numbers_that_overflow_are_contained_whatever_numpy_does_about_them():
    class Far(Walk):
        def step(self, state, action, rng):
            out = super().step(state, action, rng)
            return out._replace(reward=torch.full_like(out.reward, 3e38))

    engine = walk_engine(2, dynamics=Far(), autoreset_mode="disabled", max_episode_steps=9)
    world = WorldModel.bundled("Pendulum-v1").to_engine(2, autoreset_mode="disabled")
    engine.reset(seed=0), world.reset(seed=0)
    far = torch.full_like(world.state().dynamics["values"], 3e38)
    far[0, 0] = math.inf
    with np.errstate(all="raise"):
        engine.step(constant(engine))
        assert engine.step(constant(engine)).episode_return.tolist() == [math.inf] * 2
        with patch.object(type(world.dynamics), "_predict", return_value=(far, None)):
            assert world.step(torch.zeros(2, 1)).diverged.tolist() == [True, False]


def test_starts_that_do_not_fit_leave_the_engine_as_it_was():
    class Wider(Walk):
        """Its states turn into others at the second step, which no start fits."""

        starts_fresh, example = True, bank_of([0.0, 0.0])[:0]

        def start(self, rng, options):
            return Transition(self.initial_state(rng, len(rng.seed)), None)

        def step(self, state, action, rng):
            out = super().step(state, action, rng)
            return out._replace(state=out.state.double()) if self.calls == 2 else out

    engine = walk_engine(3, dynamics=Wider(), max_episode_steps=2)
    engine.reset(seed=0), engine.step(constant(engine))
    before = engine.state()
    with pytest.raises(RuntimeError, match="same dtype"):
        engine.step(constant(engine))
    assert bool((engine.state() == before).all())


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [None, (2, 2), (1, 4, 1)])
@pytest.mark.parametrize("offset", [0, 3])
def test_columns_picked_at_once_are_what_the_perspective_sees(cartpole, dtype, shape, offset):
    seen = []
    for stays in (False, True):
        engine = cartpole.to_engine(5, seed=0, max_episode_steps=3)
        view = replace(engine.perspectives[0], obs_dtype=dtype, obs_shape=shape, obs_offset=offset)
        engine = Engine(engine.dynamics, 5, [view], max_episode_steps=3, seed=0)
        engine.reset()
        if stays:
            engine.keep_tensors()
        for _ in range(4):
            step = engine.step_columns(torch.tensor([0, 1, 1, 0, 1]))
            seen.append((step.observation, step.final_observation))
    for ours, expected in zip(seen[:4], seen[4:], strict=True):
        for one, other in zip(ours, expected, strict=True):
            assert one.dtype is other.dtype
            assert torch.equal(one, other)


@pytest.mark.parametrize("index", [torch.tensor([2, 0], dtype=torch.int32), torch.arange(4)[::2]])
def test_columns_are_picked_by_any_index(cartpole, index):
    engine = cartpole.to_engine(5, seed=0)
    view = replace(engine.perspectives[0], obs_index=index, obs_shape=None)
    engine = Engine(engine.dynamics, 5, [view], seed=0)
    engine.reset()
    step = engine.step_columns(torch.tensor([0, 1, 1, 0, 1]))
    assert torch.equal(step.observation, engine.model_state()["values"][:, index.tolist()])


def test_columns_that_are_not_there_are_refused(cartpole):
    engine = cartpole.to_engine(5, seed=0)
    view = replace(engine.perspectives[0], obs_index=torch.tensor([0, 7]), obs_shape=None)
    engine = Engine(engine.dynamics, 5, [view], seed=0)
    with pytest.raises(RuntimeError, match="out of DATA bounds"):
        engine.reset()
    with pytest.raises(RuntimeError, match="out of DATA bounds"):
        engine.step_columns(torch.zeros(5, dtype=torch.int64))


def test_actions_elsewhere_or_under_a_sign_are_read_as_torch_does(pendulum):
    engine, other = (pendulum.to_engine(4, seed=0) for _ in range(2))
    engine.reset(), other.reset()
    action = torch.full((4, 1), 0.7)
    pairs = [(torch._neg_view(action), -action), (torch._efficientzerotensor(4, 1), torch.zeros(4, 1))]
    for odd, plain in pairs:
        assert torch.equal(engine.step_columns(odd).observation, other.step_columns(plain).observation)
    with pytest.raises(RuntimeError):
        engine.step_columns(action.to("meta"))


def test_rows_that_are_reset_by_hand_wait_no_more():
    engine = walk_engine(3, seed=0, autoreset_mode="next_step", max_episode_steps=1)
    engine.reset()
    engine.step(constant(engine))
    engine.step(constant(engine), AutoresetMode.DISABLED)
    assert engine._store._host is not None
    engine.reset(mask=torch.tensor([True, False, False]))
    assert engine.state().pending.tolist() == [False, True, True]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("num_envs", [1, 4, 600])
def test_a_step_leaves_the_grad_mode_as_it_was(grad, num_envs):
    class Fails(Walk):
        def step(self, state, action, rng):
            assert not torch.is_grad_enabled()
            if self.calls > 1:
                raise OSError("no step")
            return super().step(state, action, rng)

    engine = walk_engine(num_envs, dynamics=Fails(), seed=0)
    engine.reset()
    with torch.set_grad_enabled(grad):
        engine.step(constant(engine))
        assert torch.is_grad_enabled() is grad
        engine.dynamics.calls = 2
        with pytest.raises(OSError, match="no step"):
            engine.step(constant(engine))
        assert torch.is_grad_enabled() is grad
