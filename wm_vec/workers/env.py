"""A worker's envs, over a copy of the world that is its own, and random actions that do not depend on the sharing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase, TransformedEnv

from wm_vec.core import AutoresetMode, StepOutput
from wm_vec.envs import TorchRLEnv
from wm_vec.world_model import WorldModel

FACE_OPTIONS = ("one_hot", "expose_state")
"""Options of `TorchRLEnv`; the others are those of `WorldModel.to_vector_env`."""


class WorkerEnv(TorchRLEnv):
    """A worker's share of the envs, over a copy of the world that is the worker's own.

    Args:
        world: The copy.
        num_envs: B.
        seed: Env i has ``seed + i``.
        follow: Path that is checked before every step and reset: whenever there is another file, the world takes its
            weights, normalisers and initial states. There may be none; None checks nothing.
        options: Of `WorldModel.to_torchrl_env`.

    Attributes:
        world: The copy.
        process_id: Of the process that made the envs.
    """

    def __init__(
        self, world: WorldModel, num_envs: int, seed: int, follow: str | None, options: Mapping[str, Any]
    ) -> None:
        options = dict(options)
        face = {name: options.pop(name) for name in FACE_OPTIONS if name in options}
        vector = world.to_vector_env(num_envs, seed=seed, autoreset_mode=AutoresetMode.DISABLED, **options)
        super().__init__(vector.engine, vector.single_observation_space, vector.single_action_space, **face)
        self.world = world
        self.process_id = os.getpid()
        self._follow = follow
        self._taken = 0.0

    def load_world(self, checkpoint: bytes) -> None:
        """Take weights and normalisers from the next step on, and initial states from the next reset on.

        Args:
            checkpoint: What `WorldModel.save` writes.

        Raises:
            CheckpointError: They are those of another world; nothing has changed then.
        """
        with on_disk(checkpoint) as path:
            self.world.load_weights(path)

    def _refresh(self) -> None:
        """Load the followed file if it is another one than before."""
        if self._follow is None:
            return
        try:
            number = os.stat(self._follow).st_mtime  # see `WorkerEnvs.update_world_`
            if number != self._taken:
                self.world.load_weights(self._follow)
                self._taken = number
        except FileNotFoundError:  # no update yet, or the `WorkerEnvs` is gone
            return

    def _stepped(self, tensordict: TensorDictBase, autoreset_mode: AutoresetMode | None) -> StepOutput:
        self._refresh()  # both `step` and `step_and_maybe_reset` come here
        return super()._stepped(tensordict, autoreset_mode)

    def _reset(self, tensordict: TensorDictBase | None = None, *, set_state: bool = False, **kwargs: Any) -> TensorDict:
        self._refresh()
        return super()._reset(tensordict, set_state=set_state, **kwargs)


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


@contextmanager
def on_disk(checkpoint: bytes | str) -> Iterator[str]:
    """The path of a checkpoint, for as long as it is needed."""
    if isinstance(checkpoint, str):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="wm_vec-") as folder:
        path = Path(folder) / "world.safetensors"
        path.write_bytes(checkpoint)
        yield str(path)
