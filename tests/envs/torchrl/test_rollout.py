"""`env.rollout` in all its modes: how long it goes on, what it resets, and what it hands back."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import step_mdp

from tests.envs.torchrl.kinds import BY_NAME, KINDS

B = 4
KEYS = ("done", "terminated", "truncated")


@pytest.fixture
def walkers():
    """Envs that end at different times: the first walks out of the plane soon, the last never."""
    env = BY_NAME["box"].torchrl(B, max_episode_steps=12, expose_state=True)
    env.set_seed(0)
    return env


def paces(td):
    """Env i walks at a pace of its own, from its own state of the plane alone."""
    return td.set("action", torch.tensor([1.0, 0.6, 0.3, -0.4])[:, None].expand(B, 2).clone())


def lengths(env, steps=40):
    """Steps until each env is done, by the environment's bare step."""
    env.set_seed(0)
    td, alive, count = env.reset(), torch.ones(B, 1, dtype=torch.bool), torch.zeros(B, 1, dtype=torch.int64)
    for _ in range(steps):
        td = step_mdp(env.step(paces(td)))
        count += alive
        alive &= ~td["done"]
    env.set_seed(0)
    return count[:, 0].tolist()


def test_the_worlds_of_this_file_end_at_different_times(walkers):
    ends = lengths(walkers)
    assert len({*ends}) == B
    assert max(ends) == 12


def test_it_stops_when_any_env_is_done(walkers):
    first = min(lengths(walkers))
    rollout = walkers.rollout(30, paces)
    assert rollout.shape == (B, first)
    assert rollout["next", "done"][:, -1].any()
    assert not rollout["next", "done"][:, :-1].any()


def test_it_goes_on_over_the_ends(walkers):
    rollout = walkers.rollout(30, paces, break_when_any_done=False)
    assert rollout.shape == (B, 30)
    ends, following = rollout["next", "done"][:, :-1, 0], rollout[:, 1:]
    assert ends.any(0).sum() > 3
    for key in ("place", ("eye", "image"), ("eye", "right"), "cells"):
        same = (following[key] == rollout["next"][:, :-1][key]).reshape(B, 29, -1).all(-1)
        assert same[~ends].all(), "where no episode ended, the next step starts where this one led"
    starts = torch.tensor([[0.0, 0.0], [0.3, 0.1], [-0.2, 0.5]])
    fresh = following["place"][ends]
    assert (fresh[:, None] == starts).all(-1).any(-1).all(), "a fresh episode starts at one of the three places"
    left = rollout["next", "place"][:, :-1][ends]
    assert not (left[:, None] == starts).all(-1).any(), "the last observation of an episode is its own"
    assert not any(rollout[key].any() for key in KEYS), "no step starts from an episode that is over"
    elapsed = rollout["next", "world_state", "elapsed"]
    assert torch.equal(rollout["next", "truncated"][..., 0], elapsed == 12)


def test_it_goes_on_until_all_are_done(walkers):
    """Those that are done wait, with the step in which they ended."""
    ends = lengths(walkers)
    rollout = walkers.rollout(30, paces, break_when_all_done=True)
    assert rollout.shape == (B, max(ends))
    for row, end in enumerate(ends):
        assert rollout["next", "done"][row, end - 1]
        assert not rollout["next", "done"][row, : end - 1].any()
        assert (rollout["next", "place"][row, end - 1 :] == rollout["next", "place"][row, end - 1]).all()
    assert walkers.engine.state().elapsed.tolist() == ends, "and are not stepped"
    bare = BY_NAME["box"].torchrl(B, max_episode_steps=12)
    bare.set_seed(0)
    alone = bare.rollout(min(ends), paces)
    assert torch.equal(rollout["next", "reward"][:, : min(ends)], alone["next", "reward"])


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_it_goes_on_from_where_another_left_off(kind):
    """Two rollouts, the second from the end of the first, are one long one."""
    env, whole = (BY_NAME[kind].torchrl(3, max_episode_steps=5) for _ in range(2))
    for one in (env, whole):
        one.set_seed(6)
    first = env.rollout(7, break_when_any_done=False)
    second = env.rollout(6, break_when_any_done=False, auto_reset=False, tensordict=step_mdp(first[:, -1]))
    actions = torch.cat([first["action"], second["action"]], 1)
    expected = whole.rollout(13, actions=actions.unbind(1), break_when_any_done=False)
    for key in expected.keys(True, True):
        got = torch.cat([first[key], second[key]], 1)
        assert torch.equal(got, expected[key]), key


def test_going_on_resets_what_is_done(walkers):
    first = walkers.rollout(30, paces)
    here = step_mdp(first[:, -1])
    done = here["done"][:, 0].clone()
    assert 0 < done.sum() < B
    second = walkers.rollout(1, paces, auto_reset=False, tensordict=here.clone())
    assert torch.equal(second["place"][~done, 0], first["next", "place"][~done, -1])
    assert (second["world_state", "elapsed"][:, 0] == torch.where(done, 0, first.shape[1])).all()


def test_without_a_start_it_is_refused(walkers):
    with pytest.raises(RuntimeError, match="tensordict must be provided"):
        walkers.rollout(3, auto_reset=False)
    fresh = BY_NAME["box"].torchrl(B)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        fresh.rollout(3, paces, auto_reset=False, tensordict=TensorDict(fresh.observation_spec.zero(), [B]))


def test_the_last_step_can_be_marked_as_truncated(walkers):
    rollout = walkers.rollout(5, paces, set_truncated=True, break_when_any_done=False)
    assert rollout["next", "truncated"][:, -1].all()
    assert rollout["next", "done"][:, -1].all()
    assert not rollout["next", "truncated"][:, :-1].any()


def test_a_rollout_need_not_be_contiguous(walkers):
    dense = walkers.rollout(5, paces)
    walkers.set_seed(0)
    lazy = walkers.rollout(5, paces, return_contiguous=False)
    assert lazy.shape == (B, 5)
    assert set(lazy.keys(True, True)) == set(dense.keys(True, True))
    for key in dense.keys(True, True):
        assert torch.equal(lazy[key], dense[key]), key


@pytest.mark.parametrize("break_when_any_done", [True, False])
def test_a_callback_sees_every_step_and_spoils_none(walkers, break_when_any_done):
    seen = []

    def look(env, td):
        assert env is walkers
        seen.append(td.clone())

    walkers.set_seed(0)
    rollout = walkers.rollout(3, paces, callback=look, break_when_any_done=break_when_any_done)
    assert len(seen) == 2, "TorchRL calls it between steps"
    walkers.set_seed(0)
    quiet = walkers.rollout(3, paces, break_when_any_done=break_when_any_done)
    assert (rollout == quiet).all()


def test_what_a_rollout_handed_back_stays_as_it_was(walkers):
    rollout = walkers.rollout(8, paces, break_when_any_done=False)
    kept = rollout.clone()
    walkers.rollout(8, paces, break_when_any_done=False)
    walkers.reset()
    assert (rollout == kept).all()


def test_steps_alone_stay_as_they_were(walkers):
    """Without the copy that stacking makes."""
    steps, td = [], walkers.reset()
    for _ in range(15):
        out, td = walkers.step_and_maybe_reset(paces(td))
        steps.append((out, out.clone()))
    for step, (held, kept) in enumerate(steps):
        assert (held == kept).all(), step


def test_extra_entries_ride_along(walkers):
    def noted(td):
        return paces(td).set("note", td["place"] * 2).set(("mind", "count"), torch.ones(B, 1))

    rollout = walkers.rollout(20, noted, break_when_any_done=False)
    assert torch.equal(rollout["note"], rollout["place"] * 2)
    assert rollout["mind", "count"].shape == (B, 20, 1)
    td = paces(walkers.reset()).set("kept", torch.arange(B))
    stepped = walkers.step(td)
    assert stepped is td, "TorchRL's step writes into what it was given"
    assert stepped["kept"].tolist() == [0, 1, 2, 3]
    assert stepped["next"].get("kept", None) is None
    assert walkers.step_mdp(stepped)["kept"].tolist() == [0, 1, 2, 3]
