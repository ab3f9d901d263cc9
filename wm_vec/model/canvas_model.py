"""The whole model: how it learns and how it predicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.optim.optimizer import register_optimizer_step_post_hook

from wm_kernels import PackedWeights, kernel_tables
from wm_kernels.predict.reference import class_logits, read_numbers, trunk_reference
from wm_vec.canvas import BoundSchema, Topology
from wm_vec.canvas.layout import MAX_D_MODEL
from wm_vec.compat import writes
from wm_vec.model.codec import KNOWN, SAME_TICK, UNKNOWN, FieldCodec
from wm_vec.model.denoiser import Denoiser, karras_sigmas, masked_mean
from wm_vec.plain import check_type, take_numbers
from wm_vec.torch_settings import float32_by_default, without_autocast

MAX_DEPTH = 128
RANGES: dict[str, tuple[float, float]] = {
    "num_blocks": (1, MAX_DEPTH),
    "num_loops": (1, MAX_DEPTH),
    "mlp_ratio": (1, 64),
    "sigma_min": (1e-6, 1e3),
    "sigma_max": (1e-6, 1e3),
    "rho": (1.0, 1e3),
    "noise_mean": (-20.0, 20.0),
    "noise_std": (0.0, 20.0),
    "first_share": (0.0, 1.0),
    "n_denoise_steps": (1, 128),
    "ticks_per_step": (1, 2**31 - 1),
}
"""Of a `ModelConfig`: what is beyond is a mistake, or a file that would take hours or all memory."""


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
        first_share: Share of a batch that trains the first pass; the others train the passes after it.
        n_denoise_steps: Default number of passes of a predict.
        ticks_per_step: Ticks of the fields' periods that one env step lasts.
        topology: Which positions attend to which: ``"dense"`` is all to all; with ``"groups"`` all of a group to each
            other, and to other groups through summaries, see `Topology`.
        num_heads: Attention heads, a divisor of ``d_model``; None for ``d_model // 32``, whose width kernels take.

    Raises:
        ValueError: A number that is out of its range, or not whole where it must be.
    """

    num_blocks: int = 3
    num_loops: int = 1
    mlp_ratio: int = 4
    sigma_min: float = 0.1
    sigma_max: float = 0.8
    rho: float = 7.0
    noise_mean: float = -0.9
    noise_std: float = 1.0
    first_share: float = 0.25
    n_denoise_steps: int = 4
    ticks_per_step: int = 1
    topology: Literal["dense", "groups"] = "dense"
    num_heads: int | None = None

    def __post_init__(self) -> None:
        take_numbers(self, RANGES)
        if self.num_heads is not None:
            take_numbers(self, {"num_heads": (1, MAX_D_MODEL)})
        if self.num_blocks * self.num_loops > MAX_DEPTH:
            raise ValueError(
                f"ModelConfig: num_blocks x num_loops is at most {MAX_DEPTH}, got {self.num_blocks} x {self.num_loops}."
            )
        if self.sigma_min > self.sigma_max:
            raise ValueError(f"ModelConfig: `sigma_min` {self.sigma_min} is above `sigma_max` {self.sigma_max}.")
        if self.topology not in ("dense", "groups"):
            raise ValueError(f"ModelConfig: `topology` must be 'dense' or 'groups', got {self.topology!r}.")


class CanvasModel(nn.Module):
    """A diffusion model of a world's next state, over a canvas of fields.

    Args:
        bound: The compiled schema.
        config: The rest of what defines the network.

    Attributes:
        noise_size: Standard normals that a predict takes per env, N.

    Raises:
        ValueError: Heads that do not divide the width, or too many groups for ``topology="groups"``.
    """

    @torch.inference_mode(False)  # nobody could learn, or keep a graph over, parameters that are made in it
    @float32_by_default()
    def __init__(self, bound: BoundSchema, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.bound = bound
        self.config = ModelConfig() if config is None else config
        check_type(self.config, ModelConfig, "config")
        width = bound.layout.d_model
        num_heads = width // 32 if self.config.num_heads is None else self.config.num_heads
        if width % num_heads:
            raise ValueError(f"ModelConfig: `num_heads` must divide d_model, {width}, got {num_heads}.")
        self.codec = FieldCodec(bound)
        self.noise_size = self.bound.layout.num_positions
        self.denoiser = Denoiser(
            bound.layout.num_positions,
            self.codec.embedding.shape[0],
            width,
            self.config.num_blocks,
            self.config.num_loops,
            self.config.mlp_ratio,
            num_heads,
            Topology.of(bound) if self.config.topology == "groups" else None,
        )
        # With each the object that stands for its place.
        self._packed: dict[tuple[int, torch.dtype | None], tuple[list[int], PackedWeights, object]] = {}
        self._sources: list[Tensor] | None = None  # a walk over all modules takes longer than the rest of `_versions`
        self._refreshes = 0
        self.register_load_state_dict_post_hook(CanvasModel._force_refresh)
        _MODELS.add(self)

    def sigmas(self, n_denoise_steps: int) -> tuple[float, ...]:
        """The sampler's noise levels for K passes: K - 1 falling ones for those after the first, and a closing 0."""
        if n_denoise_steps < 1:
            raise ValueError(f"n_denoise_steps must be at least 1, got {n_denoise_steps}.")
        config = self.config
        return karras_sigmas(n_denoise_steps - 1, config.sigma_min, config.sigma_max, config.rho)

    def num_first(self, batch: int) -> int:
        """How many of a batch's examples train the first pass: most of them where no pass after it has a number."""
        codec, share = self.codec, self.config.first_share
        if not codec.has_numbers:
            share = 1 - share if codec.num_first < len(codec.classes) else 1.0
        return round(batch * share)

    def loss(
        self,
        values: Tensor,
        next_values: Tensor,
        known: Tensor,
        same_tick: Tensor,
        told: Tensor,
        weight: Tensor,
        noise_level: Tensor,
        noise: Tensor,
        num_first: int,
        bounded: bool = False,
    ) -> Tensor:
        """The squared error of numbers, and the cross-entropy of classes in the pass that draws them; a scalar.

        The first examples train the first pass. The others are told the true classes, and train the denoising of the
        numbers, with EDM's weights, and the classes that are drawn last.

        Args:
            values: ``(B, N)`` float, current values; finite everywhere.
            next_values: ``(B, N)`` float, what is to be predicted; finite everywhere.
            known: ``(B, N)`` bool, what the context says.
            same_tick: ``(B,)`` bool, samples whose context belongs to the predicted tick.
            told: ``(B, N)`` bool, classes that the others are told of.
            weight: ``(B, N)`` float, 0 where there is nothing to learn.
            noise_level: ``(B,)`` standard normals that place ln(sigma).
            noise: ``(B, N)`` standard normals.
            num_first: How many examples train the first pass.
            bounded: Squared errors of at most 1, and Brier's score instead of the cross-entropy of all classes but the
                leading one: no step that the data do not foretell can outweigh the others.
        """
        codec, weights = self.codec, self.denoiser.weights(self.codec, (0.0, 0.0))
        first, later, at = slice(num_first), slice(num_first, None), weights.class_positions
        tokens = codec.encode(values, known, same_tick)
        clean = codec.target(values, next_values, known & ~same_tick[:, None])
        index = codec.class_index(next_values, codec.classes)
        rows, says = index + codec.first_row[at], told[:, at, None]
        tell, peer = (table[rows] * says for table in (self.denoiser.told, self.denoiser.peer))
        peers = peer.cumsum(1) - peer  # of the classes before

        sigma = torch.exp(noise_level[later] * self.config.noise_std + self.config.noise_mean)
        spread = sigma[:, None]
        norm = torch.sqrt(1 + spread.square())
        noisy = clean[later] + spread * noise[later]
        context = tokens[later].index_add(1, at[: codec.num_first], tell[later, : codec.num_first])
        context = torch.addcmul(context, (noisy / norm).unsqueeze(-1), weights.noise_weight)
        table = self.denoiser.modulation(sigma)
        modulation = torch.cat((table[:1].expand(num_first, -1, -1, -1), table[1:]))
        normed = trunk_reference(torch.cat((tokens[first], context)), modulation, weights)

        output = read_numbers(normed, weights)
        denoised = (noisy / norm + spread * output[later]) / norm
        each = weight * codec.loss_weight * codec.is_number
        error = (denoised - clean[later]).square() * (1 + spread.square()) / spread.square()
        error = torch.cat(((output[first] - clean[first]).square(), error)).clamp(max=1.0 if bounded else None, min=0.0)
        total = masked_mean(error[first], each[first]) + masked_mean(error[later], each[later])
        groups = Counter(map(codec.group, codec.classes))
        for i, place in enumerate(codec.classes):
            part = first if i < codec.num_first else later
            head = self.denoiser.head(codec, place)
            logits = class_logits(normed[part, place.position], head, peers[part, i])
            if bounded and place.position != codec.end:
                error = (logits.softmax(-1) - one_hot(index[part, i], place.num_classes)).square().sum(-1)
            else:
                error = cross_entropy(logits, index[part, i], reduction="none")
            mean = masked_mean(error, weight[part, place.position])
            total = total + mean * codec.loss_weight[place.position] / groups[codec.group(place)]
        return total

    @torch.no_grad()
    def measure_spread(self, values: Tensor, next_values: Tensor, known: Tensor, weight: Tensor) -> None:
        """Set the codec's `spread` from steps that the network has not learned.

        Args:
            values, next_values, known, weight: As in `loss`.
        """
        codec, start = self.codec, torch.zeros(len(values), dtype=torch.bool, device=values.device)
        weights = self.denoiser.weights(codec, (0.0,))
        tokens = codec.encode(values, known, start)
        modulation = self.denoiser.modulation(values.new_zeros(0))[0]
        mean = read_numbers(trunk_reference(tokens, modulation, weights), weights)
        error = (mean - codec.target(values, next_values, known)).square()
        squares = (error * weight).sum(0) / weight.sum(0).clamp(min=1)
        # Of a normal distribution the median is .455 of the mean; where rare jumps make up the mean, it is far below.
        typical = error.masked_fill(weight == 0, torch.nan).nanmedian(0).values.nan_to_num() / 0.455
        codec.spread.copy_(torch.minimum(squares, typical) * codec.is_number)

    def packed(self, n_denoise_steps: int, kernel_dtype: torch.dtype | None = None) -> PackedWeights:
        """The packed weights of a step: made once, refreshed in the same storage when parameters have changed.

        With a `kernel_dtype` they hold the tables of the kernels, too, of a network in that dtype.

        Moving or casting the model makes new ones. Writes through ``parameter.data`` are the one change that torch does
        not count: write under ``torch.no_grad()`` instead.
        """
        if torch.compiler.is_compiling():
            # Traced with the step, which so reads the parameters as they are, and no tables of before.
            known = self.codec.is_input[None]
            return self._pack(n_denoise_steps, known, known, KNOWN)
        key = n_denoise_steps, kernel_dtype
        versions, found = self._versions(), self._packed.get(key)
        if found is not None and found[0] == versions:
            return found[1]
        packed = self._repacked(*key, None if found is None else found[1])
        place = found[2] if found is not None and packed is found[1] else object()
        self._packed[key] = (versions, packed, place)
        return packed

    def packed_place(self, n_denoise_steps: int, kernel_dtype: torch.dtype | None = None) -> object:
        """Stands for where the packed weights of a step lie, which are up to date: another object once they moved."""
        self.packed(n_denoise_steps, kernel_dtype)
        return self._packed[n_denoise_steps, kernel_dtype][2]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _repacked(
        self, n_denoise_steps: int, kernel_dtype: torch.dtype | None, held: PackedWeights | None
    ) -> PackedWeights:
        """The packed weights of the parameters as they are, in the storage of `held` if there is any; without a graph.

        Made in inference mode, too, they are tensors that a later step can keep a graph over.
        """
        known = self.codec.is_input[None]
        packed = self._pack(n_denoise_steps, known, known, KNOWN)
        if kernel_dtype is not None:
            packed = packed._replace(kernel=kernel_tables(packed, kernel_dtype))
        if held is None or not held.like(packed):
            return packed.clone()
        held.copy_(packed)
        return held

    @torch.no_grad()
    @without_autocast
    def fill_in(self, values: Tensor, known: Tensor, noise: Tensor, n_denoise_steps: int) -> Tensor:
        """Complete partly known states of one tick.

        Args:
            values: ``(B, N)`` float; read at known positions alone.
            known: ``(B, N)`` bool. Nothing known at all gives starts of episodes.
            noise: ``(B, N)`` standard normals.
            n_denoise_steps: Passes.

        Returns:
            ``(B, N)`` float: known values as they were, the others sampled.
        """
        told = known & self.codec.is_input  # what the network reads; a reward, for one, is only kept
        packed = self._pack(n_denoise_steps, told, torch.zeros_like(known), SAME_TICK)
        return packed.predict(torch.where(known, values, 0.0), noise, known)

    def _versions(self) -> list[int]:
        """Changes whenever a parameter or normaliser is written in place, or its storage replaced."""
        if self._sources is None:
            self._sources = [*self.parameters(), *self.codec.learned_buffers()]
        return [self._refreshes, *map(writes, self._sources), *map(Tensor.data_ptr, self._sources)]

    def _force_refresh(self, *_: Any) -> None:
        """Pack again at the next step, whatever the versions say."""
        if not self.codec.num_classes.is_meta:  # which has no values to read
            self.codec.read_classes()
        self._sources = None
        self._refreshes += 1

    @torch.inference_mode(False)
    def _apply(self, fn: Any, recurse: bool = True) -> CanvasModel:
        """Moves and casts make tensors of another kind, so packed weights are made anew."""
        self._packed, self._sources = {}, None
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, object]) -> CanvasModel:
        copied = CanvasModel(self.bound, self.config).to(self.codec.mean.device, self.codec.mean.dtype)
        copied.load_state_dict(self.state_dict())
        copied.codec.read_classes(self.codec.counts)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": {}, "_sources": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _MODELS.add(self)  # as __init__ does, which unpickling leaves out

    @torch.inference_mode(False)
    @torch.no_grad()
    def _pack(self, n_denoise_steps: int, known: Tensor, relative: Tensor, flag: int) -> PackedWeights:
        codec = self.codec
        if not codec.has_numbers:  # nothing to denoise: one pass, and one for what is drawn last
            n_denoise_steps = min(n_denoise_steps, 1 if codec.num_first == len(codec.classes) else 2)
        biases = codec.biases()
        base, shift, step_scale = codec.affine(relative)
        sigmas = self.sigmas(n_denoise_steps)
        levels = torch.tensor(sigmas[:-1], dtype=codec.mean.dtype).to(codec.mean.device)
        # What was no input of a step did not lead to a state by itself.
        told = codec.is_input if flag == SAME_TICK else 1.0
        return PackedWeights(
            known=known,
            is_input=codec.is_input,
            center=codec.mean,
            scale=codec.inverse_std(),
            weight=codec.number_weight(),
            known_bias=biases[flag],
            unknown_bias=biases[UNKNOWN],
            classes=codec.input_tables(),
            base=base,
            shift=shift,
            step_scale=step_scale,
            low=codec.low,
            high=codec.high,
            end=codec.end if codec.by_end else None,
            modulation=self.denoiser.modulation(levels),
            denoiser=self.denoiser.weights(codec, sigmas, told),
            sigmas=sigmas,
        )


_MODELS: WeakSet[CanvasModel] = WeakSet()


def _note_fused_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Fused optimizers write into parameters without counting it as a change, so it is noted here."""
    stepped = {id(p) for group in optimizer.param_groups if group.get("fused") for p in group["params"]}
    for model in list(_MODELS) if stepped else ():
        if any(id(parameter) in stepped for parameter in model.parameters()):
            model._force_refresh()


register_optimizer_step_post_hook(_note_fused_step)
