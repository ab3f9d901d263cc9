"""N envs shared out among workers, and new weights sent to them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torchrl.envs import EnvBase

from wm_vec.core import spawn_seeds
from wm_vec.plain import as_device, as_path, check_callable, whole_number
from wm_vec.train.checkpoint import CheckpointFile
from wm_vec.workers.env import WorkerEnv, on_disk
from wm_vec.world_model import WorldModel

MAX_ROOT = 2**62
"""Leaves room for the seeds of all envs, which end at 2^63."""


EnvFunction = Callable[[int, int], EnvBase]
"""``(num_envs, seed) -> env``, whose env i has the seed ``seed + i``."""


@dataclass(frozen=True, eq=False)  # TorchRL puts them into sets, which options may not be
class EnvMaker:
    """Makes the envs of one worker. It pickles everywhere, lambdas among its options too.

    Attributes:
        make: Makes envs over a copy of the world, or the user's function.
        num_envs: Envs of this worker.
        seed: The first one's.
        wrap: ``env -> env``: transforms and the like; None for nothing.
    """

    make: EnvFunction
    num_envs: int
    seed: int
    wrap: Callable[[EnvBase], EnvBase] | None = None

    def __call__(self) -> EnvBase:
        """The envs."""
        env = self.make(self.num_envs, self.seed)
        return env if self.wrap is None else self.wrap(env)

    def __reduce__(self) -> tuple[Any, ...]:
        # Spawned processes read plain pickles only.
        return _unpickled_maker, (cloudpickle.dumps((self.make, self.num_envs, self.seed, self.wrap)),)


def _unpickled_maker(data: bytes) -> EnvMaker:
    return EnvMaker(*cloudpickle.loads(data))


class WorkerEnvs:
    """N envs for W workers, with seeds that do not depend on W.

    Env k of the N has the seed ``seed + k``, in whichever worker it is: any number of workers yields the same N
    trajectories, bit for bit with ``exact_rows=True`` and a policy that does not depend on the batch size.

    Args:
        world: A `WorldModel`; the path of a saved one, which every worker loads; or, for models of your own, a function
            ``(num_envs, seed) -> env`` that seeds env i with ``seed + i``, as `TorchRLEnv` does.
        num_envs: N, over all workers.
        num_workers: W. Where it does not divide N, the first workers have one env more.
        seed: A whole number; None takes entropy from the operating system.
        device: Device of the copies of the world, one for all workers or one each. None for that of `world`, or the
            CPU for a path.
        wrap: ``env -> env``, called in the worker: transforms and the like.
        **options: Of `WorldModel.to_torchrl_env`.

    Attributes:
        makers: One function per worker that makes its envs; for TorchRL's ``create_env_fn``.
        seed: The first env's.

    Raises:
        ValueError: Fewer envs than workers, or another number that does not fit.
        TypeError: Options or a device beside a function.
    """

    def __init__(
        self,
        world: WorldModel | str | os.PathLike[str] | EnvFunction,
        num_envs: int,
        num_workers: int,
        *,
        seed: int | None = 0,
        device: str | torch.device | Sequence[str | torch.device] | None = None,
        wrap: Callable[[EnvBase], EnvBase] | None = None,
        **options: Any,
    ) -> None:
        self.num_envs = whole_number(num_envs, "WorkerEnvs: num_envs")
        self.num_workers = whole_number(num_workers, "WorkerEnvs: num_workers")
        if self.num_workers > self.num_envs:
            raise ValueError(f"WorkerEnvs: {num_workers} workers need at least as many envs, got {num_envs}.")
        self.seed = (
            spawn_seeds(None, 1)[0] % MAX_ROOT
            if seed is None
            else whole_number(seed, "WorkerEnvs: seed", 0, MAX_ROOT - 1)
        )
        check_callable(wrap, "WorkerEnvs: wrap")
        self._wrap = wrap
        self._updates = 0
        self._world = world if isinstance(world, WorldModel) else None
        self._folder = tempfile.mkdtemp(prefix="wm_vec-workers-")
        self._news = os.path.join(self._folder, "world.safetensors")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._makes = self._functions(world, device, options)
        self.makers = [self.maker(worker) for worker in range(self.num_workers)]

    def maker(self, worker: int, generation: int = 0) -> EnvMaker:
        """The maker of one worker's envs.

        Args:
            worker: Its number.
            generation: How often it was replaced: env k has the seed ``seed + generation * N + k``, so that it does
                not repeat the lost worker's episodes.
        """
        share, rest = divmod(self.num_envs, self.num_workers)
        first = worker * share + min(worker, rest)
        seed = self.seed + generation * self.num_envs + first
        return EnvMaker(self._makes[worker], share + (worker < rest), seed, self._wrap)

    def update_world_(self, world: WorldModel | str | os.PathLike[str] | None = None) -> None:
        """Send new weights, normalisers and initial states to all envs on this machine.

        Every step that begins after this call has returned is made with them; workers are not interrupted. Envs on
        other machines do not see it: see `wm_vec.workers.ray_collector.RayWorldCollector`.

        Args:
            world: The changed world, or its path; None for the `WorldModel` that the workers were made with.

        Raises:
            ValueError: A world of another schema or network.
            TypeError: Workers whose envs a function makes.
        """
        outgoing = self._checked_file(world)
        # The modification time carries the number of the update: clocks are too coarse to tell two of them apart.
        self._updates += 1
        os.utime(outgoing, (self._updates, self._updates))
        os.replace(outgoing, self._news)

    def checkpoint(self, world: WorldModel | str | os.PathLike[str] | None = None) -> bytes:
        """A world as bytes, checked to be one for these workers; for the arguments and errors see `update_world_`."""
        return self._checked_file(world).read_bytes()

    def _checked_file(self, world: WorldModel | str | os.PathLike[str] | None) -> Path:
        if self._kind is None:
            raise TypeError("update_world_: these envs are made by a function; only worlds of wm_vec can be sent.")
        world = self._world if world is None else world
        if world is None:
            raise TypeError("update_world_: the workers loaded their world from a path; give the new one.")
        outgoing = self._file_of(world)
        if _kind(outgoing) != self._kind:
            raise ValueError("update_world_: a world of another schema or network; make the workers anew with it.")
        return outgoing

    def _file_of(self, world: WorldModel | str | os.PathLike[str]) -> Path:
        """A copy of a world in the workers' folder, until the next one."""
        outgoing = Path(self._folder) / "outgoing"
        if isinstance(world, WorldModel):
            world.save(outgoing)
        else:
            shutil.copyfile(as_path(world, "WorkerEnvs: world"), outgoing)
        return outgoing

    def _functions(self, world: Any, device: Any, options: dict[str, Any]) -> list[EnvFunction]:
        """Each worker's ``(num_envs, seed) -> env``."""
        self._kind: Any = None
        if callable(world) and not isinstance(world, WorldModel):
            if options or device is not None:
                raise TypeError(f"WorkerEnvs: a function makes its envs itself; it takes no {[*options, 'device'][0]}.")
            return [world] * self.num_workers
        dtype = None
        if isinstance(world, WorldModel):
            dtype = world.model.codec.mean.dtype
            device = world.device if device is None else device
        devices = device if isinstance(device, (list, tuple)) else [device] * self.num_workers
        devices = [None if each is None else as_device(each) for each in devices]
        if len(devices) != self.num_workers:
            raise ValueError(f"WorkerEnvs: {self.num_workers} workers need one device or one each, got {devices}.")
        outgoing = self._file_of(world)
        self._kind = _kind(outgoing)
        own = outgoing.read_bytes() if isinstance(world, WorldModel) else os.path.abspath(world)
        # An error in the options is raised here, before any worker starts.
        EnvMaker(partial(_copy, str(outgoing), "cpu", dtype, None, options), 1, self.seed, self._wrap)()
        names = [None if each is None else str(each) for each in devices]
        return [partial(_copy, own, name, dtype, self._news, options) for name in names]


def _copy(
    checkpoint: bytes | str,
    device: str | None,
    dtype: torch.dtype | None,
    follow: str | None,
    options: dict[str, Any],
    num_envs: int,
    seed: int,
) -> WorkerEnv:
    """Envs over a copy of the world in `checkpoint`, which is what `WorldModel.save` writes, or its path."""
    with on_disk(checkpoint) as path:
        world = WorldModel.load(path, device=device, dtype=dtype)
    return WorkerEnv(world, num_envs, seed, follow, options)


def _kind(path: Path) -> tuple[Any, Any]:
    """What two worlds must have in common for the one to take the other's weights."""
    config = CheckpointFile(path).config
    return config.get("schema"), config.get("model")
