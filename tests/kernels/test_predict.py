"""`predict` and its parts against torch.nn modules, the papers' formulas, and Gaussians, whose ODE is known."""

import itertools
import math

import pytest
import torch
from torch import nn

from tests.kernels.harness import assert_matches_reference
from wm_kernels import (
    Attention,
    BlockWeights,
    ClassHead,
    DenoiserWeights,
    denoiser_block,
    philox_normal,
    predict,
    sampler_update,
    use_backend,
)
from wm_kernels.predict import cpu
from wm_kernels.predict.reference import draw_class, sampler_coefficients
from wm_vec.canvas import BoundSchema, Field, Topology
from wm_vec.model.denoiser import karras_sigmas

D, HEADS, POSITIONS = 64, 2, 5
SIGMAS = (4.0, 1.0, 0.2, 0.0)
START = torch.linspace(4.0, 5.0, POSITIONS, dtype=torch.float64)
CLASSES = {1: 3, 3: 2}
"""Positions that carry classes, and how many: the first is drawn from the first pass, the second from the last."""


GROUPS = Topology.of(BoundSchema({"a": Field(), "g.b": Field(), "g.c": Field(), "g.h.d": Field(w=2)}, d_model=32))


def attention(dtype=torch.float64):
    """What joins the positions where they are in groups: three summaries, and tiles of three queries each."""
    summary = torch.randn(GROUPS.num_summaries, D, generator=torch.Generator().manual_seed(3), dtype=dtype)
    return Attention(summary, GROUPS.mask, *GROUPS.tiles(3))


@pytest.fixture(autouse=True)
def in_tiles(monkeypatch):
    """Canvases this small attend under a mask, which is the reference's way, too."""
    monkeypatch.setattr(cpu, "TILES_PAY", 9.0)


class NnBlock(nn.Module):
    """The block of the paper, from torch's own modules."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(D, eps=1e-5, elementwise_affine=False) for _ in range(2))
        self.attention = nn.MultiheadAttention(D, HEADS, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x, modulation, mask=None):
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        y = self.norm1(x) * scale1 + shift1
        x = x + gate1 * self.attention(y, y, y, need_weights=False, attn_mask=None if mask is None else ~mask)[0]
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

    def __init__(self, classes, attention=None):
        super().__init__()
        self.attention = attention
        self.classes = classes
        self.blocks = nn.ModuleList(NnBlock() for _ in range(2))
        self.into = nn.ParameterList(torch.randn(D) * 0.5 for _ in range(POSITIONS))
        self.out = nn.ModuleList(nn.Linear(D, 1) for _ in range(POSITIONS))
        self.logits = nn.ModuleDict({str(n): nn.Linear(D, c) for n, c in classes.items()})
        self.told, self.peer = (
            nn.ParameterDict({str(n): torch.randn(c, D) for n, c in classes.items()}) for _ in range(2)
        )
        self.value = {n: torch.randn(c, dtype=torch.float64) for n, c in classes.items()}

    def trunk(self, tokens, modulation):
        mask = None
        if self.attention is not None:
            mask = self.attention.mask
            tokens = torch.cat((tokens, torch.stack([self.attention.summary] * len(tokens))), 1)
        for i in range(4):
            tokens = self.blocks[i % 2](tokens, modulation[i], mask)
        return nn.functional.layer_norm(tokens, (D,))[:, :POSITIONS]

    def read(self, tokens):
        return torch.cat([self.out[n](tokens[:, n]) for n in range(POSITIONS)], 1)

    def network(self, canvas, x, modulation):
        into = torch.stack([self.into[n] * (n not in self.classes) for n in range(POSITIONS)])
        return self.trunk(canvas + x.unsqueeze(-1) * into, modulation)

    def denoise(self, canvas, x, sigma, modulation):
        # EDM, table 1, with sigma_data = 1.
        c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1), 1 / math.sqrt(sigma**2 + 1)
        hidden = self.network(canvas, c_in * x, modulation)
        return c_skip * x + c_out * self.read(hidden), hidden

    def weights(self, num_passes=4):
        heads = [
            ClassHead(
                n,
                self.logits[str(n)].weight,
                self.logits[str(n)].bias,
                self.value[n],
                self.told[str(n)],
                self.peer[str(n)],
            )
            for n in self.classes
        ]
        return DenoiserWeights(
            blocks=tuple(b.weights() for b in self.blocks) * 2,
            noise_weight=torch.stack([self.into[n] * (n not in self.classes) for n in range(POSITIONS)]),
            head_weight=torch.cat([out.weight for out in self.out]),
            head_bias=torch.cat([out.bias for out in self.out]),
            start_scale=START.to(self.out[0].bias),
            draws=(tuple(heads[:1]), *[()] * (num_passes - 2), tuple(heads[1:])),
            class_positions=torch.tensor(list(self.classes), dtype=torch.int64),
            num_heads=HEADS,
            attention=self.attention,
        )


def inverse_cdf(logits, normal):
    """The class by a search through the distribution function, env by env."""
    uniform = torch.distributions.Normal(0.0, 1.0).cdf(normal)
    return torch.searchsorted(logits.softmax(-1).cumsum(-1), uniform[:, None])[:, 0]


def expected_sample(model, canvas, noise, modulation, sigmas):
    """The passes as the papers write them: classes from the first pass and from the last, DPM-Solver++(2M) between."""
    hidden = model.trunk(canvas, modulation[0])
    x = model.read(hidden) + START * noise
    values, peers = {}, 0.0

    def draw(n, hidden):
        index = inverse_cdf(model.logits[str(n)](nn.functional.silu(hidden[:, n] + peers)), noise[:, n])
        values[n] = model.value[n][index]
        return model.told[str(n)][index], model.peer[str(n)][index]

    names = list(model.classes)
    for n in names[:1]:
        told, peers = draw(n, hidden)
        canvas = canvas.clone()
        canvas[:, n] += told
    before = None
    for k, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        denoised, hidden = model.denoise(canvas, x, sigma, modulation[k + 1])
        ahead = denoised
        if k > 0 and following > 0:
            # Algorithm 2 of Lu et al. with alpha = 1: h is the step in ln(1 / sigma), r that before over this one.
            r = math.log(sigmas[k - 1] / sigma) / math.log(sigma / following)
            ahead = (1 + 1 / (2 * r)) * denoised - before / (2 * r)
        before = denoised
        x = following / sigma * x + (1 - following / sigma) * ahead
    for n in names[1:]:
        draw(n, hidden)
    for n, value in values.items():
        x[:, n] = value
    return x


def problem(classes=CLASSES, batch=3, seed=0, groups=None):
    torch.manual_seed(seed)
    model = NnDenoiser(classes, groups).double()
    canvas = torch.randn(batch, POSITIONS, D, dtype=torch.float64)
    noise = torch.randn(batch, POSITIONS, dtype=torch.float64)
    modulation = torch.randn(len(SIGMAS), 4, 6, D, dtype=torch.float64) * 0.3 + 0.5
    return model, canvas, noise, modulation


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("groups", [None, attention()])
@torch.no_grad()
def test_block_equals_torch_nn(backend, groups):
    torch.manual_seed(1)
    tokens, mask = (POSITIONS, None) if groups is None else (len(groups.mask), groups.mask)
    block, x, modulation = (NnBlock().double(), torch.randn(3, tokens, D).double(), torch.randn(6, D).double())
    with use_backend(backend):
        got = denoiser_block(x, modulation, block.weights(), HEADS, groups)
    torch.testing.assert_close(got, block(x, modulation, mask), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_block_takes_a_modulation_per_row():
    torch.manual_seed(2)
    block, x, modulation = (NnBlock().double(), torch.randn(3, POSITIONS, D).double(), torch.randn(3, 6, D).double())
    got = denoiser_block(x, modulation, block.weights(), HEADS)
    for row in range(3):
        expected = block(x[row : row + 1], modulation[row])[0]
        torch.testing.assert_close(got[row], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [{}, CLASSES])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("groups", [None, attention()])
@torch.no_grad()
def test_predict_equals_the_papers_over_torch_nn(classes, backend, groups):
    model, canvas, noise, modulation = problem(classes, batch=40, groups=groups)
    before = canvas.clone()
    with use_backend(backend):
        got = predict(canvas, noise, modulation, model.weights(), SIGMAS)
    assert torch.equal(canvas, before)
    expected = expected_sample(model, canvas, noise, modulation, SIGMAS)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for n, count in classes.items():
        assert len(got[:, n].unique()) == count, "the problem draws every class"


@pytest.mark.parametrize("groups", [None, attention(torch.float32)])
@pytest.mark.parametrize("batch", [1, 3, 256, 300])
@torch.no_grad()
def test_cpu_backend_matches_the_reference_at_every_batch(batch, groups):
    model, canvas, noise, modulation = problem(batch=batch, groups=groups)
    model, canvas, noise, modulation = model.float(), canvas.float(), noise.float(), modulation.float()
    model.value = {n: value.float() for n, value in model.value.items()}
    mask = torch.zeros(batch, POSITIONS, dtype=torch.bool)
    mask[::2, 1:3] = True
    for clamp in ((None, None), (mask, torch.randn_like(noise)), (mask[:1], torch.randn_like(noise))):
        args = (canvas, noise, modulation, model.weights(), SIGMAS, *clamp)
        assert_matches_reference(predict, args, backend="cpu")


@pytest.mark.parametrize("place", range(POSITIONS))
@torch.no_grad()
def test_a_diverged_env_shows_everywhere_in_it_and_leaves_its_neighbours_alone(place):
    model, canvas, noise, modulation = problem()
    clean = predict(canvas, noise, modulation, model.weights(), SIGMAS)
    canvas[1, place, 7] = torch.nan
    got = predict(canvas, noise, modulation, model.weights(), SIGMAS)
    assert bool(got[1].isnan().all())
    assert torch.equal(got[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@torch.no_grad()
def test_a_token_changes_those_that_its_mask_lets_hear_of_it_and_no_others(backend):
    torch.manual_seed(4)
    block, groups, count = NnBlock().double(), attention(), len(GROUPS.mask)
    modulation = torch.randn(6, D).double()
    tokens = torch.randn(count, D).double().expand(count, -1, -1)
    changed = tokens + torch.diag_embed(torch.randn(D, count).double()).permute(1, 2, 0)  # one token in each env
    for depth in (1, 2, 3, 4):
        with use_backend(backend):
            tokens, changed = (denoiser_block(x, modulation, block.weights(), HEADS, groups) for x in (tokens, changed))
        heard = (tokens - changed).abs().amax(-1).T > 1e-9  # whether a token (first axis) heard of another
        assert torch.equal(heard, torch.linalg.matrix_power(GROUPS.mask.double(), depth) > 0)
    assert bool(heard.all())


# -- classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draws", [1_000_000, pytest.param(4_000_000, marks=pytest.mark.long)])
@torch.no_grad()
def test_a_network_that_knows_the_probabilities_draws_by_them(num_draws):
    probabilities = torch.tensor([0.333, 0.1, 0.01, 0.005])
    chunk = 250_000
    zeros, width = torch.zeros(2, 2), 2
    heads = tuple(
        ClassHead(n, zeros, torch.tensor([1 - p, p]).log(), torch.tensor([0.0, 1.0]), zeros, zeros)
        for n, p in enumerate(probabilities.tolist())
    )
    positions = torch.arange(4)
    silent = torch.zeros(4, width), torch.zeros(4, width), torch.zeros(4), torch.zeros(4)
    weights = DenoiserWeights((), *silent, (heads,), positions, 1)
    counts = torch.zeros(4)
    for start in range(0, num_draws, chunk):
        seeds = torch.arange(start, start + chunk)
        noise = philox_normal(seeds, torch.zeros_like(seeds), torch.ones_like(seeds), 4, 0)
        canvas = torch.zeros(1, 1, 1).expand(chunk, 4, width)
        counts += predict(canvas, noise, torch.zeros(1, 0, 6, width), weights, (0.0,)).sum(0)
    torch.testing.assert_close(counts / num_draws, probabilities, rtol=0.05, atol=0.0)


@torch.no_grad()
def test_classes_without_mass_are_never_drawn_even_at_the_ends_of_the_normal():
    normal = torch.tensor([-40.0, -6.0, 0.0, 5.6, 6.0, 40.0, torch.inf, -torch.inf])
    probability = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).expand(len(normal), -1)
    assert draw_class(probability, normal).tolist() == [1, 1, 1, 3, 3, 3, 3, 1]
    for total in (0.9999999, 1.0, 1.0000001):  # as rounding leaves it
        assert int(draw_class(probability * total, normal).max()) == 3


@torch.no_grad()
def test_later_classes_hear_of_those_drawn_before_in_the_same_pass():
    """Two coins that always agree: the second head knows of the first by its peers alone."""
    zeros, value = torch.zeros(2, D), torch.tensor([0.0, 1.0])
    peer = torch.stack((torch.zeros(D), torch.full((D,), 9.0)))
    reads = torch.stack((torch.zeros(D), torch.ones(D)))
    first = ClassHead(0, zeros, torch.zeros(2), value, zeros, peer)
    second = ClassHead(1, reads, torch.tensor([100.0, 0.0]), value, zeros, zeros)
    positions = torch.arange(2)
    weights = DenoiserWeights(
        (), torch.zeros(2, D), torch.zeros(2, D), torch.zeros(2), torch.zeros(2), ((first, second),), positions, HEADS
    )
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    got = predict(torch.zeros(1000, 2, D), noise, torch.zeros(1, 0, 6, D), weights, (0.0,))
    assert torch.equal(got[:, 0], got[:, 1])
    assert 400 < int(got[:, 0].sum()) < 600


def test_the_gradient_of_a_class_is_that_of_its_expectation():
    model, canvas, noise, modulation = problem()
    model.requires_grad_(False)
    canvas.requires_grad_(True)
    place = 1
    got = predict(canvas, noise, modulation, model.weights(), SIGMAS)[:, place]
    assert bool(torch.isin(got.detach(), model.value[place]).all())
    (gradient,) = torch.autograd.grad(got.sum(), canvas)
    hidden = model.trunk(canvas, modulation[0])[:, place]
    expectation = model.logits[str(place)](nn.functional.silu(hidden)).softmax(-1) @ model.value[place]
    (expected,) = torch.autograd.grad(expectation.sum(), canvas)
    assert float(expected.abs().max()) > 1e-6
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


# -- clamping -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_clamped_positions_keep_their_values_and_the_others_hear_of_them():
    model, canvas, noise, modulation = problem()
    mask = torch.tensor([[True, True, False, False, False]])
    told = torch.randn(3, POSITIONS, dtype=torch.float64)
    told[:, 1] = model.value[1][torch.tensor([0, 1, 2])]
    args = (canvas, noise, modulation, model.weights(), SIGMAS)
    got = predict(*args, mask, told)
    assert torch.equal(got[:, [0, 1]], told[:, [0, 1]])
    for changed, other in ((0, told[:, 0] + 1.0), (1, told[:, 1].roll(1))):
        otherwise = told.clone()
        otherwise[:, changed] = other
        assert float((predict(*args, mask, otherwise) - got)[:, [2, 4]].abs().min()) > 1e-6
    otherwise = told.clone()
    otherwise[:, [2, 3, 4]] = torch.nan
    assert torch.equal(predict(*args, mask, otherwise), got), "values at unclamped positions must not be read"


@torch.no_grad()
def test_clamped_positions_are_seen_at_the_current_noise_level():
    model, canvas, noise, modulation = problem({})
    mask, told = (torch.tensor([[False, True, False, False, False]]), torch.full((3, POSITIONS), 0.7).double())
    got = predict(canvas, noise, modulation[:3], model.weights(3), (4.0, 1.0, 0.0), mask, told)
    x = model.read(model.trunk(canvas, modulation[0])) + START * noise
    x[:, 1] = told[:, 1] + 4.0 * noise[:, 1]
    x = (x + 3.0 * model.denoise(canvas, x, 4.0, modulation[1])[0]) / 4.0
    x[:, 1] = told[:, 1] + noise[:, 1]
    x = model.denoise(canvas, x, 1.0, modulation[2])[0]
    x[:, 1] = told[:, 1]
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


# -- the sampler on a Gaussian ------------------------------------------------------------------------------


def gaussian_denoiser(x, sigma, mean, std):
    """The posterior mean of data from N(mean, std^2) seen through noise sigma."""
    return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def solve(num_levels, mean, std, second_order, start):
    """`start` carried down the levels under the Gaussian's own denoiser, and the ODE's exact solution."""
    sigmas = karras_sigmas(num_levels, 0.02, 20.0, 7.0)
    x = start * sigmas[0]
    # The ODE keeps (x - mean) / sqrt(std^2 + sigma^2) constant.
    exact = mean + (x - mean) * math.sqrt((std**2 + sigmas[-2] ** 2) / (std**2 + sigmas[0] ** 2))
    before = x
    for sigma, (a, b, c) in zip(sigmas[:-2], sampler_coefficients(sigmas)[:-1], strict=True):
        denoised = gaussian_denoiser(x, sigma, mean, std)
        x = sampler_update(x, denoised, before, (a, b, c) if second_order else (a, 1 - a, 0.0))
        before = denoised
    return float((x - exact).abs().max())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (3.0, 0.5), (-1.5, 2.0)])
def test_the_sampler_is_of_second_order(mean, std):
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    first, second = ({k: solve(k, mean, std, order, start) for k in (32, 64, 128)} for order in (False, True))
    for k in (32, 64):
        assert first[k] / first[2 * k] == pytest.approx(2, rel=0.2)
        assert second[k] / second[2 * k] == pytest.approx(4, rel=0.3)
        assert second[k] < first[k] / 3


def test_the_last_step_lands_on_the_denoised():
    noisy, denoised, before = torch.randn(3, 2, 3)
    assert torch.equal(sampler_update(noisy, denoised, before, sampler_coefficients((4.0, 1.0, 0.0))[-1]), denoised)
    assert sampler_coefficients((2.0, 1.0, 0.0))[0] == (0.5, 0.5, 0.0)


def test_karras_schedule():
    # Equation 5 by hand for K = 3, rho = 2: the square roots 3, 2, 1 are evenly spaced.
    assert karras_sigmas(3, 1.0, 9.0, 2.0) == pytest.approx((9.0, 4.0, 1.0, 0.0))
    assert karras_sigmas(1, 0.1, 5.0, 7.0) == (5.0, 0.0)
    assert karras_sigmas(0, 0.1, 5.0, 7.0) == (0.0,)


def test_gradients_flow_through_predict():
    model, canvas, noise, modulation = problem({}, batch=1)
    canvas.requires_grad_(True)
    weights = model.requires_grad_(False).weights()
    assert torch.autograd.gradcheck(
        lambda c: predict(c, noise, modulation, weights, SIGMAS).sum(), (canvas,), fast_mode=True
    )
