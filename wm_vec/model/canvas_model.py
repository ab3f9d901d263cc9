"""The whole model: how it learns and how it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wm_vec.canvas import BoundSchema
from wm_vec.compat import writes
from wm_vec.model.codec import KNOWN, SAME_TICK, UNKNOWN, FieldCodec
from wm_vec.model.denoiser import Denoiser, karras_sigmas, masked_mean
from wm_vec.model.packed_weights import PackedWeights


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


class CanvasModel(nn.Module):
    """A diffusion model of a world's next state, over a canvas of fields.

    Args:
        bound: The compiled schema.
        config: The rest of what defines the network.

    Attributes:
        noise_size: Standard normals that a predict takes per env, N * V.
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
        self._packed: dict[tuple[int, bool], tuple[list[int], PackedWeights]] = {}
        self._sources: list[Tensor] | None = None  # a walk over all modules takes longer than the rest of `_versions`
        self._refreshes = 0
        self.register_load_state_dict_post_hook(CanvasModel._force_refresh)
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
            known: ``(B, N)`` bool, what the context says.
            same_tick: ``(B,)`` bool, samples whose context belongs to the predicted tick.
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

    def packed(self, n_denoise_steps: int, heun: bool = False) -> PackedWeights:
        """The packed weights of a step: made once, refreshed in the same storage when parameters have changed.

        Moving or casting the model makes new ones. Writes through ``parameter.data`` are the one change that torch does
        not count: write under ``torch.no_grad()`` instead.
        """
        if torch.compiler.is_compiling():
            # Traced with the step, which so reads the parameters as they are, and no tables of before.
            known = self.codec.is_input[None]
            return self._pack(n_denoise_steps, heun, known, known, KNOWN)
        key, versions = (n_denoise_steps, heun), self._versions()
        found = self._packed.get(key)
        if found is not None and found[0] == versions:
            return found[1]
        packed = self._repacked(n_denoise_steps, heun, None if found is None else found[1])
        self._packed[key] = (versions, packed)
        return packed

    @torch.inference_mode(False)
    @torch.no_grad()
    def _repacked(self, n_denoise_steps: int, heun: bool, held: PackedWeights | None) -> PackedWeights:
        """The packed weights of the parameters as they are, in the storage of `held` if there is any; without a graph.

        Made in inference mode, too, they are tensors that a later step can keep a graph over.
        """
        known = self.codec.is_input[None]
        packed = self._pack(n_denoise_steps, heun, known, known, KNOWN)
        if held is None:
            return packed.clone()
        held.copy_(packed)
        return held

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
        told = known & self.codec.is_input  # what the network reads; a reward, for one, is only kept
        packed = self._pack(n_denoise_steps, heun, told, torch.zeros_like(known), SAME_TICK)
        return packed.predict(torch.where(known, values, 0.0), noise, known)

    def _versions(self) -> list[int]:
        """Changes whenever a parameter or normaliser is written in place, or its storage replaced."""
        if self._sources is None:
            self._sources = [*self.parameters(), *self.codec.learned_buffers()]
        return [self._refreshes, *map(writes, self._sources), *map(Tensor.data_ptr, self._sources)]

    def _force_refresh(self, *_: Any) -> None:
        """Pack again at the next step, whatever the versions say."""
        self._sources = None
        self._refreshes += 1

    def _apply(self, fn: Any, recurse: bool = True) -> CanvasModel:
        """Moves and casts make tensors of another kind, so packed weights are made anew."""
        self._packed, self._sources = {}, None
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, object]) -> CanvasModel:
        copied = CanvasModel(self.bound, self.config).to(self.codec.mean.device, self.codec.mean.dtype)
        copied.load_state_dict(self.state_dict())
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": {}, "_sources": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _MODELS.add(self)  # as __init__ does, which unpickling leaves out

    @torch.inference_mode(False)
    @torch.no_grad()
    def _pack(self, n_denoise_steps: int, heun: bool, known: Tensor, relative: Tensor, flag: int) -> PackedWeights:
        codec = self.codec
        biases = codec.biases()
        center, scale = codec.center_scale()
        base, shift, residual_scale = codec.affine(relative)
        sigmas = self.sigmas(n_denoise_steps)
        levels = torch.tensor(sigmas[:-1], dtype=codec.mean.dtype).to(codec.mean.device)
        return PackedWeights(
            codec=codec,
            known=known,
            relative=relative,
            center=center,
            scale=scale,
            weight=codec.weight,
            known_bias=biases[flag],
            unknown_bias=biases[UNKNOWN],
            base=base,
            shift=shift,
            residual_scale=residual_scale,
            output_bits=codec.output_bits(),
            modulation=self.denoiser.modulation(levels),
            denoiser=self.denoiser.weights(codec.is_output),
            sigmas=sigmas,
            heun=heun,
        )


_MODELS: WeakSet[CanvasModel] = WeakSet()


def _note_fused_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Fused optimizers write into parameters without counting it as a change, so it is noted here."""
    stepped = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for model in list(_MODELS) if stepped else ():
        if any(id(parameter) in stepped for parameter in model.parameters()):
            model._force_refresh()


register_optimizer_step_post_hook(_note_fused_step)
