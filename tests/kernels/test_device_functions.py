"""The functions that kernels are made of, each alone against its reference."""

import importlib
import math
import sys

import pytest
import torch

from tests.kernels.canvases import DEVICE, KINDS, needs_kernels, random_model
from wm_kernels import decode_fields, denoiser_block, encode_fields, kernel_tables, sampler_update
from wm_kernels.encode_fields.reference import class_rows
from wm_kernels.predict.reference import class_logits, draw_class, sampler_coefficients
from wm_vec.canvas import Field

pytestmark = needs_kernels
FIELDS = {
    "x": Field(w=3),
    "bounded": Field(low=-0.5, high=0.5),
    "kind": KINDS["forty"],
    "way": KINDS["told"],
    "end": Field(num_classes=2, is_input=False, leads=True),
    "force": Field(is_input=False),
}


@pytest.fixture(scope="module")
def packed():
    model = random_model(FIELDS, num_blocks=2, n_denoise_steps=4).to(DEVICE)
    found = model.packed(4)
    return found._replace(kernel=kernel_tables(found, torch.float32))


def kernels():
    """The wrappers, made over the canvas kernels that are in place."""
    sys.modules.pop("tests.kernels.device_kernels", None)
    return importlib.import_module("tests.kernels.device_kernels")


def centred(x):
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize(("positions", "group"), [(4, 16), (7, 16), (8, 16), (16, 16), (30, 32), (64, 64)])
@torch.no_grad()
def test_a_block(packed, positions, group):
    padded = max(4, 1 << (positions - 1).bit_length())
    envs, sizes, tables = 64 // padded, packed.kernel.sizes, packed.kernel
    x = torch.zeros(64, 32, device=DEVICE)
    tokens = torch.randn(envs, positions, 32, generator=torch.Generator().manual_seed(positions)).to(DEVICE)
    x.view(envs, padded, 32)[:, :positions] = centred(tokens)
    for number in (0, 3, 7):
        k, n = divmod(number, sizes.L)
        out = torch.empty_like(x)
        kernels().block_kernel[(1,)](
            x, out, tables.weights, tables.biases, number, N=positions, NP=padded, D=32, H=sizes.H, R=64, GR=group
        )
        expected = denoiser_block(tokens, packed.modulation[k, n], packed.denoiser.blocks[n], 1)
        got = out.view(envs, padded, 32)[:, :positions]
        torch.testing.assert_close(got, centred(expected), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("drawn", [False, True])
@torch.no_grad()
def test_a_canvas(packed, drawn):
    sizes, tables, count = packed.kernel.sizes, packed.kernel, packed.kernel.sizes.N
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(2, count, generator=generator).to(DEVICE) * 9  # classes beyond the first and last, too
    scaled = torch.randn(2, count, generator=generator).to(DEVICE)
    told = torch.full((2, 8), -1, dtype=torch.int32, device=DEVICE)
    expected = encode_fields(
        values, packed.known, packed.center, packed.scale, packed.weight, packed.known_bias, packed.unknown_bias,
        packed.classes,
    ) + scaled.unsqueeze(-1) * packed.denoiser.noise_weight  # fmt: skip
    if drawn:
        head = packed.denoiser.draws[0][1]
        first = packed.denoiser.draws[0][0].bias.shape[0]
        told[:, head.position] = first + torch.tensor([5, 39], dtype=torch.int32, device=DEVICE)
        expected[:, head.position] += head.told[[5, 39]]
    out = torch.empty(16, 32, device=DEVICE)
    kernels().tokens_kernel[(1,)](
        values, scaled, told, out, tables.vectors, tables.class_vectors, tables.scalars, tables.places,
        ROWS=sizes.ROWS, N=count, NP=8, D=32, R=16,
    )  # fmt: skip
    got = out.view(2, 8, 32)
    torch.testing.assert_close(got[:, :count], centred(expected), rtol=1e-5, atol=1e-5)


def test_the_nearest_class_is_the_even_one_of_two(packed):
    classes, sizes, tables = packed.classes, packed.kernel.sizes, packed.kernel
    values = torch.zeros(2, sizes.N, device=DEVICE)
    halves = torch.tensor([0.5, 1.5, 2.5, -0.5, 38.5, 39.5, math.nan, 1e30], device=DEVICE)
    for pair in halves.view(-1, 2):
        values[:, classes.positions] = pair[:, None]
        out = torch.empty(16, dtype=torch.int32, device=DEVICE)
        kernels().class_row_kernel[(1,)](values, out, tables.scalars, tables.places, N=sizes.N, NP=8, R=16)
        assert torch.equal(out.view(2, 8)[:, classes.positions].long(), class_rows(values, classes))


@pytest.mark.parametrize("values", [torch.tensor([1.0, 3e38, -1.0, math.nan]), torch.tensor([-0.4, 0.0, 2e-30, 0.6])])
@torch.no_grad()
def test_numbers_are_read_back(values):
    low, high = torch.full((4,), -0.5), torch.full((4,), math.inf)
    base, shift, scale = torch.ones(1, 4), torch.tensor([[0.1] * 4, [0.2] * 4]), torch.tensor([[1.0] * 4, [3e38] * 4])
    sample = torch.tensor([0.5, 8.0, 1e-3, 1.0])
    scalars = torch.zeros(15, 4)
    scalars[5:12] = torch.stack((base[0], *shift, *scale, low, high))
    for ended in (0, 1):
        out = torch.empty(4, device=DEVICE)
        tensors = (x.to(DEVICE).contiguous() for x in (sample, values.cpu()))
        kernels().decode_kernel[(1,)](*tensors, out, scalars.to(DEVICE), ended, NP=4)
        rows = (x[ended : ended + 1] for x in (shift, scale))
        expected = decode_fields(sample[None], values.cpu()[None], base, *rows, low, high)[0]
        torch.testing.assert_close(out.cpu(), expected, equal_nan=True)


def test_the_sampler(packed):
    sigmas, tables = packed.sigmas, packed.kernel
    sample, output, before, noise = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    for k in range(1, len(sigmas)):
        sigma, norm = sigmas[k - 1], math.sqrt(1 + sigmas[k - 1] ** 2)
        out = torch.empty(2, 8, device=DEVICE)
        kernels().sampler_kernel[(1,)](sample, output, before, noise, out, tables.passes, k, R=8)
        denoised = sample / norm**2 + sigma / norm * output
        torch.testing.assert_close(out[1], denoised, rtol=1e-6, atol=1e-6)
        expected = sampler_update(sample[None], denoised[None], before[None], sampler_coefficients(sigmas)[k - 1])
        torch.testing.assert_close(out[0], expected[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 16, 17, 40])
@torch.no_grad()
def test_a_class_is_drawn(count):
    generator = torch.Generator().manual_seed(count)
    hidden, weight = torch.randn(8, 32, generator=generator), torch.randn(count, 32, generator=generator)
    bias, normal = torch.randn(count, generator=generator), torch.randn(8, generator=generator)
    bias[[0, -1]] = -1e9  # never drawn
    normal[:4] = torch.tensor([-40.0, 40.0, -5.2, 5.2])
    hidden[7, 3] = math.nan
    tensors = [x.to(DEVICE) for x in (hidden, normal, weight, bias)]
    index, total = torch.empty(8, dtype=torch.int32, device=DEVICE), torch.empty(8, device=DEVICE)
    kernels().draw_kernel[(1,)](*tensors, index, total, count, D=32, CH=min(16, 1 << (count - 1).bit_length()), E=8)
    head = type("Head", (), {"weight": weight, "bias": bias})
    probability = class_logits(hidden[:7], head, None).softmax(-1)
    if count > 2:
        assert index[:7].tolist() == draw_class(probability, normal[:7]).tolist()
        assert 0 < int(index[:7].min()) <= int(index[:7].max()) < count - 1
    assert total.isnan().tolist() == [False] * 7 + [True]
    assert 0 <= int(index[7]) < count
