"""The kernels on a card: beside float64, at every slot, at every number of envs, in both precisions.

In host memory one small canvas stands in, in Triton's interpreter.
"""

import math

import pytest
import torch

from tests.kernels.canvases import (
    ATARI,
    DEVICE,
    END,
    KINDS,
    TOLERANCE,
    case_of,
    fused,
    named,
    needs_kernels,
    reference,
    unsure_envs,
)
from wm_kernels import canvas_step, kernel_tables, philox_normal, philox_words, use_backend
from wm_vec.canvas import Field

pytestmark = needs_kernels
HALF, FULL = torch.bfloat16, torch.float32
OTHER_CLASS = 0.25
"""Numbers that are further off, relatively, follow from another class."""


def sized(n, d, **more):
    fields = {"x": Field(w=n - 3), "act": Field(), "end": END, "paid": Field(is_input=False)}
    return {"fields": fields, "acts": [["act"]], "d_model": d, "num_blocks": 1, **more}


MIXED = {**KINDS, "act0": Field(), "act1": KINDS["given"], "end": END, "paid": Field(is_input=False)}
CANVASES = {
    "small": {"fields": ATARI, "acts": [["act"]], "num_blocks": 1, "n_denoise_steps": 2},
    "two agents": {"fields": MIXED, "acts": [["act0"], ["act1"]], "mode": "next_step", "whole": True, "hold": True},
    "one agent": {"fields": MIXED, "acts": [["act0", "act1"]], "mode": "disabled", "d_model": 64},
    "4 x 128": sized(4, 128, mode="disabled"),
    "17 x 64": sized(17, 64, mode="next_step"),
    "33 x 32": sized(33, 32),
    "64 x 128": sized(64, 128),
    "65 x 64": sized(65, 64),
    "128 x 64": sized(128, 64, mode="next_step"),
}
on_a_card = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]
CASES = [
    *(pytest.param(name, dtype, marks=on_a_card, id=f"{name}, {dtype}") for name in CANVASES for dtype in (HALF, FULL)),
    *([pytest.param("small", FULL, id="stand-in")] if DEVICE == "cpu" else []),
]


def canvas(name, num_envs, dtype):
    """In bfloat16 only the kernels' network is."""
    case = case_of(**CANVASES[name], num_envs=num_envs, dtype=FULL if dtype is HALF else dtype)
    if dtype is HALF:
        case.packed = case.packed._replace(kernel=kernel_tables(case.packed, dtype))
    return case


def predict_arguments(case):
    state, like = case.state, case.state.values
    action = torch.cat([action.to(like).clamp(-0.75, 1.25) for action in case.actions], 1)
    return case.packed, case.controls, like, action, state.seed, state.episode, state.elapsed, state.tick


@torch.no_grad()
def of_kernels(case):
    """Everything that the kernels of a step and of a predict give, by name."""
    with use_backend("triton"):
        return named(fused(case)) | {"predicted": canvas_step(*predict_arguments(case))}


@torch.no_grad()
def of_reference(case):
    return named(reference(case)) | {"predicted": canvas_step.reference(*predict_arguments(case))}


def differences(got, expected):
    """For each env the largest relative difference of its numbers, and whether anything whole differs."""
    count = len(expected["predicted"])
    error, unequal = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
    for name, tensor in expected.items():
        ours, theirs = (x.cpu().double().reshape(count, -1) for x in (got[name], tensor))
        if tensor.is_floating_point():
            error = torch.maximum(error, ((ours - theirs).abs() / (1 + theirs.abs())).nan_to_num(torch.inf).amax(1))
        else:
            unequal |= (ours != theirs).any(1)
    return error, unequal


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_step_is_the_references_in_float64(name, dtype, record_property):
    """In bfloat16 it is no further off, and draws hardly more other classes, than the reference in bfloat16."""
    num_envs = 1031 if DEVICE == "cuda" else 4
    exact = canvas(name, num_envs, torch.float64)
    expected = of_reference(exact)
    error, unequal = differences(of_kernels(canvas(name, num_envs, dtype)), expected)
    if dtype is FULL:
        sure = ~unsure_envs(exact, of_reference).cpu()
        record_property("error", float(error[sure].max()))
        assert not unequal[sure].any()
        assert error[sure].max() < TOLERANCE
        assert sure.double().mean() > 0.9
        return
    sides = []
    for far, differs in (
        (error, unequal),
        differences(of_reference(case_of(**CANVASES[name], num_envs=num_envs, dtype=HALF)), expected),
    ):
        redrawn = differs | (far > OTHER_CLASS)
        sides.append((float(far[~redrawn].median()), float(redrawn.double().mean())))
    record_property("error, share redrawn; in torch", sides)
    (error, redrawn), (error_of_torch, redrawn_by_torch) = sides
    assert error <= error_of_torch
    assert redrawn <= 1.5 * redrawn_by_torch + 0.01


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_an_envs_bits_are_the_same_in_any_slot_among_any_number(name, dtype):
    num_envs = 4096 if DEVICE == "cuda" else 9
    case = canvas(name, num_envs, dtype)
    whole = of_kernels(case)
    for index in ([num_envs - 1], [*range(2, 9)], torch.randperm(num_envs).tolist()):
        for key, tensor in of_kernels(case.rows(index)).items():
            assert torch.equal(tensor, whole[key][index]), (key, len(index))


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_what_breaks_in_an_env_changes_no_bit_of_another(name, dtype):
    positions = len(canvas(name, 1, dtype).state.values[0])
    in_a_tile = 64 // min(64, 1 << (positions - 1).bit_length())
    num_envs = in_a_tile + 1
    sound = of_kernels(canvas(name, num_envs, dtype))
    for slot in range(num_envs) if DEVICE == "cuda" else (0, in_a_tile):
        for value in (math.nan, math.inf):
            case = canvas(name, num_envs, dtype)
            case.state.values[slot, 0] = value
            broken, others = of_kernels(case), [i for i in range(num_envs) if i != slot]
            assert broken["diverged"].nonzero().flatten().tolist() == [slot]
            for key, tensor in broken.items():
                assert torch.equal(tensor[others], sound[key][others]), (key, slot, value)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device; test_canvas_step.py has the interpreter's")
def test_random_words_are_equal_and_normals_those_of_float64():
    generator = torch.Generator().manual_seed(0)
    counters = torch.randint(-(2**63), 2**63 - 1, (3, 257), generator=generator)
    words = philox_words.reference(*counters, 34, 7)
    with use_backend("triton"):
        ours, normals = (op(*counters.to(DEVICE), 34, 7).cpu() for op in (philox_words, philox_normal))
    assert torch.equal(ours, words)
    pairs = words.double().unflatten(-1, (-1, 2))
    radius = (pairs[..., 0] * 2.0**-32 + 2.0**-33).log().mul(-2.0).clamp_min(0).sqrt()
    exact = torch.view_as_real(torch.polar(radius, pairs[..., 1] * (2.0**-32 * 2.0 * math.pi))).flatten(-2)
    torch.testing.assert_close(normals.double(), exact, rtol=4e-6, atol=4e-6)
