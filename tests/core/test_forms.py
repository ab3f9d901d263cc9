"""An engine keeps its rows as tensors, in host memory or as one row; whichever it is, the numbers are the same.

The same random calls go to four engines of one world: one that is free to choose, one without compiled code, one that
keeps tensors, and one that neither looks into host memory nor draws ahead.
"""

import copy
import pickle
import random
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest
import torch
from tensordict import TensorDict

from tests.core.walk import BOX, Walk
from wm_vec import WorldModel
from wm_vec.core import AutoresetMode, Engine, Perspective, Transition

MODES = list(AutoresetMode)


class Odd(Walk):
    """A `Walk` of a nested state with a whole number in it; it draws in two ways, truncates, and may break down."""

    def __init__(self, dtype=torch.float32, breaks=False, fresh=False):
        super().__init__(0.6, dtype, truncates=True)
        self.breaks, self.starts_fresh, self.fails = breaks, fresh, False

    def _state(self, x, count):
        return TensorDict({("own", "x"): x, "count": count}, batch_size=x.shape[:1])

    @property
    def example(self):
        return self._state(torch.zeros(0, 2, dtype=self.dtype), torch.zeros(0, dtype=torch.int64))

    def initial_state(self, rng, num_envs):
        return self._state(rng.normal(2, 4, self.dtype), rng.episode)

    def start(self, rng, options):
        if self.fails:
            raise OSError("no start")
        return Transition(self.initial_state(rng, len(rng.seed)), None)

    def observe(self, state):
        return state["own", "x"]

    def step(self, state, action, rng):
        noise = rng.normal(2, dtype=self.dtype) + rng.uniform(1, 78).to(self.dtype)
        x = 0.9 * self.observe(state) + action * 0.5 + self.noise * noise
        noise.zero_()  # what was drawn is the dynamics' own
        if self.breaks:
            x = torch.where(x[:, :1] > 1.5, torch.nan, x)
        after = self._state(x, state["count"] + 3 * rng.episode + rng.step)
        return Transition(after, x, x[:, 1], x[:, 0] > 1.2, x[:, 0] < -1.2)


def carried(obs, act, info, last):
    return obs["observation"][0] - last, obs["observation"][0]


def odd(num_envs, *, view=None, dynamics=None, **options):
    return Engine(dynamics or Odd(), num_envs, [view or Perspective(BOX)], bank_size=13, **options)


WORLDS = {
    "odd": odd,
    "bfloat16": lambda n, **options: odd(n, dynamics=Odd(torch.bfloat16), **options),
    "breaking": lambda n, **options: odd(n, dynamics=Odd(breaks=True), **options),
    "fresh": lambda n, **options: odd(n, dynamics=Odd(fresh=True), **options),
    "carrying": lambda n, **options: odd(
        n, view=Perspective(BOX, reward_fn=carried, reward_state=torch.tensor(0.5)), **options
    ),
    "picking": lambda n, **options: odd(n, view=Perspective(BOX, obs_index=torch.tensor([1, 1, 0])), **options),
    "canvas": lambda n, **options: WorldModel.bundled("Pendulum-v1").to_engine(n, **options),
    "classes": lambda n, **options: WorldModel.bundled("CartPole-v1").to_engine(n, **options),
}


@contextmanager
def without_host():
    """Nothing runs in host memory inside."""
    with patch("wm_vec.core.transition.can_step_on_host", return_value=False):
        yield


def without_c():
    """No compiled code runs inside."""
    return patch("wm_kernels.native.AVAILABLE", False)


class Four:
    """The four engines, and the random calls that all of them get."""

    def __init__(self, make, seed):
        self.random = random.Random(seed)
        self.size = self.random.choice([1, 2, 3, 64, 513, 1500])
        mode, horizon = self.random.choice(MODES), self.random.choice([None, 1, 2, 3, 20])
        self.engines = [make(self.size, max_episode_steps=horizon, autoreset_mode=mode, seed=seed) for _ in range(4)]
        self.stay()
        self.given, self.saved = [], None
        self.all(lambda engine: engine.reset())
        assert self.engines[0]._store.host() is not None, "otherwise nothing is compared"

    def stay(self):
        for engine in self.engines[2:]:
            engine.keep_tensors()
        self.engines[3]._store.ahead = None

    def all(self, call):
        """The same bits of all four; the last is what the free one gave."""
        results = []
        for engine in self.engines:
            _, plain, _, reference = self.engines
            with without_c() if engine is plain else without_host() if engine is reference else ExitStack():
                results.append(call(engine))
        first, *others = ([*parts(result)] for result in results)
        for other in others:
            for ours, theirs in zip(first, other, strict=True):
                assert ours.dtype == theirs.dtype
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        self.given = [*self.given[-20:], *((tensor, tensor.clone()) for tensor in first)]
        return results

    def mask(self):
        return torch.tensor([self.random.random() < self.random.choice([0.0, 0.4, 1.0]) for _ in range(self.size)])

    def step(self):
        mode = self.random.choice([None, None, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
        action = self.engines[0].sample_actions(self.random.randrange(9))
        if action.is_floating_point() and self.random.random() < 0.05:
            action[self.random.randrange(self.size)] = self.random.choice([torch.nan, torch.inf])
        if self.random.random() < 0.5:
            self.all(lambda engine: without_running(engine.step_columns(action.clone(), mode)))
            return
        free, *_ = self.all(lambda engine: engine.step(action.clone(), mode))
        if self.random.random() < 0.3:
            own = [*parts(free._replace(model_state={}, predictions={}, info={}))]
            self.given = [(t, kept) for t, kept in self.given if not any(t is one for one in own)]
            for tensor in own:
                tensor.fill_(1)

    def steps(self):
        for _ in range(self.random.choice([3, 12])):
            self.step()

    def reset(self):
        seeds = self.random.choice([None, None, 7, [self.random.choice([None, 2**40]) for _ in range(self.size)]])
        mask, some = self.random.choice([None, self.mask(), self.mask()]), self.random.choice([None, self.mask()])
        given = self.random.random() < 0.3

        def reset(engine):
            start = engine.state().dynamics.flip(0) if given else None
            return engine.reset(seeds, mask, start=start, start_mask=some)

        self.all(reset)

    def restore(self):
        states = self.all(lambda engine: engine.state())
        if self.saved is not None and self.random.random() < 0.6:
            before, back = self.saved, iter(self.saved)
            self.all(lambda engine: engine.set_state(next(back)))
            states = before
        self.saved = states

    def fork(self):
        how, indices = self.random.choice(["fresh", "same"]), torch.randint(self.size, (self.size,))
        self.engines = [engine.fork(indices, how) for engine in self.engines]
        self.stay()

    def bank(self):
        if not getattr(self.engines[0].dynamics, "starts_fresh", False):
            few = torch.arange(self.random.choice([1, 4])) % self.size
            self.all(lambda engine: engine.load_bank(engine.state().dynamics[few]) or ())

    def imagine(self):
        action, grad = self.engines[0].sample_actions(), self.random.random() < 0.5
        self.all(lambda engine: engine.imagine(lambda _: action, 2, grad).detach())

    def keep_graph(self):
        fails = pytest.raises(KeyError) if self.random.random() < 0.5 else ExitStack()
        with fails, ExitStack() as blocks:
            for engine in self.engines:
                blocks.enter_context(engine.keep_graph(grad=False))
            for _ in range(3):
                self.random.choice([self.step, self.reset])()
            if not isinstance(fails, ExitStack):
                raise KeyError

    def copied(self):
        again = self.random.choice([copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
        self.engines = [again(engine) for engine in self.engines]
        self.stay()

    def failing(self):
        dynamics = [engine.dynamics for engine in self.engines]
        if isinstance(dynamics[0], Odd) and dynamics[0].starts_fresh:
            for one in dynamics:
                one.fails = True
            before = self.all(lambda engine: engine.state())[0]
            with pytest.raises(OSError, match="no start"):
                self.engines[0].reset(mask=torch.ones(self.size, dtype=torch.bool))
            assert bool((self.engines[0].state() == before).all())
            for one in dynamics:
                one.fails = False


def without_running(step):
    """Not every form of a step has flags at hand that nothing is set in."""
    assert not any(bool(flag.any()) for flag in step.running or ())
    return step._replace(running=None)


def parts(result):
    """Every tensor of what an engine gave."""
    if isinstance(result, torch.Tensor):
        yield result
    elif hasattr(result, "to_tensordict"):
        yield from result.to_tensordict().flatten_keys().values()
    elif result is not None:
        for part in result.values() if isinstance(result, dict) else result:
            yield from parts(part)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_rows_have_the_same_future_in_every_form(world, seed):
    torch.manual_seed(seed)
    four = Four(WORLDS[world], seed + 100)
    calls = [four.step, four.steps, four.reset, four.restore, four.fork, four.bank]
    calls += [four.imagine, four.keep_graph, four.copied, four.failing]
    for call in four.random.choices(calls, [30, 8, 12, 6, 3, 3, 2, 4, 3, 4], k=25):
        call()
    four.all(lambda engine: engine.state())
    for given, kept in four.given:
        torch.testing.assert_close(given, kept, rtol=0, atol=0, equal_nan=True)
