"""The class a user holds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from importlib import resources
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.record.loggers import Logger

from wm_vec.canvas import BoundSchema, EnvSignature, compile_schema
from wm_vec.canvas.signature import RealEnv
from wm_vec.canvas_states import bank_from_data, field_values, fill_in, load_bank
from wm_vec.core.engine import EngineFamily
from wm_vec.envs.fork_warning import warn_if_forked
from wm_vec.envs.registration import BUNDLED
from wm_vec.envs.torchrl.spaces import gymnasium_spec, spaces_of
from wm_vec.model import CanvasModel, ModelConfig, check_state
from wm_vec.model.state_check import LARGEST_BANK
from wm_vec.plain import as_device, as_path, check_callable, check_type, real_number, seed_number, whole_number
from wm_vec.render.description import description
from wm_vec.train import (
    CheckpointError,
    TrainConfig,
    TrainReport,
    WorldData,
    train_model,
    write_checkpoint,
)
from wm_vec.train.checkpoint import CheckpointFile, check_file
from wm_vec.train.data import blind_spots
from wm_vec.train.forms import as_world_data
from wm_vec.train.normalise import fit_normalisers
from wm_vec.world_envs import WorldEnvs

DEFAULT_D_MODEL = 32


class NetworkSettings(TypedDict, total=False):
    """Keywords of `WorldModel` besides the schema."""

    config: ModelConfig | None
    device: torch.device | str | None
    dtype: torch.dtype | None
    seed: int
    ticks_per_step: int | None


class WorldModel(WorldEnvs):
    """A learned world: schema, network, normalisers and initial states; and the environments made from it.

    Args:
        schema: A bound schema, or anything that `compile_schema` takes as its root.
        config: The network besides the schema.
        device: Where the network lives.
        dtype: Its floating dtype; float32 if not given.
        seed: Seeds the initial weights.
        ticks_per_step: Ticks of the fields' periods that one env step, one predict, lasts; None for that of `config`,
            which is 1 unless given.

    Attributes:
        bound: The compiled schema.
        model: The network.
        signature: The environment's spaces, for a world that comes from one; None otherwise.
        bank: ``(M, N)`` initial states in the fields' own units; None until there are data.
        trained: Whether it has learned from data.
        coverage: Field path -> share of steps, from 0 to 1, whose next value was known in the data that knew it best;
            None before any data.
        engines: Those that start episodes from `bank`.
    """

    def __init__(
        self,
        schema: Any,
        *,
        config: ModelConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        ticks_per_step: int | None = None,
    ) -> None:
        warn_if_forked()
        device, dtype, seed = _checked_device(device), _checked_dtype(dtype), seed_number(seed, "seed")
        self.bound = schema if isinstance(schema, BoundSchema) else compile_schema(schema)
        if ticks_per_step is not None:
            check_type(config := ModelConfig() if config is None else config, ModelConfig, "config")
            config = replace(config, ticks_per_step=ticks_per_step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = CanvasModel(self.bound, config).to(device=device, dtype=dtype)
        self.signature: EnvSignature | None = None
        self.bank: Tensor | None = None
        self.trained = False
        self.coverage: dict[str, float] | None = None
        self._warned = False
        self.engines = EngineFamily()
        self.clear_observations()

    def __repr__(self) -> str:
        kind = self.signature.env_id if self.signature and self.signature.env_id else "schema"
        state = "trained" if self.trained else "untrained"
        size = f"{len(self.bound)} fields, {self.num_positions} positions"
        return f"{type(self).__name__}({kind}, {size}, {state}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.model.codec.mean.device

    @property
    def num_positions(self) -> int:
        """Canvas positions N."""
        return self.bound.layout.num_positions

    def describe(self, console: Console | None = None) -> None:
        """Print the fields by group: positions, unit, period in steps, bounds, coverage by data, and meaning.

        Args:
            console: Where to; None for standard output, in lines of 160 characters where that is no terminal.

        Raises:
            TypeError: No console.
        """
        if console is None:
            console = Console()
            console = console if console.is_terminal or console.is_jupyter else Console(width=160)
        check_type(console, Console, "describe: console")
        console.print(description(self.bound, self.model.config.ticks_per_step, self.coverage))

    # -- making and keeping worlds --------------------------------------------------------------------------------

    @classmethod
    def from_env(
        cls,
        env: RealEnv,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        d_model: int = DEFAULT_D_MODEL,
        **network: Unpack[NetworkSettings],
    ) -> Self:
        """An untrained world with the fields of a Gymnasium environment: observation, action, reward, terminated.

        Parts of Dict and Tuple observations are fields by their keys and places: ``"observation.camera"``.

        Args:
            env: A registered id, an env, which is left as it is, or a callable that makes one.
            env_kwargs: Keyword arguments of the id or the callable.
            d_model: Width of the network.
            **network: Keywords of `WorldModel`.

        Raises:
            UnsupportedSpaceError: Spaces that cannot be laid on a canvas, see `EnvSignature`.
        """
        return cls.from_signature(EnvSignature.of_env(env, env_kwargs), d_model=d_model, **network)

    @classmethod
    def from_signature(
        cls, signature: EnvSignature, *, d_model: int = DEFAULT_D_MODEL, **network: Unpack[NetworkSettings]
    ) -> Self:
        """An untrained world for given spaces, without the environment itself."""
        check_type(signature, EnvSignature, "signature")
        world = cls._of(signature.schema(d_model), **network)
        world.signature = signature
        return world

    @classmethod
    def _of(cls, schema: BoundSchema, **network: Unpack[NetworkSettings]) -> Self:
        """A world of a schema, also where a subclass is made from other arguments."""
        world = cls.__new__(cls)
        WorldModel.__init__(world, schema, **network)
        return world

    @classmethod
    def from_torchrl_env(
        cls,
        env: EnvBase,
        *,
        max_episode_steps: int | None = None,
        d_model: int = DEFAULT_D_MODEL,
        **network: Unpack[NetworkSettings],
    ) -> Self:
        """An untrained world for a TorchRL environment, from its specs; it learns from what a collector yields of it.

        Args:
            env: Any environment, batched or not, with its transforms; it must observe under ``"observation"``, entries
                in there are parts of a Dict, and act under ``"action"``. Other entries, counters for example, are no
                part of the world.
            max_episode_steps: Horizon; None for that of a Gymnasium environment inside, else no limit.
            d_model: Width of the network.
            **network: Keywords of `WorldModel`.

        Raises:
            UnsupportedSpaceError: Specs that cannot be laid on a canvas, pixels among them.
            ValueError: No such entries.
        """
        check_type(env, EnvBase, "env", "WorldModel.from_env takes Gymnasium's.")
        spaces, spec = spaces_of(env), gymnasium_spec(env)
        if max_episode_steps is None and spec is not None:
            max_episode_steps = spec.max_episode_steps
        signature = EnvSignature(*spaces, max_episode_steps, spec.id if spec else None)
        return cls.from_signature(signature, d_model=d_model, **network)

    @classmethod
    def bundled(
        cls, env_id: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """A world that comes with the package, by its environment's id: a key of `wm_vec.envs.registration.BUNDLED`."""
        if not isinstance(env_id, str) or env_id not in BUNDLED:
            raise ValueError(f"There is no bundled world {env_id!r}; there are {', '.join(BUNDLED)}.")
        with resources.as_file(resources.files("wm_vec") / "worlds" / f"{env_id}.safetensors") as path:
            return cls.load(path, device=device, dtype=dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole world to one safetensors file, atomically.

        Raises:
            OSError: The file cannot be written there, see `wm_vec.train.checkpoint.check_file`.
            ValueError: Weights or a bank that `load` would refuse; the old file stays.
        """
        check_state(self.model, self.model.state_dict(), self.bank)
        write_checkpoint(
            path,
            self.state_dict(),
            {
                "schema": self.bound.to_dict(),
                "model": asdict(self.model.config),
                "signature": self.signature.to_dict() if self.signature else None,
                "trained": self.trained,
                "coverage": self.coverage,
            },
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Read a world that `save` wrote. Never runs code from the file.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: It is cut short, a pickle, of another kind or of another version, or contradicts itself.
        """
        device, dtype, file = _checked_device(device), _checked_dtype(dtype), CheckpointFile(path)
        config = file.config
        try:
            schema, model_config = BoundSchema.from_dict(config["schema"]), ModelConfig(**config["model"])
            signature = None if config["signature"] is None else EnvSignature.from_dict(config["signature"])
            if signature is not None:
                signature.check_fits(schema)
            with torch.device("meta"):  # nothing is allocated before the file has what its configuration says
                sketch = CanvasModel(schema, model_config)
        except Exception as error:  # whatever plain data of another form may raise
            raise CheckpointError(
                f"{path} is a wm_vec file but no world ({type(error).__name__}: {error}). A file that ends in "
                "'.resume' is the state of an unfinished training run; repeat that run to finish it."
            ) from error
        _check_tensors(file, sketch)
        world = cls._of(schema, config=model_config)
        world.signature = signature
        world._take(file)
        world.model.to(device=device, dtype=dtype)
        if world.bank is not None:
            world.bank = world.bank.to(world.device)
        world.clear_observations()
        return world

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take weights, normalisers and bank from a checkpoint of the same schema, in place.

        Environments made from this world step with them from the next step on, and start from the new bank from the
        next reset on, unless they have an `initial_obs_fn`.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: The checkpoint is of another schema or network, or incomplete; nothing has changed then.
        """
        file = CheckpointFile(path)
        try:
            same = BoundSchema.from_dict(file.config["schema"]) == self.bound
            same = same and ModelConfig(**file.config["model"]) == self.model.config
        except Exception:  # whatever plain data of another form may raise
            same = False
        if not same:
            raise CheckpointError(
                f"{path} holds a world of another schema or network; this one has the fields "
                f"{', '.join(self.bound.field_names[:6])}. Load it with WorldModel.load() instead."
            )
        self._take(file)

    def state_dict(self) -> dict[str, Tensor]:
        """What `save` writes, as live tensors: weights and normalisers ``model.<name>``, and ``bank`` ``(M, N)``."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return tensors if self.bank is None else {**tensors, "bank": self.bank}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` of a world of the same schema and network gave, as by `load_weights`.

        Raises:
            TypeError: No mapping of names to tensors.
            CheckpointError: Tensors are missing, unexpected or of another shape or dtype, or hold broken numbers;
                nothing has changed then.
        """
        if not isinstance(state_dict, Mapping) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state_dict.items()
        ):
            raise TypeError("load_state_dict takes names -> tensors, as `state_dict` gives them; `load` takes a path.")
        bank = state_dict.get("bank")
        like = _tensors_like(self.model, None if bank is None else tuple(bank.shape))
        wrong = sorted(state_dict.keys() ^ like.keys()) or [
            name
            for name, tensor in like.items()
            if (given := state_dict[name]).shape != tensor.shape
            or not (given.dtype == tensor.dtype or (given.is_floating_point() and tensor.is_floating_point()))
        ]
        if wrong:
            words = f"missing, unexpected or of another shape or dtype: {', '.join(wrong[:6])}"
            raise CheckpointError(f"load_state_dict: the tensors are not those of this schema and network; {words}.")
        self._take_tensors("load_state_dict", state_dict, "bank" in state_dict)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The network's, for an optimizer of your own."""
        return self.model.parameters()

    def _take(self, file: CheckpointFile) -> None:
        # All of it is checked before anything is copied: load_state_dict copies what fits and complains afterwards.
        _check_tensors(file, self.model)
        trained = file.config.get("trained")
        if not isinstance(trained, bool):
            raise CheckpointError(f"{file.path}: its configuration does not say whether the world is trained.")
        coverage = _checked_coverage(file, self.bound)
        self._take_tensors(file.path, file.tensors(), trained)
        self.coverage = coverage

    def _take_tensors(self, source: Any, tensors: Mapping[str, Tensor], trained: bool) -> None:
        bank = tensors.get("bank")
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name != "bank"}
        try:
            check_state(self.model, weights, bank)
        except ValueError as error:
            raise CheckpointError(f"{source} holds broken numbers: {error}.") from error
        self.model.load_state_dict(weights)
        self._learned(None if bank is None else bank.to(self.device, copy=True), trained)

    def _learned(self, bank: Tensor | None, trained: bool = True) -> None:
        self.bank, self.trained = bank, trained
        load_bank(self.engines, bank)

    # -- learning -------------------------------------------------------------------------------------------------

    def finetune(
        self,
        data: Any,
        n_steps: int | None = None,
        *,
        config: TrainConfig | None = None,
        log_path: str | os.PathLike[str] | None = None,
        resume_path: str | os.PathLike[str] | None = None,
        save_path: str | os.PathLike[str] | None = None,
        progress: Callable[[int, dict[str, float]], None] | None = None,
        logger: Logger | None = None,
    ) -> TrainReport:
        """Learn from data, in place; also the first time.

        Environments made from this world change with it, as by `load_weights`.

        Args:
            data: A TensorDict of transitions, as TorchRL's collectors yield them, a list of such or a replay buffer of
                them; a Minari dataset; a mapping of field path -> series over time, a DataFrame, the path of a Parquet
                file, or a list of these, see `wm_vec.train.data_from_sources`; or `WorldData`.
            n_steps: Gradient steps at most; overrides `config`'s.
            config: The other settings.
            log_path: JSON lines, one per evaluation.
            resume_path: Where a killed run's state is kept; see `train_model`. Removed at the end.
            save_path: Where the trained world is saved, before `resume_path` is removed: a kill at any moment
                loses nothing.
            progress: Called after every step.
            logger: See `train_model`.

        Warns:
            UserWarning: Hardly a step of an environment's first data ends an episode, or what is observed, done or paid
                is the same in all of them; or no data until now know some of the fields.

        Raises:
            OSError: A file that is to be written cannot be: a folder, or in a folder that is not there.
            TypeError: `logger` is no logger.
            DataError: The data do not fit the world.
            FloatingPointError: The loss turned non-finite.
            KeyboardInterrupt: Ctrl-C. As after any error in training, the world is as it was before; what was learned
                until then is in `resume_path`, from which the same call goes on.
        """
        # Not by its class: one that runs in another process is a stand-in.
        if logger is not None and (isinstance(logger, type) or not callable(getattr(logger, "log_scalar", None))):
            raise TypeError(
                f"finetune: logger must be one of torchrl.record.loggers, got {logger!r}. Make one, e.g. "
                "TensorboardLogger('run', log_dir='logs')."
            )
        for written in (log_path, resume_path, save_path):
            if written is not None:
                check_file(written)
        check_callable(progress, "finetune: progress")
        config = TrainConfig() if config is None else config
        if n_steps is not None:
            config = TrainConfig(**{**asdict(config), "n_steps": n_steps})
        world_data = self.as_data(data)
        if self.signature is not None and not self.trained:
            for words in blind_spots(world_data, self.bound, self.signature):
                warnings.warn(words, stacklevel=2)
        before = deepcopy(self.model.state_dict())
        try:
            fit_normalisers(self.model.codec, world_data, self.trained, self.model.config.ticks_per_step)
            paths: dict[str, Any] = {"log_path": log_path, "resume_path": resume_path}
            report = train_model(self.model, world_data, config, **paths, progress=progress, logger=logger)
            bank = bank_from_data(self.model, world_data, config.seed)
        except BaseException as error:  # Ctrl-C among them
            self.model.load_state_dict(before)
            if isinstance(error, KeyboardInterrupt):
                kept = resume_path is not None and as_path(resume_path, "resume_path").exists()
                how = f"Repeat the call to go on from {resume_path}." if kept else "Give resume_path to keep more."
                error.add_note(f"finetune: the world is as it was before. {how}")
            raise
        self._learned(bank)
        self._cover(world_data)
        if save_path is not None:
            self.save(save_path)
        if resume_path is not None:
            as_path(resume_path, "resume_path").unlink(missing_ok=True)
        return report

    def _cover(self, data: WorldData) -> None:
        """Note which fields the data know, and warn of those that none have known so far."""
        share, before = data.next_known.float().mean(0), self.coverage or {}
        found = {field.path: share[field.indices()].mean().item() for field in self.bound.bound_fields()}
        self.coverage = {path: max(known, before.get(path, 0.0)) for path, known in found.items()}
        if uncovered := [path for path, known in self.coverage.items() if known == 0.0]:
            listed = ", ".join(uncovered[:4]) + (", ..." if len(uncovered) > 4 else "")
            warnings.warn(
                f"{len(uncovered)} of {len(self.bound)} fields are in none of the data ({listed}): what the world "
                "imagines of them means nothing. `world.coverage` says how much is known of each.",
                stacklevel=3,
            )

    def as_data(self, data: Any) -> WorldData:
        """Any form of data that `finetune` takes, as canvas states of this world.

        Raises:
            DataError: It does not fit the world.
            SchemaError: Transitions for a world that comes from no environment.
        """
        return as_world_data(data, self.bound, self.signature, self.model.config.ticks_per_step)

    # -- observing and predicting ---------------------------------------------------------------------------------

    def observe(self, path: str, value: Any) -> None:
        """Set the current value of a field, in its own units, for `predict`.

        Raises:
            UnknownFieldError: There is no such field.
            ValueError: No numbers, another number of values, values that are not finite, or no class of the field.
        """
        field = self.bound[path]
        index = field.indices()
        self._observed[0, index] = field_values(field, value, "observe").to(self._observed)
        self._observed_known[0, index] = True

    @torch.inference_mode(False)
    def clear_observations(self) -> None:
        """Forget all observed values."""
        self._observed = torch.zeros(1, self.num_positions, device=self.device, dtype=self.model.codec.mean.dtype)
        self._observed_known = torch.zeros(1, self.num_positions, dtype=torch.bool, device=self.device)

    def predict(self, n_steps: int | None = None, *, num_samples: int = 1, seed: int = 0) -> dict[str, Tensor]:
        """Sample the rest of the world, given what was observed; observed values come back as they are.

        Args:
            n_steps: Denoiser evaluations; None for the model's own number.
            num_samples: Independent samples S.
            seed: Seeds them: sample i at ``seed + i``.

        Returns:
            Field path -> ``(n,)`` float tensor over the field's positions, ``(S, n)`` with several samples.

        Raises:
            ValueError: No whole number of steps or samples of at least 1, or seeds outside [0, 2^63).
            TypeError: A seed that is no whole number.
        """
        num_samples = whole_number(num_samples, "num_samples")
        if not isinstance(seed, (int, np.integer)):
            raise TypeError(f"predict: seed must be an int, got {seed!r} ({type(seed).__name__}).")
        self._warn_if_untrained()
        values = self._observed.expand(num_samples, -1)
        filled = fill_in(self.model, values, self._observed_known.expand(num_samples, -1), seed, n_steps)
        if num_samples == 1:
            filled = filled[0]
        return {field.path: filled[..., field.indices()] for field in self.bound.bound_fields()}

    def _warn_if_untrained(self, stacklevel: int = 3) -> None:
        if not self.trained and not self._warned:
            self._warned = True
            text = "This world is untrained: what it imagines means nothing yet. Train it with finetune()."
            warnings.warn(text, stacklevel=stacklevel)

    def to(self, device: torch.device | str) -> Self:
        """Move the world; environments made before must be made again.

        Raises:
            ValueError: No device, or one that is not there.
        """
        there = as_device(device)
        self.model.to(there)
        self.bank = None if self.bank is None else self.bank.to(there)
        self._observed, self._observed_known = self._observed.to(there), self._observed_known.to(there)
        return self

    def cuda(self, device: int | None = None) -> Self:
        """`to` a CUDA device; None for the current one."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def cpu(self) -> Self:
        """`to` the CPU."""
        return self.to("cpu")

    def eval(self) -> Self:
        """The world itself: its network does the same in training and evaluation."""
        self.model.eval()
        return self


def _check_tensors(file: CheckpointFile, model: CanvasModel) -> None:
    """Refuse a file of other tensors than a world of this model has, before any of them is read."""
    file.check_tensors(_tensors_like(model, file.shapes.get("bank")))


def _checked_coverage(file: CheckpointFile, bound: BoundSchema) -> dict[str, float] | None:
    """What a file says of its world's coverage; None where it says nothing."""
    given = file.config.get("coverage")
    if given is None:
        return None
    try:
        if given.keys() != {*bound}:
            raise ValueError("it is of other fields")
        return {path: real_number(given[path], "a share", 0.0, 1.0) for path in bound}
    except (AttributeError, ValueError) as error:
        raise CheckpointError(f"{file.path}: its coverage cannot be read ({error}).") from error


def _tensors_like(model: CanvasModel, bank: tuple[int, ...] | None) -> dict[str, Tensor]:
    """What a world of this model has by name, beside a bank of such a shape, or of the nearest that can be."""
    like = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if bank is not None:
        width = model.bound.layout.num_positions
        rows = bank[0] if bank and 0 < bank[0] <= LARGEST_BANK // width else 1
        like["bank"] = torch.empty(rows, width, device="meta")
    return like


def _checked_device(device: Any) -> torch.device | None:
    """A device that is there; None stays None."""
    return None if device is None else as_device(device)


def _checked_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """The network's dtype; float32 if none is asked for."""
    if dtype not in (None, torch.float32, torch.float64, torch.bfloat16):
        raise ValueError(
            f"dtype must be torch.float32, torch.float64 or torch.bfloat16, got {dtype}; float16 overflows."
        )
    return dtype or torch.float32
