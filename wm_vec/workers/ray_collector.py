"""TorchRL's Ray collector for the envs of a world, which replaces workers that die, or raises."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.collectors.distributed import RayCollector
from torchrl.collectors.distributed.ray import DEFAULT_REMOTE_CLASS_CONFIG
from torchrl.collectors.utils import split_trajectories

from wm_vec.workers import RandomActions, WorkerEnvs
from wm_vec.workers.ray_requests import Requests
from wm_vec.world_model import WorldModel

NOT_TAKEN = (
    "create_env_fn",
    "num_collectors",
    "num_workers_per_collector",
    "collector_class",
    "replay_buffer",
    "weight_updater",
    "weight_sync_schemes",
    "max_weight_update_interval",
)
"""Arguments of `RayCollector` that `RayWorldCollector` sets itself, or cannot support."""


class WorkerDiedError(RuntimeError):
    """A worker died, or does not answer, and may not be replaced."""


class RayWorldCollector(RayCollector):
    """A `RayCollector` over `WorkerEnvs`, one actor per worker.

    A batch is returned whole or not at all. When a worker dies, or does not answer in time, either another one takes
    its place, with the policy and the world that were sent last and with new episodes, and the batch is completed; or
    `WorkerDiedError` is raised and the others are stopped. Ray's own ``max_restarts`` decides which.

    Args:
        workers: The envs. All workers must have the same number of them.
        policy: What acts: a module, whose weights are sent by `update_policy_weights_`, or a function. None for
            `RandomActions`.
        frames_per_batch: Env steps of a batch, over all workers if `sync`, else of one.
        total_frames: Env steps after which iteration ends; -1 for never.
        sync: A batch has all workers' shares, ``(W, N / W, T)``; otherwise it is one worker's, ``(N / W, T)``, as
            soon as it is complete.
        remote_configs: What ``ray.remote`` takes, for all workers or one each: ``num_cpus``, ``num_gpus``,
            ``max_restarts`` (how often a worker may be replaced; 0, the default, for never, -1 for any number).
        timeout: Seconds that a worker may take for a batch, or for new weights after its batch. One that takes longer
            is lost.
        start_timeout: Seconds that a worker may take to start.
        **options: The other arguments of `RayCollector`.

    Raises:
        ValueError: Frames or envs that do not divide among the workers.
        TypeError: Arguments of `RayCollector` that this class sets itself or cannot support.
        WorkerDiedError: A worker cannot start, or not in time: there may be fewer CPUs or GPUs than it asks for.
    """

    def __init__(
        self,
        workers: WorkerEnvs,
        policy: nn.Module | Callable[[TensorDictBase], TensorDictBase] | None = None,
        *,
        frames_per_batch: int,
        total_frames: int = -1,
        sync: bool = True,
        remote_configs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        timeout: float = 300.0,
        start_timeout: float = 300.0,
        **options: Any,
    ) -> None:
        refused = [name for name in NOT_TAKEN if name in options]
        if refused:
            raise TypeError(f"RayWorldCollector: takes no {', '.join(refused)}; use RayCollector itself for that.")
        count = workers.num_workers
        if workers.num_envs % count or frames_per_batch % (workers.num_envs if sync else workers.num_envs // count):
            raise ValueError(
                f"RayWorldCollector: {workers.num_envs} envs must divide among {count} workers, and frames_per_batch "
                f"among {'all envs' if sync else 'those of one worker'}; got {frames_per_batch}."
            )
        configs = _configs(remote_configs, count)
        self._replacements_left = [config.pop("max_restarts", 0) for config in configs]
        self._configs = configs
        self._workers, self._timeout, self._start_timeout = workers, timeout, start_timeout
        self._generation = [0] * count
        # Of each worker: method -> its last argument, in Ray's store.
        self._sent: list[dict[str, Any]] = [{} for _ in range(count)]
        self._ended = False
        with warnings.catch_warnings():
            # RayCollector warns that functions, `RandomActions` too, have no weights to send.
            warnings.filterwarnings("ignore", "The policy is not an nn.Module")
            super().__init__(
                [workers.maker(worker) for worker in range(count)],
                RandomActions() if policy is None and options.get("policy_factory") is None else policy,
                frames_per_batch=frames_per_batch,
                total_frames=total_frames,
                sync=sync,
                remote_configs=configs,
                # Torch's process groups do not survive the loss of a member; Ray's object store does.
                weight_sync_schemes={},
                **options,
            )
        self._weight_sync_initialized = True

    # -- weights --------------------------------------------------------------------------------------------------

    def update_policy_weights_(
        self,
        policy_or_weights: nn.Module | TensorDictBase | None = None,
        *,
        worker_ids: int | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Send the policy's weights; batches begun after this call has returned are made with them.

        Args:
            policy_or_weights: None for the policy that the collector was made with.
            worker_ids: Which workers; None for all.
            **kwargs: ``weights`` and ``policy``, other names for the first argument.

        Raises:
            TypeError: A policy without weights, or something that is none.
        """
        given = [value for value in (policy_or_weights, *kwargs.values()) if value is not None]
        if len(given) > 1 or kwargs.keys() - {"weights", "policy"}:
            raise TypeError(f"update_policy_weights_: takes one policy or its weights, got {sorted(kwargs)} too.")
        source = given[0] if given else self.policy
        if isinstance(source, nn.Module):
            source = TensorDict.from_module(source)
        if not isinstance(source, TensorDictBase):
            raise TypeError(f"update_policy_weights_: a {type(source).__name__} has no weights to send.")
        self._send("update_policy_weights_", source.data.cpu().clone(), worker_ids)

    def update_world_(self, world: WorldModel | str | os.PathLike[str] | None = None) -> None:
        """Send the world's weights, normalisers and initial states; batches begun after this call are made with them.

        Args:
            world: As in `WorkerEnvs.update_world_`.
        """
        self._send("env.load_world", self._workers.checkpoint(world), None)

    def _send(self, method: str, argument: Any, worker_ids: int | list[int] | None) -> None:
        which = range(self.num_collectors) if worker_ids is None else worker_ids
        which = [which] if isinstance(which, int) else list(which)
        reference = ray.put(argument)
        for worker in which:  # before any call: a worker's replacement needs it too
            self._sent[worker][method] = reference
        self._ask(lambda actor: actor.cascade_execute.remote(method, reference), which)

    def set_seed(self, seed: int, static_seed: bool = False) -> int:
        """Give env k of all N the seed ``seed + k`` (with `static_seed` env i of every worker ``seed + i``), and reset.

        Returns:
            The seed after the last one.
        """
        for worker in range(self.num_collectors):
            seed = self._ask(partial(_seeded, seed=seed, static_seed=static_seed), [worker])[0]
        self._ask(lambda actor: actor.reset.remote(), range(self.num_collectors))
        return seed

    # -- batches --------------------------------------------------------------------------------------------------

    def iterator(self) -> Iterator[TensorDictBase]:
        """Batches until there are `total_frames` of them.

        Raises:
            WorkerDiedError: See the class.
            RuntimeError: The collector was shut down, by an error for instance.
        """
        if self._ended:
            raise RuntimeError("RayWorldCollector: it was shut down; make another.")
        for batch in self._synchronous() if self._sync else self._asynchronous():
            self.collected_frames += batch.numel()
            if self.split_trajs:
                batch = split_trajectories(batch)
            yield batch if self.postproc is None else self.postproc(batch)
        if self._collection_thread is None:
            self.shutdown()

    def _wants_more(self) -> bool:
        enough = 0 <= self.total_frames <= self.collected_frames
        return not enough and not self._stop_event.is_set()

    def _synchronous(self) -> Iterator[TensorDictBase]:
        while self._wants_more():
            if self.update_after_each_batch:
                self.update_policy_weights_()
            yield torch.stack(self._ask(lambda actor: actor.next.remote(), range(self.num_collectors)))

    def _asynchronous(self) -> Iterator[TensorDictBase]:
        requests = self._requests(lambda actor: actor.next.remote())
        for worker in range(self.num_collectors):
            requests.add(worker)
        while self._wants_more():
            worker, batch = requests.next()
            yield batch
            if self.update_after_each_batch:
                self.update_policy_weights_(worker_ids=worker)
            requests.add(worker)

    def _requests(self, call: Callable[[Any], Any]) -> Requests:
        return Requests(self.remote_collectors, call, self._timeout, self._replace)

    def _ask(self, call: Callable[[Any], Any], which: Sequence[int]) -> list[Any]:
        """Call the actors of some workers and wait for all answers, in the workers' order."""
        requests = self._requests(call)
        for worker in which:
            requests.add(worker)
        answers = dict(requests.next() for _ in which)
        return [answers[worker] for worker in which]

    # -- workers --------------------------------------------------------------------------------------------------

    def _replace(self, worker: int, actor: Any, cause: Exception) -> None:
        """Put another actor in the place of a lost one, unless that has happened already.

        Raises:
            WorkerDiedError: It may not be replaced.
        """
        if self._remote_collectors[worker] is not actor:
            return
        reason = "its process or machine died" if isinstance(cause, RayActorError) else str(cause).split("\n")[0]
        if self._replacements_left[worker] == 0:
            raise WorkerDiedError(
                f"RayWorldCollector: worker {worker} of {self.num_collectors} is lost ({reason}) and may not be "
                "replaced (again). Its part of the batch is gone, and no part of a batch is handed out. To have "
                'workers replaced, give remote_configs={..., "max_restarts": ...}.'
            ) from cause
        self._replacements_left[worker] -= self._replacements_left[worker] > 0
        self._generation[worker] += 1
        warnings.warn(
            f"RayWorldCollector: worker {worker} of {self.num_collectors} is lost ({reason}) and is replaced; its envs "
            "begin new episodes.",
            RuntimeWarning,
            stacklevel=2,
        )
        ray.kill(actor, no_restart=True)
        maker = self._workers.maker(worker, self._generation[worker])
        own = [self.collector_kwargs[worker]], [self._configs[worker]]
        super().add_collectors([maker], 1, self.policy, *own)
        self._remote_collectors[worker] = self._remote_collectors.pop()
        self._await_start(worker, self._remote_collectors[worker])

    def add_collectors(self, *args: Any) -> None:
        """Called once, by the constructor; waits for the workers as long as `start_timeout`, not forever."""
        super().add_collectors(*args)
        for worker, actor in enumerate(self._remote_collectors):
            self._await_start(worker, actor)

    def _await_start(self, worker: int, actor: Any) -> None:
        """Wait until an actor runs and has the weights that were sent last."""
        try:
            references = [actor.cascade_execute.remote(method, sent) for method, sent in self._sent[worker].items()]
            ray.get([actor.get_policy_version.remote(), *references], timeout=self._start_timeout)
        except (RayActorError, GetTimeoutError) as error:
            self.shutdown()
            why = (
                f"does not run after {self._start_timeout:g} s. `ray status` shows whether the cluster has what "
                f"remote_configs={self._configs[worker]} ask for"
                if isinstance(error, GetTimeoutError)
                else "ended while it was starting; the error above says why"
            )
            raise WorkerDiedError(f"RayWorldCollector: worker {worker} of {self.num_collectors} {why}.") from error

    def shutdown(self, timeout: float | None = None, shutdown_ray: bool = False) -> None:
        """Stop the workers; as in `RayCollector`."""
        self._ended = True
        super().shutdown(timeout=timeout, shutdown_ray=shutdown_ray)


def _seeded(actor: Any, seed: int, static_seed: bool) -> Any:
    return actor.set_seed.remote(seed, static_seed)


def _configs(given: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, count: int) -> list[dict[str, Any]]:
    """One actor's options each.

    Raises:
        ValueError: Another number of them than there are workers.
    """
    given = DEFAULT_REMOTE_CLASS_CONFIG if given is None else given
    configs = [dict(given) for _ in range(count)] if isinstance(given, Mapping) else [dict(each) for each in given]
    if len(configs) != count:
        raise ValueError(f"RayWorldCollector: {count} workers need one remote config or one each, got {len(configs)}.")
    for config in configs:
        # Ray would repeat a call on a fresh actor, with other weights and episodes, unnoticed.
        config.pop("max_task_retries", None)
    return configs
