"""The environment that a planner searches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl.data import Composite

from wm_vec.envs.torchrl.specs import STATE_KEY
from wm_vec.envs.torchrl.stateless import StatelessTorchRLEnv
from wm_vec.plan.action_encoding import ActionEncoding


class PlanningEnv(nn.Module):
    """What TorchRL's planners ask of an environment, over a stateless one.

    It differs from the environment itself in three ways. Every rollout starts from a fork of the given states, so that
    each candidate meets noise of its own and none the noise of the real future. Actions are encoded, see
    `ActionEncoding`. And rollouts leave the states out, which would be most of their memory.

    Args:
        env: The world.
    """

    batch_locked = False

    def __init__(self, env: StatelessTorchRLEnv) -> None:
        super().__init__()
        self.env = env
        self.encoding = ActionEncoding(env)
        self.action_spec = self.encoding.spec
        self.observation_spec = Composite({STATE_KEY: env.observation_spec[STATE_KEY]}, device=env.device)
        self.done_keys, self.device = env.done_keys, env.device

    def rollout(
        self,
        max_steps: int,
        policy: Callable[[TensorDictBase], TensorDictBase],
        tensordict: TensorDictBase,
        auto_reset: bool = False,
        break_when_any_done: bool = False,
    ) -> TensorDictBase:
        """Transitions ``(*N, T)`` from a fork of `tensordict`'s states, past the ends of episodes.

        Args:
            max_steps: T.
            policy: Sets ``"action"`` to encoded actions ``(*N, A)``.
            tensordict: ``(*N,)``, with the state.
            auto_reset, break_when_any_done: As planners give them: both False.
        """
        here = self.env.reset(self.env.fork(tensordict), set_state=True)
        steps = []
        for _ in range(max_steps):
            here = policy(here)
            here = self.env.step(here.set("action", self.encoding.decode(here.get("action"))))
            steps.append(here.exclude(STATE_KEY, ("next", STATE_KEY)))
            here = here.get("next").exclude("reward")
        return torch.stack(steps, -1)
