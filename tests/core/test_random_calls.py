"""Random calls to an engine, each held against what it must be of the state before it.

Whatever is called, the engine gives what the pure functions give of a copy of its state; the reference implementations
give the same; and each env gives what it would have given alone.
"""

import copy
import pickle
import random
from contextlib import ExitStack, nullcontext

import pytest
import torch
from tensordict import TensorDict

from tests.core.walk import BOX, Walk, stepped, tensors_of
from wm_kernels import use_backend
from wm_vec import WorldModel
from wm_vec.core import AutoresetMode, Dynamics, Engine, EngineConfig, GivenStart, Perspective, Transition
from wm_vec.core.resets import fork_state, restart

MODES = list(AutoresetMode)


class Odd(Dynamics):
    """A `Walk` of a nested state with a whole number in it; it draws in two ways, truncates, and may break down."""

    device, dtype = Walk.device, torch.float32

    def __init__(self, dtype=torch.float32, breaks=False, fresh=False):
        self.dtype, self.breaks, self.starts_fresh = dtype, breaks, fresh
        self.fails = False

    def _state(self, x, count):
        return TensorDict({("own", "x"): x, "count": count}, batch_size=x.shape[:1])

    def initial_state(self, rng, num_envs):
        return self._state(rng.normal(2, 4, self.dtype), rng.episode)

    def start(self, rng, options):
        if self.fails:
            raise OSError("no start")
        return super().start(rng, options)

    def observe(self, state):
        return state["own", "x"]

    def step(self, state, action, rng):
        noise = rng.normal(2, dtype=self.dtype) + rng.uniform(1, 78).to(self.dtype)
        x = 0.9 * self.observe(state) + action * 0.5 + 0.6 * noise
        noise.zero_()  # what was drawn is the dynamics' own
        if self.breaks:
            x = torch.where(x[:, :1] > 1.5, torch.nan, x)
        after = self._state(x, state["count"] + 3 * rng.episode + rng.step)
        return Transition(after, x, x[:, 1], x[:, 0] > 1.2, x[:, 0] < -1.2)


def carried(obs, act, info, last):
    return obs["observation"][0] - last, obs["observation"][0]


def odd(num_envs, view=None, dynamics=None, **config):
    return Engine(dynamics or Odd(), num_envs, [view or Perspective(BOX)], EngineConfig(bank_size=13, **config))


CARRYING = Perspective(BOX, reward_fn=carried, reward_state=torch.tensor(0.5))
WORLDS = {
    "odd": odd,
    "bfloat16": lambda n, **config: odd(n, dynamics=Odd(torch.bfloat16), **config),
    "breaking": lambda n, **config: odd(n, dynamics=Odd(breaks=True), **config),
    "fresh": lambda n, **config: odd(n, dynamics=Odd(fresh=True), **config),
    "carrying": lambda n, **config: odd(n, CARRYING, Odd(breaks=True), **config),
    "picking": lambda n, **config: odd(n, Perspective(BOX, obs_index=torch.tensor([1, 1, 0])), **config),
    "canvas": lambda n, **config: WorldModel.bundled("Pendulum-v1").to_engine(n, **config),
    "classes": lambda n, **config: WorldModel.bundled("CartPole-v1").to_engine(n, **config),
}


class Checked:
    """An engine, and the random calls that it gets."""

    def __init__(self, name, seed):
        self.random = random.Random(seed)
        self.size = self.random.choice([1, 2, 3, 40])
        canvas = name in ("canvas", "classes")
        exact_rows = self.random.random() < 0.5
        self.rounds = canvas  # the network's sums depend on the implementation
        self.rounds_alone = canvas and not exact_rows
        self.engine = WORLDS[name](
            self.size,
            max_episode_steps=self.random.choice([None, 1, 2, 3, 20]),
            autoreset_mode=self.random.choice(MODES),
            seed=seed,
            exact_rows=exact_rows,
        )
        self.given, self.saved = [], None
        self.engine.reset()

    def check(self, call, pure, alone):
        """Hold a call of the engine against pure functions of the state before it.

        Args:
            call: Of nothing, returns what the engine gives.
            pure: ``state -> (state after, what is given)``.
            alone: The same of one env: ``(state, i) -> (state after, what is given)``.
        """
        before = self.engine.state()
        kept, result = before.clone(), call()
        after = self.engine.state()
        assert_same([after, result], pure(before))
        with use_backend("reference"):
            assert_same([after, result], pure(before), rounds=self.rounds)
        for i in {self.size - 1, self.random.randrange(self.size)}:
            one = env_of(alone(before[i : i + 1], i), 0)
            assert_same(env_of([after, result], i), one, rounds=self.rounds_alone)
        assert_same(before, kept)
        assert_same(self.engine.state(), after)
        own = [*tensors_of(result)]
        self.given = [*self.given[-20:], *((tensor, tensor.clone()) for tensor in own)]
        return result

    def mask(self):
        return torch.tensor([self.random.random() < self.random.choice([0.0, 0.4, 1.0]) for _ in range(self.size)])

    def step(self):
        mode = self.random.choice([None, None, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
        (action,) = self.engine.sample_actions(self.random.randrange(9)).values()
        if action.is_floating_point() and self.random.random() < 0.1:
            action[self.random.randrange(self.size)] = self.random.choice([torch.nan, torch.inf])
        result = self.check(
            lambda: self.engine.step(action.clone(), mode),
            lambda state: stepped(self.engine, state, action, mode),
            lambda state, i: stepped(self.engine, state, action[i : i + 1], mode),
        )
        if self.random.random() < 0.3:
            before = self.engine.state()
            own = [*tensors_of(result._replace(state={}, final_state={}, info={}))]
            self.given = [(t, kept) for t, kept in self.given if not any(t is one for one in own)]
            for tensor in own:
                tensor.fill_(1)
            assert_same(self.engine.state(), before)

    def steps(self):
        for _ in range(self.random.choice([3, 9])):
            self.step()

    def reset(self):
        seeds = self.random.choice([None, None, 7, [self.random.choice([None, 2**40]) for _ in range(self.size)]])
        mask, some = self.random.choice([None, self.mask(), self.mask()]), self.random.choice([None, self.mask()])
        flipped = self.engine.state().dynamics.flip(0) if self.random.random() < 0.3 else None
        listed = list(range(seeds, seeds + self.size)) if isinstance(seeds, int) else seeds
        world = self.engine.world

        def restarted(state, where):
            given = None
            if flipped is not None:
                given = GivenStart(flipped[where], None if some is None else some[where])
            own_mask, own_seeds = None if mask is None else mask[where], None if listed is None else listed[where]
            after, _ = restart(world, state, seeds=own_seeds, mask=own_mask, given=given)
            return after, world.observe(after)

        self.check(
            lambda: self.engine.reset(seeds, mask, given=None if flipped is None else GivenStart(flipped, some)),
            lambda state: restarted(state, slice(None)),
            lambda state, i: restarted(state, slice(i, i + 1)),
        )

    def restore(self):
        state = self.engine.state()
        if self.saved is not None and self.random.random() < 0.6:
            observed = self.engine.set_state(self.saved)
            assert_same([self.engine.state(), observed], [self.saved, self.engine.world.observe(self.saved)])
            state = self.saved
        self.saved = state

    def fork(self):
        how, indices = self.random.choice(["fresh", "same"]), torch.randint(self.size, (self.size,))
        before, count = self.engine.state(), self.engine._fork_count
        forked = self.engine.fork(indices, how)
        picked = before[indices]
        assert_same(forked.state(), picked if how == "same" else fork_state(picked, count + 1))
        assert_same(self.engine.state(), before)
        self.engine = forked

    def bank(self):
        if not self.engine.dynamics.starts_fresh:
            few = torch.arange(self.random.choice([1, 4, 20])) % self.size
            self.engine.load_bank(self.engine.state().dynamics[few])

    def imagine(self):
        (action,) = self.engine.sample_actions().values()
        other = self.engine.fork(range(self.size), "same")
        rollouts = [one.imagine(lambda _: action, 2, grad) for one, grad in ((self.engine, False), (other, True))]
        assert_same(rollouts[0], rollouts[1].detach())
        assert_same(self.engine.state(), other.state())

    def keep_graph(self):
        before, fails = self.engine.state(), self.random.random() < 0.5
        with pytest.raises(KeyError) if fails else nullcontext(), ExitStack() as block:
            block.enter_context(self.engine.keep_graph(grad=False))
            for _ in range(3):
                self.random.choice([self.step, self.reset])()
            if fails:
                raise KeyError
        if fails:
            assert_same(self.engine.state(), before)

    def copied(self):
        before, made = self.engine, self.random.choice([copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
        self.engine = made(before)
        assert_same(self.engine.state(), before.state())
        if not before.dynamics.starts_fresh:
            assert_same([*self.engine.world.resets.buffer], [*before.world.resets.buffer])

    def failing(self):
        dynamics = self.engine.dynamics
        if isinstance(dynamics, Odd) and dynamics.starts_fresh:
            before, dynamics.fails = self.engine.state(), True
            with pytest.raises(OSError, match="no start"):
                self.engine.reset(mask=torch.ones(self.size, dtype=torch.bool))
            dynamics.fails = False
            assert_same(self.engine.state(), before)


def assert_same(ours, theirs, rounds=False):
    """The same dtypes, shapes and bits; numbers to 1e-6 where sums may be taken in another order."""
    ours, theirs = [*tensors_of(ours)], [*tensors_of(theirs)]
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        if one.dtype == other.dtype and torch.equal(one, other):
            continue
        limit = 1e-6 if rounds and one.is_floating_point() else 0
        torch.testing.assert_close(one, other, rtol=limit, atol=limit, equal_nan=True)


def env_of(result, i):
    return [tensor[i] for tensor in tensors_of(result)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_every_call_gives_what_the_pure_functions_the_references_and_single_envs_give(world, seed):
    torch.manual_seed(seed)
    checked = Checked(world, seed + 100)
    calls = [checked.step, checked.steps, checked.reset, checked.restore, checked.fork, checked.bank]
    calls += [checked.imagine, checked.keep_graph, checked.copied, checked.failing]
    for call in checked.random.choices(calls, [30, 8, 12, 6, 3, 3, 2, 4, 3, 4], k=20):
        call()
    for given, kept in checked.given:
        torch.testing.assert_close(given, kept, rtol=0, atol=0, equal_nan=True)
