"""The transformer that denoises the next values over an encoded canvas."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wm_kernels import BlockWeights, DenoiserWeights
from wm_kernels.predict.reference import denoise_reference

NUM_FREQUENCIES = 16


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
    """Noise embedding, blocks and per-position read-outs.

    Args:
        num_positions: N.
        num_channels: V.
        width: D, a multiple of 32; heads are 32 wide.
        num_blocks: Blocks of their own weights.
        num_loops: How often the blocks are gone through; depth L = num_blocks * num_loops.
        mlp_ratio: Hidden width of the MLP over D.
    """

    def __init__(
        self, num_positions: int, num_channels: int, width: int, num_blocks: int, num_loops: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.num_loops = num_loops
        self.num_heads = width // 32
        self.blocks = nn.ModuleList(Block(width, mlp_ratio, num_blocks * num_loops) for _ in range(num_blocks))
        self.noise_embedding = nn.Sequential(
            nn.Linear(2 * NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.noise_weight = nn.Parameter(torch.randn(num_positions, num_channels, width) * 0.5)
        self.head_weight = nn.Parameter(torch.zeros(num_positions, num_channels, width))
        self.head_bias = nn.Parameter(torch.zeros(num_positions, num_channels))

    def _own_blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def weights(self, is_output: Tensor) -> DenoiserWeights:
        """All parameters as the operations take them; `is_output` ``(N,)`` bool silences unpredicted positions."""
        return DenoiserWeights(
            blocks=tuple(block.weights() for block in self._own_blocks()) * self.num_loops,
            noise_weight=self.noise_weight * is_output[:, None, None].to(self.noise_weight.dtype),
            head_weight=self.head_weight,
            head_bias=self.head_bias,
            num_heads=self.num_heads,
        )

    def modulation(self, sigma: Tensor) -> Tensor:
        """Shifts, scales and gates of all blocks at the noise levels `sigma` ``(K,)``: ``(K, L, 6, D)``."""
        frequency = torch.exp(torch.linspace(0.0, 4.0, NUM_FREQUENCIES, device=sigma.device, dtype=sigma.dtype))
        angle = (sigma.log() / 4)[:, None] * frequency
        embedding = self.noise_embedding(torch.cat((angle.sin(), angle.cos()), -1))
        tables = [block.modulation(embedding).unflatten(-1, (6, -1)) for block in self._own_blocks()]
        return torch.stack(tables * self.num_loops, 1)

    def forward(self, canvas: Tensor, noisy: Tensor, sigma: Tensor, is_output: Tensor) -> Tensor:
        """Denoise with a noise level per sample, for training.

        Args:
            canvas: ``(B, N, D)`` float.
            noisy: ``(B, N, V)`` float.
            sigma: ``(B,)`` float.
            is_output: ``(N,)`` bool.

        Returns:
            ``(B, N, V)`` float.
        """
        return denoise_reference(canvas, noisy, sigma[:, None, None], self.modulation(sigma), self.weights(is_output))


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> tuple[float, ...]:
    """EDM's noise schedule (equation 5 of Karras et al., 2022): `num_steps` falling levels, then 0."""
    if num_steps == 1:
        return (sigma_max, 0.0)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (*((high + k / (num_steps - 1) * (low - high)) ** rho for k in range(num_steps)), 0.0)


def masked_mean(loss: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over all elements; 0 where all weights are 0."""
    return (loss * weight).sum() / weight.sum().clamp(min=1e-12)
