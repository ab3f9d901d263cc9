"""Worlds that are right by construction: the real rules as a dynamics, and the same with a planted fault."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict

from wm_vec.canvas import EnvSignature
from wm_vec.core import Dynamics, Engine, EngineConfig, Transition
from wm_vec.core.rng import STREAM_NOISE
from wm_vec.perspectives import view_of
from wm_vec.settings import CanvasConfig

CPU = torch.device("cpu")


class CartPoleRules:
    """CartPole's equations of motion (Barto, Sutton and Anderson, 1983), integrated as by Gymnasium."""

    env_id, env_kwargs = "CartPole-v1", {}

    def starts(self, size):
        generator = torch.Generator().manual_seed(0)
        return torch.rand(size, 4, generator=generator, dtype=torch.float64) * 0.1 - 0.05

    def step(self, obs, action, uniform=None):
        x, v, angle, spin = obs.unbind(1)
        force = torch.where(action[:, 0] > 0.5, 10.0, -10.0)
        sin, cos = angle.sin(), angle.cos()
        push = (force + 0.05 * spin**2 * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        accelerate = push - 0.05 * turn * cos / 1.1
        after = torch.stack((x + 0.02 * v, v + 0.02 * accelerate, angle + 0.02 * spin, spin + 0.02 * turn), 1)
        fallen = (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 12 * 2 * torch.pi / 360)
        return after, torch.ones_like(x), fallen


class LakeRules:
    """FrozenLake, read off the real environment's own table, whose outcomes are equally likely."""

    env_id = "FrozenLake-v1"

    def __init__(self, is_slippery=False):
        self.env_kwargs = {"is_slippery": is_slippery}
        table = gym.make(self.env_id, **self.env_kwargs).unwrapped.P
        cells = [[[[float(x) for x in y[1:]] for y in table[s][a]] for a in range(4)] for s in range(16)]
        # A hole and the goal have one outcome, which is taken three times.
        longest = max(len(cell) for row in cells for cell in row)
        self.table = torch.tensor([[c * (longest // len(c)) for c in row] for row in cells]).double()

    def starts(self, size):
        return torch.zeros(size, 1, dtype=torch.float64)

    def step(self, obs, action, uniform):
        outcomes = self.table[obs[:, 0].long(), action[:, 0].long()]
        entry = outcomes[torch.arange(len(obs)), (uniform[:, 0] * outcomes.shape[1]).long()]
        return entry[:, :1], entry[:, 1], entry[:, 2] > 0.5


class Jumps(gym.Env):
    """Two numbers: x jumps by -1 or 1 and a little, y follows it. Ends by chance; pays a coin where x is above 0."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(2, np.float32)
        return self.state, {}

    def step(self, action):
        x, y = self.state
        noise = self.np_random.choice([-1, 1]) + self.np_random.uniform(-0.2, 0.2)
        self.state = np.array([0.9 * x + 0.2 * action + noise, 0.5 * y + 0.1 * x], np.float32)
        reward = float(x > 0 and self.np_random.random() < 0.3)
        return self.state, reward, bool(self.np_random.random() < 0.02), False, {}


gym.register("wm_vec_tests/Jumps-v0", Jumps, max_episode_steps=200)


class JumpRules:
    """The rules of `Jumps`; `spread` is the size of its noise, `hazard` the chance of an end."""

    env_id, env_kwargs = "wm_vec_tests/Jumps-v0", {}

    def __init__(self, spread=1.0, hazard=0.02):
        self.spread, self.hazard = spread, hazard

    def starts(self, size):
        return torch.zeros(size, 2, dtype=torch.float64)

    def step(self, obs, action, uniform):
        x, y = obs.unbind(1)
        jump, little, end, coin = uniform.unbind(1)
        noise = self.spread * (torch.where(jump < 0.5, -1, 1) + 0.4 * (little - 0.5))
        paid = (coin < 0.3) & (x > 0)
        after = torch.stack((0.9 * x + 0.2 * action[:, 0] + noise, 0.5 * y + 0.1 * x), 1)
        return after, paid.to(obs.dtype), end < self.hazard


@dataclass
class RulesWorld:
    """A world that steps by `rules`; `fault` may change ``(obs, action, after, reward, terminated)``."""

    rules: object
    fault: object = None

    def __post_init__(self):
        self.signature = EnvSignature.of_env(self.rules.env_id, self.rules.env_kwargs)
        self.bound = self.signature.schema(32)

    def to_engine(self, num_envs, *, max_episode_steps=None, n_denoise_steps=None, autoreset_mode="same_step"):
        perspective = view_of(self.bound, self.signature, CanvasConfig(), CPU).perspective
        return Engine(
            RulesDynamics(self),
            num_envs,
            [perspective],
            EngineConfig(max_episode_steps, autoreset_mode),
        )


class RulesDynamics(Dynamics):
    rng, device, dtype = "counter", CPU, torch.float64

    def __init__(self, world):
        self.world = world
        self.columns = torch.tensor(world.bound["observation"].indices())

    def _state(self, obs):
        values = torch.zeros(len(obs), self.world.bound.layout.num_positions, dtype=self.dtype)
        return TensorDict({"values": values.index_copy(1, self.columns, obs)}, batch_size=[len(obs)])

    def initial_state(self, rng, num_envs):
        return self._state(self.world.rules.starts(num_envs))

    def observe(self, state):
        return state["values"]

    def step(self, state, action, rng):
        obs = state["values"][:, self.columns]
        uniform = rng.uniform(4, STREAM_NOISE, dtype=self.dtype)
        after, reward, terminated = self.world.rules.step(obs, action, uniform)
        if self.world.fault is not None:
            after, reward, terminated = self.world.fault(obs, action, after, reward, terminated)
        state = self._state(after)
        return Transition(state, state["values"], reward, terminated)
