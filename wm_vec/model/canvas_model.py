"""The whole model: how it learns and how it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wm_kernels import DenoiserWeights, decode_fields, encode_fields, predict
from wm_vec.canvas import BoundSchema
from wm_vec.model.codec import KNOWN, SAME_TICK, UNKNOWN, FieldCodec
from wm_vec.model.denoiser import Denoiser, detach, karras_sigmas, masked_mean


@dataclass(frozen=True)
class ModelConfig:
    """What a checkpoint freezes besides the schema.

    Attributes:
        num_blocks: Transformer blocks of their own weights.
        num_loops: Times the blocks are gone through.
        mlp_ratio: Hidden width of the MLPs over ``d_model``.
        sigma_min: Lowest noise level of the sampler, in standard deviations of the target.
        sigma_max: Highest one.
        rho: Curvature of the noise schedule.
        noise_mean: Mean of ln(sigma) in training.
        noise_std: Standard deviation of ln(sigma) in training.
        n_denoise_steps: Default number of denoiser evaluations of a predict.
    """

    num_blocks: int = 3
    num_loops: int = 1
    mlp_ratio: int = 4
    sigma_min: float = 0.1
    sigma_max: float = 5.0
    rho: float = 7.0
    noise_mean: float = -0.4
    noise_std: float = 1.2
    n_denoise_steps: int = 3


@dataclass(frozen=True)
class Prepared:
    """Weights and constant tables of one kind of predict, as the kernels take them.

    Everything is a view of the model's parameters or a small table made from them; `CanvasModel.prepare` makes it
    anew when they have changed. `known` ``(M, N)`` bool says what the context tells, `relative` ``(M, N)`` bool which
    positions are predicted as residuals on their current value.
    """

    codec: FieldCodec
    known: Tensor
    relative: Tensor
    center: Tensor
    scale: Tensor
    weight: Tensor
    known_bias: Tensor
    unknown_bias: Tensor
    base: Tensor
    shift: Tensor
    residual_scale: Tensor
    output_bits: Tensor
    modulation: Tensor
    denoiser: DenoiserWeights
    sigmas: tuple[float, ...]
    heun: bool

    def __call__(self, values: Tensor, noise: Tensor, hold: Tensor | None = None) -> Tensor:
        """One predict.

        Args:
            values: ``(B, N)`` float, current values in the fields' own units.
            noise: ``(B, N * V)`` standard normals.
            hold: ``(M, N)`` bool with M = B or 1: positions that keep their value through the step, and whose
                keeping the others are told of.

        Returns:
            ``(B, N)`` float, the next values.
        """
        codec = self.codec
        canvas = encode_fields(
            values,
            self.known,
            self.center,
            self.scale,
            codec.num_bits,
            self.weight,
            self.known_bias,
            self.unknown_bias,
        )
        held = None if hold is None else codec.target(values, values, self.relative)
        sample = predict(
            canvas,
            noise.view(*values.shape, -1),
            self.modulation,
            self.denoiser,
            self.sigmas,
            self.heun,
            hold,
            held,
        )
        decoded = decode_fields(
            sample,
            values,
            self.base,
            self.shift,
            self.residual_scale,
            codec.low,
            codec.high,
            self.output_bits,
            codec.num_classes,
        )
        return decoded if hold is None else torch.where(hold, values, decoded)


class CanvasModel(nn.Module):
    """A diffusion model of a world's next state, over a canvas of fields.

    Args:
        bound: The compiled schema.
        config: The rest of what defines the network.

    Attributes:
        noise_size: Standard normals that a predict takes per row, N * V.
    """

    def __init__(self, bound: BoundSchema, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.bound = bound
        self.config = config or ModelConfig()
        self.codec = FieldCodec(bound)
        self.noise_size = self.bound.layout.num_positions * self.codec.num_channels
        self.denoiser = Denoiser(
            bound.layout.num_positions,
            self.codec.num_channels,
            bound.layout.d_model,
            self.config.num_blocks,
            self.config.num_loops,
            self.config.mlp_ratio,
        )
        self._sources: list[Tensor] | None = None
        self._prepared: dict[tuple[int, bool], tuple[list[int], Prepared]] = {}
        self.register_load_state_dict_post_hook(CanvasModel._forget)
        _MODELS.add(self)

    def sigmas(self, n_denoise_steps: int) -> tuple[float, ...]:
        """The sampler's noise levels for K evaluations, falling, with a closing 0."""
        if n_denoise_steps < 1:
            raise ValueError(f"n_denoise_steps must be at least 1, got {n_denoise_steps}.")
        config = self.config
        return karras_sigmas(n_denoise_steps, config.sigma_min, config.sigma_max, config.rho)

    def loss(
        self,
        values: Tensor,
        next_values: Tensor,
        known: Tensor,
        same_tick: Tensor,
        weight: Tensor,
        noise_level: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """EDM's denoising loss, a scalar.

        Args:
            values: ``(B, N)`` float, current values; finite everywhere.
            next_values: ``(B, N)`` float, what is to be predicted; finite everywhere.
            known: ``(B, N)`` bool, what the context tells.
            same_tick: ``(B,)`` bool, rows whose context belongs to the predicted tick.
            weight: ``(B, N)`` float, 0 where there is nothing to learn.
            noise_level: ``(B,)`` standard normals that place ln(sigma).
            noise: ``(B, N, V)`` standard normals.
        """
        codec = self.codec
        clean = codec.target(values, next_values, known & ~same_tick[:, None])
        sigma = torch.exp(noise_level * self.config.noise_std + self.config.noise_mean)
        spread = sigma[:, None, None]
        denoised = self.denoiser(codec.encode(values, known, same_tick), clean + spread * noise, sigma, codec.is_output)
        error = (denoised - clean).square() * (1 + spread.square()) / spread.square()
        used = codec.used_channels().to(values.dtype)
        per_position = (error * used).sum(-1) / used.sum(-1)
        return masked_mean(per_position, weight * codec.loss_weight * codec.is_output)

    def prepare(self, n_denoise_steps: int, heun: bool = False) -> Prepared:
        """What a step needs, made once and again only when parameters or normalisers have changed.

        Writes through ``parameter.data`` are the one change that torch does not count: write under
        ``torch.no_grad()`` instead.
        """
        if torch.compiler.is_compiling():
            # Traced with the step: a compiled step reads the parameters as they are, and no cache of before.
            return self._prepare(n_denoise_steps, heun, self.codec.is_input[None], self.codec.is_input[None], KNOWN)
        key = (n_denoise_steps, heun)
        versions = self._versions()
        cached = self._prepared.get(key)
        if cached is None or cached[0] != versions:
            known = self.codec.is_input[None]
            prepared = self._prepare(n_denoise_steps, heun, known, known, KNOWN)
            self._prepared[key] = cached = (versions, prepared)
        return cached[1]

    @torch.no_grad()
    def fill_in(self, values: Tensor, known: Tensor, noise: Tensor, n_denoise_steps: int, heun: bool = False) -> Tensor:
        """Complete partly known states of one tick.

        Args:
            values: ``(B, N)`` float; read at known positions alone.
            known: ``(B, N)`` bool. Nothing known at all gives starts of episodes.
            noise: ``(B, N * V)`` standard normals.
            n_denoise_steps: Denoiser evaluations.
            heun: Second-order sampler.

        Returns:
            ``(B, N)`` float: known values as they were, the others sampled.
        """
        told = known & self.codec.is_input  # what the network reads; a reward, say, is only kept
        prepared = self._prepare(n_denoise_steps, heun, told, torch.zeros_like(known), SAME_TICK)
        return prepared(torch.where(known, values, 0.0), noise, known)

    def _versions(self) -> list[int]:
        """Changes whenever what `Prepared` was computed from is written in place, or its views' storage replaced."""
        if self._sources is None:
            parameters = list(self.parameters())
            self._storages = [parameters[0], parameters[-1]]  # those of codec and denoiser may be replaced apart
            self._sources = [
                tensor
                for name, tensor in self.named_parameters()
                if not (name.startswith("denoiser.blocks") and name.split(".")[3] != "modulation")
                and name not in ("codec.weight", "denoiser.head_weight", "denoiser.head_bias")
            ] + self.codec.learned_buffers()
        first, last = self._storages
        return [*map(_VERSION, self._sources), first.data_ptr(), last.data_ptr()]

    def _apply(self, fn: Any, recurse: bool = True) -> CanvasModel:
        """Moves and casts make new tensors: forget what was made from the old ones."""
        self._forget()
        return super()._apply(fn, recurse)

    def _forget(self, *_: Any) -> None:
        self._sources = None
        self._prepared = {}

    def __deepcopy__(self, memo: dict[int, object]) -> CanvasModel:
        copied = CanvasModel(self.bound, self.config).to(self.codec.mean.device, self.codec.mean.dtype)
        copied.load_state_dict(self.state_dict())
        return copied

    def __getstate__(self) -> dict[str, Any]:
        # What `prepare` made is views of the weights, and would be pickled as tensors of its own.
        return {**self.__dict__, "_sources": None, "_prepared": {}, "_storages": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _MODELS.add(self)  # as __init__ does, which unpickling leaves out

    @torch.inference_mode(False)
    @torch.no_grad()
    def _prepare(self, n_denoise_steps: int, heun: bool, known: Tensor, relative: Tensor, flag: int) -> Prepared:
        codec = self.codec
        biases = codec.biases()
        center, scale = codec.center_scale()
        base, shift, residual_scale = codec.affine(relative)
        sigmas = self.sigmas(n_denoise_steps)
        levels = torch.tensor(sigmas[:-1], dtype=codec.mean.dtype).to(codec.mean.device)
        return Prepared(
            codec=codec,
            known=known,
            relative=relative,
            center=center,
            scale=scale,
            weight=codec.weight.detach(),
            known_bias=biases[flag],
            unknown_bias=biases[UNKNOWN],
            base=base,
            shift=shift,
            residual_scale=residual_scale,
            output_bits=codec.output_bits(),
            modulation=self.denoiser.modulation(levels),
            denoiser=detach(self.denoiser.weights(codec.is_output)),
            sigmas=sigmas,
            heun=heun,
        )


_VERSION = attrgetter("_version")
_MODELS: WeakSet[CanvasModel] = WeakSet()


def _forget_stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Fused optimizers write into parameters without counting it as a change, so it is noted here."""
    stepped = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for model in list(_MODELS) if stepped else ():
        if any(id(parameter) in stepped for parameter in model.parameters()):
            model._forget()


register_optimizer_step_post_hook(_forget_stepped)
