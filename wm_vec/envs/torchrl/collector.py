"""TorchRL's collector over imagined rollouts."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs.utils import set_exploration_type

from wm_vec.envs.torchrl.env import TorchRLEnv

TRAJ_IDS = ("collector", "traj_ids")


class ImaginationCollector(Collector):
    """`torchrl.collectors.Collector` that takes each batch from one `TorchRLEnv.imagine`.

    The batches are those of TorchRL's own, entry by entry. On CUDA a batch is one replay of a graph, policy and
    sampling included, where both world and policy can be captured. Trajectories are numbered on the device.

    What `imagine` does not do is left to TorchRL's own rollout, step by step: random first frames, resets at each
    batch, other devices for policy or storage, buffers and replay buffers that are filled in place, compiled policies,
    and every environment but a `TorchRLEnv`.

    Args:
        create_env_fn: The environment, or what makes it.
        policy: What acts; None acts at random.
        options: The other arguments of TorchRL's own. Batches are new tensors, so it has no use for buffers.
    """

    def __init__(self, create_env_fn: Any, policy: Any = None, **options: Any) -> None:
        super().__init__(create_env_fn, policy, **{"use_buffers": False, **options})

    @torch.no_grad()
    def rollout(self) -> TensorDictBase:
        """The next batch ``(B, T)``."""
        if not self._imagines():
            self._recount()
            return super().rollout()
        if self.pre_collect_hook is not None:
            self.pre_collect_hook()
        with set_exploration_type(self.exploration_type):
            batch = self.env.imagine(self._wrapped_policy, self.frames_per_batch)
        carrier = self.env.current()
        if self.track_traj_ids:
            ids = numbered(self._carrier.get(TRAJ_IDS), batch.get(("next", "done")).squeeze(-1))
            batch.set(TRAJ_IDS, ids[:, :-1].contiguous())
            carrier.set(TRAJ_IDS, ids[:, -1])
        if self._carrier_has_no_device:
            batch.clear_device_(), carrier.clear_device_()
        self._carrier: TensorDictBase = carrier
        return self._maybe_set_truncated(batch)

    def reset(self, index: Any = None, **kwargs: Any) -> None:
        """As TorchRL has it."""
        self._recount()
        super().reset(index, **kwargs)

    def state_dict(self) -> Any:
        """As TorchRL has it."""
        self._recount()
        return super().state_dict()

    def _imagines(self) -> bool:
        elsewhere = {device for device in (self.policy_device, self.storing_device) if device is not None}
        return (
            isinstance(self.env, TorchRLEnv)
            and elsewhere <= {self.env.device}
            and not (self.reset_at_each_iter or self._use_buffers or self._should_use_random_frames())
            and not (self.compiled_policy or self.cudagraphed_policy or self._compact_next_keys)
            and self.interruptor is None
            and (self.replay_buffer is None or self._ignore_rb)
        )

    def _recount(self) -> None:
        """Tell TorchRL's counter of trajectories of those that it did not number; reads the device."""
        ids = self._carrier.get(TRAJ_IDS, None)
        if ids is not None:
            self._traj_pool.load_state_dict({"traj_id": ids.max() + 1})


def numbered(ids: Tensor, ended: Tensor) -> Tensor:
    """Numbers of trajectories: those that begin at one time count on in the order of the envs.

    Args:
        ids: ``(B,)`` int64, the trajectories that run; the largest is the last one that was begun.
        ended: ``(B, T)`` bool, whether a step ends one.

    Returns:
        ``(B, T + 1)`` int64, the trajectory that each step belongs to, and the one that goes on.
    """
    begun = ended.T.flatten().cumsum(0).view(ended.T.shape) + ids.max()
    # They only grow, so an env's own is the largest it has had.
    return torch.cat((ids[None], torch.where(ended.T, begun, -1))).cummax(0).values.T
