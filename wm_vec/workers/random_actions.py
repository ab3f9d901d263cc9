"""Random actions that do not depend on how envs are shared out."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torchrl.envs import EnvBase, TransformedEnv

from wm_vec.envs import TorchRLEnv


class RandomActions:
    """A policy for collectors: random actions from the envs' own counters, the same with any number of workers.

    A collector without a policy draws from torch's generator instead, which differs by worker.
    """

    def __init__(self) -> None:
        self._env: EnvBase | None = None
        self._base: TorchRLEnv | None = None

    def register_collector(self, collector: Any) -> None:
        """Called by the collector.

        Raises:
            TypeError: Its env is no `TorchRLEnv`.
        """
        base = collector.env
        while isinstance(base, TransformedEnv):
            base = base.base_env
        if not isinstance(base, TorchRLEnv):
            raise TypeError(f"RandomActions: takes a collector over a TorchRLEnv, got one over {type(base).__name__}.")
        self._env, self._base = collector.env, base

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes ``"action"``."""
        if self._env is None or self._base is None:
            raise RuntimeError("RandomActions: is for collectors; env.rollout() acts at random without a policy.")
        self._base._draws = 0  # collectors call a policy once to see its outputs; that draw must not count
        return self._env.rand_action(tensordict)
