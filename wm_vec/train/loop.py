"""The training loop: EMA weights, early stopping on held-out loss, JSONL log, exact resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wm_vec.model import CanvasModel
from wm_vec.train.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from wm_vec.train.context_dropout import context_batch
from wm_vec.train.data import WorldData

EMA_DECAY = 0.999
EVAL_ROWS = 4096
WARMUP_STEPS = 200


@dataclass(frozen=True)
class TrainConfig:
    """How a world is trained.

    Attributes:
        n_steps: Gradient steps at most.
        batch_size: Rows a step.
        learning_rate: Peak of the cosine schedule, of AdamW.
        weight_decay: AdamW's.
        grad_clip: Largest gradient norm.
        context_dropout: Share of rows whose context is hidden, wholly or in part.
        eval_every: Steps between two evaluations on the held-out rows.
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
        for name in ("n_steps", "batch_size", "eval_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: `{name}` must be at least 1, got {getattr(self, name)}.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"TrainConfig: `patience` must be at least 1 or None, got {self.patience}.")
        for name in ("learning_rate", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"TrainConfig: `{name}` must be above 0 and finite, got {getattr(self, name)}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"TrainConfig: `weight_decay` must be finite and not negative, got {self.weight_decay}.")
        if not 0 <= self.context_dropout < 1:
            raise ValueError(f"TrainConfig: `context_dropout` must lie in [0, 1), got {self.context_dropout}.")


@dataclass(frozen=True)
class TrainReport:
    """What training came to.

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


def train_model(
    model: CanvasModel,
    data: WorldData,
    config: TrainConfig,
    *,
    log_path: str | os.PathLike[str] | None = None,
    resume_path: str | os.PathLike[str] | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainReport:
    """Train `model` in place; it ends with the EMA weights that did best on the held-out rows.

    Args:
        model: The model; its normalisers must be set.
        data: Steps to learn from; a part is held out.
        config: How.
        log_path: JSON lines, one per evaluation, appended to.
        resume_path: Where the run's state is kept while it goes on. If a state of the same run is there, training
            goes on from it and ends in the same weights, bit for bit, as if it had never been killed. The file stays:
            whoever saves the trained model removes it after that.
        progress: Called after every step with its number and the latest figures.

    Raises:
        CheckpointError: `resume_path` holds the state of another run.
        FloatingPointError: The loss turned non-finite; the model keeps the best weights until then.
    """
    run = _Run(model, data, config)
    if resume_path is not None and Path(resume_path).exists():
        run.restore(resume_path)
    resumed_from = run.step
    while run.step < config.n_steps and not run.out_of_patience:
        run.train_step()
        figures = {"loss": run.mean_loss, "held_out_loss": run.best_loss}
        if run.step % config.eval_every == 0 or run.step == config.n_steps:
            figures = {"held_out_loss": run.evaluate(), "loss": run.mean_loss}
            if not math.isfinite(figures["held_out_loss"]):
                model.load_state_dict(run.best)
                raise FloatingPointError(
                    f"Training diverged by step {run.step}: its held-out loss is {figures['held_out_loss']}. The model "
                    f"is back at its best weights, of step {run.best_step}. Lower `learning_rate`."
                )
            if log_path is not None:
                line = {"step": run.step, "learning_rate": run.learning_rate(), **figures}
                with Path(log_path).open("a") as log:
                    log.write(json.dumps(line) + "\n")
        if progress is not None:
            progress(run.step, figures)
        if resume_path is not None and run.step % config.checkpoint_every == 0:
            run.save(resume_path)
    model.load_state_dict(run.best)
    return TrainReport(run.step, run.mean_loss, run.best_loss, run.best_step, run.step < config.n_steps, resumed_from)


class _Run:
    """The state of a training run, all of which is saved and restored."""

    def __init__(self, model: CanvasModel, data: WorldData, config: TrainConfig) -> None:
        self.model, self.config = model, config
        device = model.codec.mean.device
        training, held_out = data.split(seed=config.seed)
        self.fingerprint = data.fingerprint()
        self.training = training.to(device)
        chosen = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(config.seed))[:EVAL_ROWS]
        self.held_out = held_out[chosen].to(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.parameters = dict(model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.best = {name: t.detach().clone() for name, t in model.state_dict().items()}
        self.best_loss, self.best_step = math.inf, 0
        self.step, self.loss_sum, self.loss_count = 0, torch.zeros((), device=device), 0
        self.mean_loss = math.nan

    @property
    def out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.step - self.best_step >= patience * self.config.eval_every

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to 1 % of the peak."""
        warmup = min(1.0, (self.step + 1) / WARMUP_STEPS)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.config.n_steps))
        return self.config.learning_rate * warmup * (0.01 + 0.99 * cosine)

    def train_step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        rows = torch.randint(len(self.training), (self.config.batch_size,), generator=self.generator)
        loss = self._loss(self.training, rows, self.generator, self.config.context_dropout)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.grad_clip)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)
        self.loss_sum += loss.detach()
        self.loss_count += 1

    @torch.no_grad()
    def evaluate(self) -> float:
        """Held-out loss of the EMA weights, always under the same noise; keeps the best weights."""
        self.mean_loss = float(self.loss_sum) / max(1, self.loss_count)
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        live = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._load(self.ema)
        rows = torch.arange(len(self.held_out))
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        held_out_loss = float(self._loss(self.held_out, rows, generator, 0.0))
        if held_out_loss < self.best_loss:
            self.best_loss, self.best_step = held_out_loss, self.step
            self.best = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        self._load(live)
        return held_out_loss

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that the rest of the run depends on."""
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state(), "loss_sum": self.loss_sum}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors |= {f"adam.{key}.{name}": value for key, value in state.items()}
            tensors |= {f"live.{name}": parameter, f"ema.{name}": self.ema[name]}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        numbers = {
            "step": self.step,
            "loss_count": self.loss_count,
            "mean_loss": repr(self.mean_loss),
            "best_loss": repr(self.best_loss),
            "best_step": self.best_step,
        }
        write_checkpoint(path, tensors, {"run": self._identity(), "numbers": numbers})

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Continue what `save` wrote."""
        tensors, config = read_checkpoint(path)
        if config.get("run") != self._identity():
            raise CheckpointError(
                f"{path} is the state of another training run (other data, schema or settings). Repeat the run that "
                "wrote it to finish it, or delete the file to start afresh."
            )
        numbers = config["numbers"]
        self.step, self.loss_count = numbers["step"], numbers["loss_count"]
        self.mean_loss, self.best_loss = float(numbers["mean_loss"]), float(numbers["best_loss"])
        self.best_step = numbers["best_step"]
        device = self.loss_sum.device
        self.generator.set_state(tensors["generator"])
        self.loss_sum = tensors["loss_sum"].to(device)
        self._load({name: tensors[f"live.{name}"] for name in self.parameters})
        self.ema = {name: tensors[f"ema.{name}"].to(device) for name in self.parameters}
        self.best = {name: tensors[f"best.{name}"].to(device) for name in self.best}
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                key: tensors[f"adam.{key}.{name}"].to("cpu" if key == "step" and device.type == "cpu" else device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def _identity(self) -> dict[str, Any]:
        return {
            "train": asdict(self.config),
            "model": asdict(self.model.config),
            "schema": self.model.bound.to_dict(),
            "fields": self.model.bound.field_names,
            "data": self.fingerprint,
        }

    def _load(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _loss(self, data: WorldData, rows: Tensor, generator: torch.Generator, dropout: float) -> Tensor:
        codec, device = self.model.codec, data.values.device
        dtype = codec.mean.dtype
        values, next_values, known, same_tick, weight = context_batch(data, rows, codec, dropout, generator)
        shape = (len(rows), data.values.shape[1], codec.num_channels)
        noise_level = torch.randn(len(rows), generator=generator).to(device, dtype)
        noise = torch.randn(shape, generator=generator).to(device, dtype)
        return self.model.loss(
            values.to(dtype), next_values.to(dtype), known, same_tick, weight.to(dtype), noise_level, noise
        )
