"""`predict` and its parts against torch.nn modules, EDM's own formulas, and Gaussians, whose ODE is known."""

import itertools
import math

import pytest
import torch
from torch import nn

from tests.kernels.harness import assert_matches_reference
from wm_kernels import BlockWeights, DenoiserWeights, denoiser_block, predict, sampler_update, use_backend
from wm_vec.model.denoiser import karras_sigmas

D, HEADS, POSITIONS = 64, 2, 5
SIGMAS = (4.0, 1.0, 0.2, 0.0)


class NnBlock(nn.Module):
    """The block of the paper, from torch's own modules."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(D, eps=1e-5, elementwise_affine=False) for _ in range(2))
        self.attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x, modulation):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        y = self.norm1(x) * scale1 + shift1
        x = x + gate1 * self.attention(y, y, y, need_weights=False)[0]
        y = self.norm2(x) * scale2 + shift2
        return x + gate2 * self.down(torch.relu(self.up(y)) ** 2)

    def weights(self):
        a = self.attention
        return BlockWeights(
            a.in_proj_weight,
            a.in_proj_bias,
            a.out_proj.weight,
            a.out_proj.bias,
            self.up.weight,
            self.up.bias,
            self.down.weight,
            self.down.bias,
        )


class NnDenoiser(nn.Module):
    """Two blocks, gone through twice, with per-position linear maps in and out."""

    def __init__(self, channels):
        super().__init__()
        self.blocks = nn.ModuleList(NnBlock() for _ in range(2))
        self.into = nn.ParameterList(torch.randn(channels, D) * 0.5 for _ in range(POSITIONS))
        self.out = nn.ModuleList(nn.Linear(D, channels) for _ in range(POSITIONS))

    def network(self, canvas, x, modulation):
        tokens = torch.stack([canvas[:, n] + x[:, n] @ self.into[n] for n in range(POSITIONS)], 1)
        for i in range(4):
            tokens = self.blocks[i % 2](tokens, modulation[i])
        tokens = nn.functional.layer_norm(tokens, (D,))
        return torch.stack([self.out[n](tokens[:, n]) for n in range(POSITIONS)], 1)

    def denoise(self, canvas, x, sigma, modulation):
        # EDM, table 1, with sigma_data = 1.
        c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1), 1 / math.sqrt(sigma**2 + 1)
        return c_skip * x + c_out * self.network(canvas, c_in * x, modulation)

    def weights(self):
        return DenoiserWeights(
            blocks=tuple(b.weights() for b in self.blocks) * 2,
            noise_weight=torch.stack(list(self.into)),
            head_weight=torch.stack([out.weight for out in self.out]),
            head_bias=torch.stack([out.bias for out in self.out]),
            num_heads=HEADS,
        )


def edm_sampler(model, canvas, noise, modulation, sigmas, heun):
    """Algorithm 1 of Karras et al. without churn, as written there."""
    x = sigmas[0] * noise
    for k in range(len(sigmas) - 1):
        d = (x - model.denoise(canvas, x, sigmas[k], modulation[k])) / sigmas[k]
        following = x + (sigmas[k + 1] - sigmas[k]) * d
        if heun and sigmas[k + 1] != 0:
            d2 = (following - model.denoise(canvas, following, sigmas[k + 1], modulation[k + 1])) / sigmas[k + 1]
            following = x + (sigmas[k + 1] - sigmas[k]) * (d + d2) / 2
        x = following
    return x


def problem(channels, batch=3, seed=0):
    torch.manual_seed(seed)
    model = NnDenoiser(channels).double()
    canvas = torch.randn(batch, POSITIONS, D, dtype=torch.float64)
    noise = torch.randn(batch, POSITIONS, channels, dtype=torch.float64)
    modulation = torch.randn(len(SIGMAS) - 1, 4, 6, D, dtype=torch.float64) * 0.3 + 0.5
    return model, canvas, noise, modulation


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@torch.no_grad()
def test_block_equals_torch_nn(backend):
    torch.manual_seed(1)
    block, x, modulation = (NnBlock().double(), torch.randn(3, POSITIONS, D).double(), torch.randn(6, D).double())
    with use_backend(backend):
        got = denoiser_block(x, modulation, block.weights(), HEADS)
    torch.testing.assert_close(got, block(x, modulation), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_block_takes_a_modulation_per_row():
    torch.manual_seed(2)
    block, x, modulation = (NnBlock().double(), torch.randn(3, POSITIONS, D).double(), torch.randn(3, 6, D).double())
    got = denoiser_block(x, modulation, block.weights(), HEADS)
    for row in range(3):
        expected = block(x[row : row + 1], modulation[row])[0]
        torch.testing.assert_close(got[row], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("heun", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@torch.no_grad()
def test_predict_equals_edm_over_torch_nn(channels, heun, backend):
    model, canvas, noise, modulation = problem(channels)
    with use_backend(backend):
        got = predict(canvas, noise, modulation, model.weights(), SIGMAS, heun)
    expected = edm_sampler(model, canvas, noise, modulation, SIGMAS, heun)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 3, 256, 300])
@torch.no_grad()
def test_cpu_backend_matches_the_reference_at_every_batch(batch):
    model, canvas, noise, modulation = problem(1, batch)
    model, canvas, noise, modulation = model.float(), canvas.float(), noise.float(), modulation.float()
    mask = torch.zeros(batch, POSITIONS, dtype=torch.bool)
    mask[::2, 1] = True
    for clamp in ((None, None), (mask, torch.randn_like(noise)), (mask[:1], torch.randn_like(noise))):
        args = (canvas, noise, modulation, model.weights(), SIGMAS, False, *clamp)
        assert_matches_reference(predict, args, backend="cpu")


@torch.no_grad()
def test_a_diverged_row_leaves_its_neighbours_alone():
    model, canvas, noise, modulation = problem(1)
    clean = predict(canvas, noise, modulation, model.weights(), SIGMAS)
    canvas[1, 2, 7] = torch.nan
    got = predict(canvas, noise, modulation, model.weights(), SIGMAS)
    assert bool(got[1].isnan().any())
    assert torch.equal(got[[0, 2]], clean[[0, 2]])


# -- clamping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heun", [False, True])
@torch.no_grad()
def test_clamped_positions_keep_their_values_and_the_others_hear_of_them(heun):
    model, canvas, noise, modulation = problem(2)
    mask = torch.tensor([[True, False, False, True, False]])
    told = torch.randn(3, POSITIONS, 2, dtype=torch.float64)
    args = (canvas, noise, modulation, model.weights(), SIGMAS, heun)
    got = predict(*args, mask, told)
    assert torch.equal(got[:, [0, 3]], told[:, [0, 3]])
    otherwise = told.clone()
    otherwise[:, 3] += 1.0
    assert float((predict(*args, mask, otherwise) - got)[:, [1, 2, 4]].abs().min()) > 1e-6
    otherwise = told.clone()
    otherwise[:, [1, 2, 4]] = torch.nan
    assert torch.equal(predict(*args, mask, otherwise), got), "values at unclamped positions must not be read"


@torch.no_grad()
def test_clamped_positions_are_seen_at_the_current_noise_level():
    model, canvas, noise, modulation = problem(1)
    mask, told = (torch.tensor([[False, True, False, False, False]]), torch.full((3, POSITIONS, 1), 0.7).double())
    got = predict(canvas, noise, modulation, model.weights(), SIGMAS, False, mask, told)
    x = SIGMAS[0] * noise
    for k in range(3):
        x[:, 1] = told[:, 1] + SIGMAS[k] * noise[:, 1]
        d = (x - model.denoise(canvas, x, SIGMAS[k], modulation[k])) / SIGMAS[k]
        x = x + (SIGMAS[k + 1] - SIGMAS[k]) * d
    x[:, 1] = told[:, 1]
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


# -- the sampler on a Gaussian ------------------------------------------------------------------------------


def gaussian_denoiser(x, sigma, mean, std):
    """The posterior mean of data from N(mean, std^2) seen through noise sigma."""
    return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (3.0, 0.5), (-1.5, 2.0)])
def test_many_euler_steps_carry_noise_to_the_gaussian(mean, std):
    generator = torch.Generator().manual_seed(0)
    sigmas = karras_sigmas(1000, 0.002, 80.0, 7.0)
    start = torch.randn(20000, 1, 1, generator=generator, dtype=torch.float64) * sigmas[0]
    x = start.clone()
    for sigma, following in itertools.pairwise(sigmas):
        x = sampler_update(x, gaussian_denoiser(x, sigma, mean, std), sigma, following)
    # The ODE's solution keeps (x - mean) / sqrt(std^2 + sigma^2) constant.
    exact = mean + (start - mean) * std / math.sqrt(std**2 + sigmas[0] ** 2)
    torch.testing.assert_close(x, exact, rtol=0.0, atol=0.05 * std)
    assert abs(float(x.mean()) - mean) < 0.05 * std + 0.02 * abs(mean)
    assert abs(float(x.std()) - std) < 0.02 * std


def test_the_last_step_lands_on_the_denoised():
    noisy, denoised = torch.randn(2, 3, 1), torch.randn(2, 3, 1)
    assert torch.equal(sampler_update(noisy, denoised, 0.1, 0.0), denoised)
    torch.testing.assert_close(sampler_update(noisy, denoised, 2.0, 2.0), noisy)
    torch.testing.assert_close(sampler_update(noisy, denoised, 2.0, 1.0), (noisy + denoised) / 2)


def standard_normal_predict(steps, heun, start):
    """With a silent read-out the preconditioned denoiser is the optimal one for N(0, 1)."""
    sigmas = karras_sigmas(steps, 0.05, 20.0, 7.0)
    torch.manual_seed(3)
    block = NnBlock().double().requires_grad_(False)
    zeros = torch.zeros(1, 1, D, dtype=torch.float64)
    weights = DenoiserWeights((block.weights(),), zeros, zeros, zeros[..., 0], HEADS)
    canvas = torch.randn(len(start), 1, D, dtype=torch.float64)
    modulation = torch.randn(steps, 1, 6, D, dtype=torch.float64)
    exact = sigmas[0] * start / math.sqrt(1 + sigmas[0] ** 2)
    return float((predict(canvas, start, modulation, weights, sigmas, heun) - exact).abs().max())


def test_heun_is_better_than_euler_at_equal_steps_and_both_converge():
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1)
    euler, heun = ({k: standard_normal_predict(k, h, start) for k in (8, 16, 64, 256)} for h in (False, True))
    for steps in euler:
        assert heun[steps] < 0.6 * euler[steps]
    assert euler[64] < euler[16] / 3.5, "Euler's error falls with 1 / K"
    assert euler[256] < 0.02


def test_karras_schedule():
    # Equation 5 by hand for K = 3, rho = 2: the square roots 3, 2, 1 are evenly spaced.
    assert karras_sigmas(3, 1.0, 9.0, 2.0) == pytest.approx((9.0, 4.0, 1.0, 0.0))
    assert karras_sigmas(1, 0.1, 5.0, 7.0) == (5.0, 0.0)


def test_gradients_flow_through_predict():
    model, canvas, noise, modulation = problem(1, batch=1)
    canvas.requires_grad_(True)
    weights = model.requires_grad_(False).weights()
    assert torch.autograd.gradcheck(
        lambda c: predict(c, noise, modulation, weights, SIGMAS).sum(), (canvas,), fast_mode=True
    )
