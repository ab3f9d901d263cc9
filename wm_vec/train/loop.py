"""The training loop: EMA weights, early stopping on held-out loss, JSONL log, exact resume."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchrl.record.loggers import Logger

from wm_vec.model import CanvasModel, check_state
from wm_vec.plain import LARGEST_WHOLE, as_path, check_type, take_numbers
from wm_vec.torch_settings import without_autocast
from wm_vec.train.checkpoint import CheckpointError, CheckpointFile, check_file, write_checkpoint
from wm_vec.train.context_dropout import context_batch
from wm_vec.train.data import WorldData

EMA_DECAY = 0.999
EVAL_STEPS = 4096
WARMUP_STEPS = 200
FINAL_SHARE = 0.01
"""The last learning rate, as a share of the peak."""
END_SHARE = 1 / 16
"""Ends of episodes are drawn at least so often: rarer ones would be seen a few times in all."""
RESUME_FORMAT = 4
NUMBERS = ("step", "loss_count", "mean_loss", "best_loss", "best_step")
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainConfig:
    """How a world is trained.

    Attributes:
        n_steps: Gradient steps at most.
        batch_size: Examples per gradient step.
        learning_rate: Peak of the cosine schedule, of AdamW.
        weight_decay: AdamW's.
        grad_clip: Largest gradient norm.
        context_dropout: Share of examples whose context is hidden, wholly or in part.
        eval_every: Steps between two evaluations on held-out data.
        patience: Evaluations without a better held-out loss after which training stops; None never stops early.
        checkpoint_every: Steps between two states from which a killed run resumes.
        seed: Seeds batches, noise and the split.
    """

    n_steps: int = 4000
    batch_size: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    context_dropout: float = 0.1
    eval_every: int = 200
    patience: int | None = 10
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        whole = ["n_steps", "batch_size", "eval_every", "checkpoint_every"]
        whole += [] if self.patience is None else ["patience"]
        rates = {"learning_rate": (1e-30, 1e38), "grad_clip": (1e-30, 1e38), "weight_decay": (0.0, 1e38)}
        take_numbers(self, dict.fromkeys(whole, (1, LARGEST_WHOLE)) | {"seed": (0, LARGEST_WHOLE)})
        take_numbers(self, rates | {"context_dropout": (0.0, 0.999)})


@dataclass(frozen=True)
class TrainReport:
    """The result of training.

    Attributes:
        steps: Gradient steps taken.
        train_loss: Mean training loss since the last evaluation.
        held_out_loss: Best held-out loss, that of the weights which were kept.
        best_step: When it was reached.
        stopped_early: Whether patience ran out.
        resumed_from: Step from which a killed run went on; 0 for a fresh one.
    """

    steps: int
    train_loss: float
    held_out_loss: float
    best_step: int
    stopped_early: bool
    resumed_from: int


@torch.inference_mode(False)
@torch.enable_grad()
@without_autocast  # which backward would run in, too
def train_model(
    model: CanvasModel,
    data: WorldData,
    config: TrainConfig,
    *,
    log_path: str | os.PathLike[str] | None = None,
    resume_path: str | os.PathLike[str] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    logger: Logger | None = None,
) -> TrainReport:
    """Train `model` in place; it ends with the EMA weights that did best on held-out data.

    Args:
        model: The model; its normalisers must be set.
        data: Steps to learn from; a part is held out.
        config: How.
        log_path: JSON lines, one per evaluation, appended to.
        resume_path: Where the run's state is kept meanwhile. If a state of the same run is there, training
            continues from it and ends in the same weights, bit for bit, as an uninterrupted run. The file stays: the
            caller removes it once the trained model is saved.
        progress: Called after every step with its number and the latest metrics.
        logger: One of TorchRL's, for TensorBoard, Weights & Biases and others; gets what the log gets.

    Raises:
        CheckpointError: `resume_path` holds the state of another run, or is broken; the model is as it was then.
        FloatingPointError: The loss turned non-finite; the model keeps the best weights until then.
    """
    check_type(model, CanvasModel, "train_model: model")
    check_type(data, WorldData, "train_model: data")
    check_type(config, TrainConfig, "train_model: config")
    for written in (log_path, resume_path):
        if written is not None:
            check_file(written)
    run = _Run(model, data, config)
    if resume_path is not None and as_path(resume_path, "resume_path").exists():
        run.restore(resume_path)
    resumed_from = run.step
    while run.step < config.n_steps and not run.out_of_patience:
        run.train_step()
        metrics = {"loss": run.mean_loss, "held_out_loss": run.best_loss}
        if run.step % config.eval_every == 0 or run.step == config.n_steps:
            metrics = {"held_out_loss": run.evaluate(), "loss": run.mean_loss}
            if not math.isfinite(metrics["held_out_loss"]):
                model.load_state_dict(run.best)
                raise FloatingPointError(
                    f"Training diverged by step {run.step}: its held-out loss is {metrics['held_out_loss']}; the best "
                    f"was {run.best_loss:.4g}, of step {run.best_step}. Lower `learning_rate`."
                )
            logged = {"learning_rate": run.learning_rate, **metrics}
            if log_path is not None:
                with as_path(log_path, "log_path").open("a") as log:
                    log.write(json.dumps({"step": run.step, **logged}) + "\n")
            if logger is not None:
                for name, value in logged.items():
                    logger.log_scalar(name, value, step=run.step)
        if progress is not None:
            progress(run.step, metrics)
        if resume_path is not None and run.step % config.checkpoint_every == 0:
            run.save(resume_path)
    model.load_state_dict(run.best)
    run.measure_spread()
    return TrainReport(run.step, run.mean_loss, run.best_loss, run.best_step, run.step < config.n_steps, resumed_from)


def read_state(path: str | os.PathLike[str]) -> tuple[CheckpointFile, int]:
    """The state of an unfinished run, and the step that it was written at.

    Raises:
        CheckpointError: It is none, or not whole.
    """
    try:
        file = CheckpointFile(path)
        return file, int(file.config["numbers"]["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken_state(path, error) from error


def _broken_state(path: str | os.PathLike[str], error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is a broken state of a training run ({error}). Delete the file to start afresh.")


class _Run:
    """The state of a training run; `save` writes all of it and `restore` reads it."""

    def __init__(self, model: CanvasModel, data: WorldData, config: TrainConfig) -> None:
        self.model, self.config = model, config
        self.device = model.codec.mean.device
        training, held_out = data.split(seed=config.seed)
        self.fingerprint = data.fingerprint()
        self.training = training.to(self.device)
        end = model.codec.end
        self.ends = (training.next_values[:, end] > 0.5).nonzero()[:, 0] if end is not None else torch.zeros(0).long()
        chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(config.seed))[:EVAL_STEPS]
        self.held_out = held_out[chosen].to(self.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.schedule = learning_rate_schedule(self.optimizer, config.n_steps)
        with torch.random.fork_rng(devices=[]):  # a copy of the model draws weights before it takes over those given
            self.ema = AveragedModel(model, multi_avg_fn=self._average)
        self.best: dict[str, Tensor] = deepcopy(model.state_dict())
        self.best_loss, self.best_step = math.inf, 0
        self.step, self.loss_sum, self.loss_count = 0, torch.zeros((), dtype=torch.float32, device=self.device), 0
        self.mean_loss = math.nan

    @property
    def out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.step - self.best_step >= patience * self.config.eval_every

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def train_step(self) -> None:
        index, importance = self._sample(self.config.batch_size)
        dropout, num_first = self.config.context_dropout, self.model.num_first(len(index))
        loss = self._loss(self.model, self.training, index, self.generator, dropout, num_first, importance)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.ema.update_parameters(self.model)
        self.loss_sum += loss.detach()
        self.loss_count += 1

    def _sample(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch in which ends of episodes are no rarer than `END_SHARE`.

        Returns:
            ``(size,)`` int64, and each example's importance: its share of an even draw over that of this one.
        """
        index = torch.randint(len(self.training), (size,), generator=self.generator)
        share = len(self.ends) / len(self.training)
        extra = max(0.0, (END_SHARE - share) / (1 - share)) if len(self.ends) else 0.0
        if extra == 0.0:
            return index, torch.ones(size, dtype=torch.float32)
        chosen = torch.rand(size, generator=self.generator, dtype=torch.float32) < extra
        ends = self.ends[torch.randint(len(self.ends), (size,), generator=self.generator)]
        index = torch.where(chosen, ends, index)
        return index, torch.where(torch.isin(index, self.ends), share / END_SHARE, (1 - share) / (1 - END_SHARE))

    def _average(self, averages: Any, current: Any, num_averaged: Any) -> None:
        # The decay grows with the steps, so that the average of a short run forgets the untrained weights.
        decay = min(EMA_DECAY, self.step / (self.step + 9))
        get_ema_multi_avg_fn(decay)(averages, current, num_averaged)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Held-out loss of the EMA weights, always under the same noise; keeps the best weights."""
        self.mean_loss = float(self.loss_sum) / max(1, self.loss_count)
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        size = len(self.held_out)
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        index = torch.arange(size).repeat(2)  # all of them in either part of the loss
        held_out_loss = float(self._loss(self.ema.module, self.held_out, index, generator, 0.0, size, bounded=True))
        if held_out_loss < self.best_loss:
            self.best_loss, self.best_step = held_out_loss, self.step
            self.best = deepcopy(self.ema.module.state_dict())
        return held_out_loss

    def measure_spread(self) -> None:
        """On the held-out steps, whose contexts are whole."""
        index, dtype = torch.arange(len(self.held_out)), self.model.codec.mean.dtype
        ticks = self.model.config.ticks_per_step
        batch = context_batch(self.held_out, index, self.model.codec, 0.0, self.generator, ticks)
        values, next_values, known, _, _, weight = batch
        self.model.measure_spread(values.to(dtype), next_values.to(dtype), known, weight.to(dtype))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that the rest of the run depends on."""
        numbers = {name: repr(getattr(self, name)) for name in NUMBERS}  # text, since JSON has no NaN
        write_checkpoint(path, self._tensors(), {"run": self._identity(), "numbers": numbers})

    def _tensors(self) -> dict[str, Tensor]:
        """What `save` writes, by name; of an optimizer that has not stepped, zeros of the same shapes."""
        parts: dict[str, dict[str, Tensor]]
        parts = {"live": self.model.state_dict(), "ema": self.ema.state_dict(), "best": self.best}
        for i, parameter in enumerate(self.model.parameters()):
            fresh = {name: torch.zeros(() if name == "step" else parameter.shape) for name in ADAM_STATE}
            parts[f"adam{i}"] = {**fresh, **self.optimizer.state.get(parameter, {})}
        tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
        return {**tensors, "generator": self.generator.get_state(), "loss_sum": self.loss_sum}

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Continue what `save` wrote; the model is touched last, when all of it has been found whole."""
        file, _ = read_state(path)
        if file.config.get("run") != self._identity():
            raise CheckpointError(
                f"{path} is the state of another training run (other data, schema, settings or version of wm_vec). "
                "Repeat the run that wrote it to finish it, or delete the file to start afresh."
            )

        def part(name: str, like: Iterable[str]) -> dict[str, Tensor]:
            return {key: tensors[f"{name}.{key}"] for key in like}

        try:
            file.check_tensors(self._tensors())
            tensors = file.tensors()
            live, ema, best = part("live", self.best), part("ema", self.ema.state_dict()), part("best", self.best)
            for state in (live, {name.removeprefix("module."): ema[name] for name in ema if "." in name}, best):
                check_state(self.model, state)
            for name in NUMBERS:
                setattr(self, name, type(getattr(self, name))(file.config["numbers"][name]))
            if not 0 <= self.best_step <= self.step <= self.config.n_steps:
                raise ValueError(f"step {self.step} of {self.config.n_steps}")
            if math.isnan(self.best_loss):
                raise ValueError("the best loss is NaN")
            self.generator.set_state(tensors["generator"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _broken_state(path, error) from error
        self.loss_sum = tensors["loss_sum"].to(self.device)
        self.ema.load_state_dict(ema)
        self.best = {name: tensor.to(self.device) for name, tensor in best.items()}
        with warnings.catch_warnings(action="ignore"):  # that no step of the optimizer went before
            for _ in range(self.step):  # which is all that the learning rate depends on
                self.schedule.step()
        groups = self.optimizer.state_dict()["param_groups"]
        states = {i: part(f"adam{i}", ADAM_STATE) for i in groups[0]["params"]}
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.model.load_state_dict(live)

    def _identity(self) -> dict[str, Any]:
        return {
            "resume_format": RESUME_FORMAT,
            "train": asdict(self.config),
            "model": asdict(self.model.config),
            "schema": self.model.bound.to_dict(words=False),
            "fields": self.model.bound.field_names,
            "data": self.fingerprint,
        }

    def _loss(
        self,
        model: Any,
        data: WorldData,
        index: Tensor,
        generator: torch.Generator,
        dropout: float,
        num_first: int,
        importance: Tensor | None = None,
        bounded: bool = False,
    ) -> Tensor:
        dtype = model.codec.mean.dtype
        values, next_values, known, same_tick, told, weight = context_batch(
            data, index, model.codec, dropout, generator, model.config.ticks_per_step
        )
        if importance is not None:
            # What is predicted given the end does not depend on how often ends are drawn.
            given_end = (torch.arange(len(index), device=self.device) >= num_first) & ~same_tick
            weight = weight * torch.where(given_end, 1.0, importance.to(self.device))[:, None]
        noise_level = torch.randn(len(index), generator=generator, dtype=torch.float32).to(self.device, dtype)
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(self.device, dtype)
        return model.loss(
            values.to(dtype),
            next_values.to(dtype),
            known,
            same_tick,
            told,
            weight.to(dtype),
            noise_level,
            noise,
            num_first,
            bounded,
        )


def learning_rate_schedule(optimizer: torch.optim.Optimizer, n_steps: int) -> LRScheduler:
    """A linear warm-up to the optimizer's rate, then a cosine down to `FINAL_SHARE` of it at step `n_steps`."""
    warmup = max(1, min(WARMUP_STEPS, n_steps // 2))
    rising = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    peak = optimizer.param_groups[0]["initial_lr"]
    falling = CosineAnnealingLR(optimizer, T_max=max(1, n_steps - warmup), eta_min=FINAL_SHARE * peak)
    return SequentialLR(optimizer, [rising, falling], milestones=[warmup])
