"""The transformer that denoises the next values over an encoded canvas."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wm_kernels import Attention, BlockWeights, ClassHead, DenoiserWeights
from wm_vec.canvas import Topology
from wm_vec.model.codec import ClassPosition, FieldCodec

NUM_FREQUENCIES = 16
TILE = 64
"""Queries that share a list of keys on the CPU."""
NEVER = -1e9
"""The logit of a class that is never drawn: finite, so that a loss of weight 0 stays 0."""


class Block(nn.Module):
    """Parameters of one transformer block; `denoiser_block` does the work."""

    def __init__(self, width: int, mlp_ratio: int, depth: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():
            # Scales and gates start at 1.
            self.modulation.bias.view(6, width)[[1, 2, 4, 5]] = 1.0
        for linear in (self.out, self.down):
            nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * depth))
            nn.init.zeros_(linear.bias)

    def weights(self) -> BlockWeights:
        """The block's parameters as the operations take them."""
        return BlockWeights(
            self.qkv.weight,
            self.qkv.bias,
            self.out.weight,
            self.out.bias,
            self.up.weight,
            self.up.bias,
            self.down.weight,
            self.down.bias,
        )


class Denoiser(nn.Module):
    """Noise embedding, blocks, the read-outs of numbers and of classes.

    Args:
        num_positions: N.
        num_rows: R, rows of the table of classes.
        width: D, a multiple of 32.
        num_blocks: Blocks of their own weights.
        num_loops: How often the blocks are gone through; depth L = num_blocks * num_loops.
        mlp_ratio: Hidden width of the MLP over D.
        num_heads: Attention heads; D divides by it.
        topology: Which positions attend to which; None for all to all.
    """

    def __init__(
        self,
        num_positions: int,
        num_rows: int,
        width: int,
        num_blocks: int,
        num_loops: int,
        mlp_ratio: int,
        num_heads: int,
        topology: Topology | None,
    ) -> None:
        super().__init__()
        self.num_loops = num_loops
        self.num_heads = num_heads
        self.blocks = nn.ModuleList(Block(width, mlp_ratio, num_blocks * num_loops) for _ in range(num_blocks))
        self.noise_embedding = nn.Sequential(
            nn.Linear(2 * NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.first_embedding = nn.Parameter(torch.randn(width) * 0.1)
        self.noise_weight = nn.Parameter(torch.randn(num_positions, width) * 0.5)
        self.head_weight = nn.Parameter(torch.zeros(num_positions, width))
        self.head_bias = nn.Parameter(torch.zeros(num_positions))
        self.class_weight = nn.Parameter(torch.zeros(num_rows, width))
        self.class_bias = nn.Parameter(torch.zeros(num_rows))
        self.told = nn.Parameter(torch.randn(num_rows, width) * 0.5)
        self.peer = nn.Parameter(torch.randn(num_rows, width) * 0.5)
        self.summary: nn.Parameter | None = None
        if topology is not None:
            self.summary = nn.Parameter(torch.randn(topology.num_summaries, width) * 0.5)
            for block in self._own_blocks():
                # From group to group it takes several attentions; small ones would let no gradient through.
                nn.init.normal_(block.out.weight, std=width**-0.5)
            for name, table in zip(Attention._fields[1:], (topology.mask, *topology.tiles(TILE)), strict=True):
                self.register_buffer(name, table.to(self.summary.device), persistent=False)

    def _own_blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def weights(self, codec: FieldCodec, sigmas: tuple[float, ...], told: float | Tensor = 1.0) -> DenoiserWeights:
        """All parameters as the operations take them.

        Args:
            codec: Says what is a number and what a class.
            sigmas: K noise levels, as `predict` takes them.
            told: Factor ``(N,)`` on what a drawn class tells the others.
        """
        heads = [self.head(codec, c) for c in codec.classes]
        first, late = tuple(heads[: codec.num_first]), tuple(heads[codec.num_first :])
        draws = (first + late,) if len(sigmas) == 1 else (first, *[()] * (len(sigmas) - 2), late)
        if isinstance(told, Tensor):
            draws = tuple(
                tuple(h._replace(told=h.told * told[h.position], peer=h.peer * told[h.position]) for h in drawn)
                for drawn in draws
            )
        return DenoiserWeights(
            blocks=tuple(block.weights() for block in self._own_blocks()) * self.num_loops,
            noise_weight=self.noise_weight * codec.is_number[:, None],
            head_weight=self.head_weight,
            head_bias=self.head_bias,
            start_scale=torch.sqrt(codec.spread + sigmas[0] ** 2),
            draws=draws,
            class_positions=torch.tensor([h.position for h in heads], dtype=torch.int64, device=codec.mean.device),
            num_heads=self.num_heads,
            attention=self._attention(),
        )

    def _attention(self) -> Attention | None:
        if self.summary is None:
            return None
        return Attention(self.summary, *(self.get_buffer(name) for name in Attention._fields[1:]))

    def head(self, codec: FieldCodec, place: ClassPosition) -> ClassHead:
        """The parameters of one position's class."""
        rows = place.rows
        bias = self.class_bias[rows].masked_fill(~codec.class_seen[rows], NEVER)
        value = codec.class_value[rows]
        return ClassHead(place.position, self.class_weight[rows], bias, value, self.told[rows], self.peer[rows])

    def modulation(self, sigma: Tensor) -> Tensor:
        """Shifts, scales and gates of all blocks in every pass.

        Args:
            sigma: ``(K - 1,)`` float, the noise levels of the passes after the first.

        Returns:
            ``(K, L, 6, D)``, the first pass before them.
        """
        frequency = torch.exp(torch.linspace(0.0, 4.0, NUM_FREQUENCIES, device=sigma.device, dtype=sigma.dtype))
        angle = (sigma.log() / 4)[:, None] * frequency
        embedding = self.noise_embedding(torch.cat((angle.sin(), angle.cos()), -1))
        embedding = torch.cat((self.first_embedding[None], embedding))
        tables = [block.modulation(embedding).unflatten(-1, (6, -1)) for block in self._own_blocks()]
        return torch.stack(tables * self.num_loops, 1)


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> tuple[float, ...]:
    """EDM's noise schedule (equation 5 of Karras et al., 2022): `num_steps` falling levels, then 0."""
    if num_steps < 2:
        return (*[sigma_max] * num_steps, 0.0)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (*((high + k / (num_steps - 1) * (low - high)) ** rho for k in range(num_steps)), 0.0)


def masked_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over all elements; 0 where all weights are 0."""
    return (loss * weight).sum() / weight.sum().clamp(min=1e-12)
