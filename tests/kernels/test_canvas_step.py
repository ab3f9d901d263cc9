"""`canvas_step` and `philox` as kernels, and the tables that the network's weights are folded into."""

import pytest
import torch
from hypothesis import given, settings

from tests.kernels.canvases import DEVICE, END, KINDS, case_of, needs_kernels, poisoned_outputs, random_model
from tests.kernels.strategies import cases
from wm_kernels import ContractError, canvas_step, kernel_tables, philox_normal, philox_words, use_backend
from wm_kernels.canvas_step.tiles import tile_of, why_not
from wm_vec.canvas import Field

WORLD = {"x": Field(w=2), "kind": KINDS["seventeen"], "act": Field(), "end": END, "paid": Field(is_input=False)}


def arguments(case):
    state = case.state
    action = torch.cat([action.float().clamp(-0.75, 1.25) for action in case.actions], 1)
    return case.packed, case.controls, state.values, action, state.seed, state.episode, state.elapsed, state.tick


@needs_kernels
@settings(max_examples=8, deadline=None)
@given(cases())
@torch.no_grad()
def test_next_values_are_the_references(case):
    args = arguments(case)
    assert canvas_step.choose(*args) is canvas_step.implementations["triton"][1]
    with poisoned_outputs():
        got = canvas_step(*args)
    nudged = []
    for nudge in (-1e-5, 1e-5):
        with pytest.MonkeyPatch.context() as patch:
            predict = type(case.packed).predict
            patch.setattr(type(case.packed), "predict", lambda s, v, n, k=None, d=nudge, p=predict: p(s, v, n + d, k))
            nudged.append(canvas_step.reference(*args))
    unsure = ((nudged[0] - nudged[1]).abs() > 0.01).any(-1)
    torch.testing.assert_close(got[~unsure], canvas_step.reference(*args)[~unsure], rtol=2e-4, atol=2e-4)


@needs_kernels
def test_gradients_and_transforms_go_through_the_reference():
    case = case_of(WORLD, [["act"]], num_envs=2, num_blocks=1, n_denoise_steps=2)
    packed, controls, values, action, *rest = arguments(case)
    args = packed, controls, values, action.requires_grad_(), *rest
    assert canvas_step.choose(*args) is canvas_step.reference
    with torch.no_grad():
        assert canvas_step.choose(*args) is not canvas_step.reference
    with use_backend("reference"):
        assert canvas_step.choose(*arguments(case)) is canvas_step.reference
    doubled = packed, controls, values.double(), action.detach().double(), *rest
    assert canvas_step.choose(*doubled) is canvas_step.reference


def test_what_does_not_fit_is_named():
    case = case_of(WORLD, [["act"]], num_envs=3, num_blocks=1, n_denoise_steps=2)
    packed, controls, values, action, seed, episode, elapsed, tick = arguments(case)
    with pytest.raises(ContractError, match=r"canvas_step: `seed` must have shape \(B\)"):
        canvas_step(packed, controls, values, action, seed[:2], episode, elapsed, tick)
    with pytest.raises(ContractError, match=r"`episode` .*int64"):
        canvas_step(packed, controls, values, action, seed, episode.float(), elapsed, tick)
    with pytest.raises(ContractError, match=r"`action` is on meta"):
        canvas_step(packed, controls, values, action.to("meta"), seed, episode, elapsed, tick)


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((8, 96, 3), "d_model is 96"),
        ((129, 32, 1), "at most 128"),
        ((65, 128, 4), "8192"),
        ((8, 64, 4), "16 wide"),
        ((8, 64, 2, "groups"), "topology is 'groups'"),
    ],
)
def test_what_no_kernel_takes_is_said(size, problem):
    assert problem in why_not(*size)


@pytest.mark.parametrize("size", [(1, 32, 1), (64, 128, 4), (128, 64, 2), (128, 32, 1)])
def test_what_a_kernel_takes(size):
    assert why_not(*size) is None


@needs_kernels
@pytest.mark.parametrize("count", [1, 3, 4, 33])
@pytest.mark.parametrize("num_envs", [0, 1, 40])
def test_philox_is_the_references_bit_by_bit_and_normals_to_rounding(num_envs, count):
    generator = torch.Generator().manual_seed(count)
    seed, episode, step = (
        torch.randint(-(2**63), 2**63 - 1, (num_envs,), generator=generator).to(DEVICE) for _ in range(3)
    )
    for stream in (0, 1, 2**32 - 1):
        with use_backend("triton"), poisoned_outputs():
            words, normals = (op(seed, episode, step, count, stream) for op in (philox_words, philox_normal))
        assert torch.equal(words, philox_words.reference(seed, episode, step, count, stream))
        expected = philox_normal.reference(seed, episode, step, count, stream)
        torch.testing.assert_close(normals, expected, rtol=4e-6, atol=4e-6)


# -- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_models_tables_are_refreshed_in_place(dtype):
    model = random_model(WORLD, num_blocks=1)
    before = model.packed(3, dtype)
    addresses = [tensor.data_ptr() for tensor in before.kernel.tensors]
    old = [tensor.clone() for tensor in before.kernel.tensors]
    for parameter in model.parameters():
        parameter.mul_(1.5)
    after = model.packed(3, dtype)
    assert [tensor.data_ptr() for tensor in after.kernel.tensors] == addresses
    fresh = kernel_tables(model.packed(3), dtype)
    for mine, wanted in zip(after.kernel.tensors, fresh.tensors, strict=True):
        assert torch.equal(mine, wanted)
    changed = [not torch.equal(a, b) for a, b in zip(old, fresh.tensors, strict=True)]
    assert changed == [True, True, True, True, True, True, False, False, False]
    assert after.kernel.weights.dtype is dtype


def test_tiles_depend_on_the_world_and_the_card_alone():
    sizes = kernel_tables(random_model(WORLD, num_blocks=1).packed(3), torch.float32).sizes
    for width, arch, stages, descriptors in [
        (32, "cuda:90", 2, False),
        (64, "cuda:90", 2, False),
        (128, "cuda:90", 3, True),
        (128, "cuda:80", 2, False),
        (128, "hip:gfx942", 1, False),
    ]:
        tile = tile_of(sizes._replace(D=width), torch.bfloat16, arch)
        assert (64, stages, descriptors) == (tile.R, tile.NS, tile.DESC)
