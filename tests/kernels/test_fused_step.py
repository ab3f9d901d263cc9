"""`fused_step` against its reference: any canvas, any perspectives, every mode."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings

from tests.kernels.canvases import (
    ATARI,
    DEVICE,
    END,
    assert_equal,
    case_of,
    fused,
    named,
    needs_kernels,
    reference,
    unsure_envs,
)
from tests.kernels.strategies import cases
from wm_kernels import FusedStep
from wm_kernels.canvas_step.tiles import tile_of
from wm_vec.canvas import Field

pytestmark = needs_kernels


@settings(max_examples=25, deadline=None)
@given(cases())
def test_any_step_is_the_references(case):
    assert_equal(fused(case), reference(case), unsure_envs(case))


@pytest.mark.long
@settings(max_examples=120, deadline=None)
@given(cases(max_envs=70))
def test_any_step_of_many_is_the_references(case):
    assert_equal(fused(case), reference(case), unsure_envs(case))


@pytest.mark.parametrize(
    ("positions", "width"), [(1, 32), (4, 64), (9, 128), (17, 64), (33, 32), (64, 128), (65, 64), (128, 64)]
)
def test_every_size_that_fits(positions, width):
    fields = {"x": Field(w=positions)} if positions < 3 else {"x": Field(w=positions - 2), "act": Field(), "end": END}
    acts = [["x"]] if positions < 3 else [["act"]]
    case = case_of(fields, acts, num_envs=3, d_model=width, num_blocks=1, n_denoise_steps=2)
    assert_equal(fused(case), reference(case), unsure_envs(case))


@pytest.mark.skipif(DEVICE != "cpu", reason="a card chooses by itself")
def test_weights_come_through_descriptors_as_well(monkeypatch):
    op = sys.modules["wm_kernels.canvas_step.op"]
    case = case_of(ATARI, [["act"]], num_envs=9, d_model=128, num_blocks=1, n_denoise_steps=2)
    plain = named(fused(case))
    monkeypatch.setattr(op, "tile_of", lambda *args: tile_of(*args)._replace(DESC=True))
    for name, tensor in named(fused(case)).items():
        assert torch.equal(tensor, plain[name]), name


def test_a_field_of_five_hundred_classes():
    fields = {"place": Field(num_classes=500), "act": Field(num_classes=3, is_output=False), "end": END}
    case = case_of(fields, [["act"]], num_envs=9, d_model=64)
    assert case.packed.kernel.sizes.CH == 16
    assert_equal(fused(case), reference(case), unsure_envs(case))


@pytest.mark.parametrize("num_envs", [0, 1, 8, 9])
def test_any_number_of_envs(num_envs):
    case = case_of(ATARI, [["act"]], num_envs=num_envs, num_blocks=1, n_denoise_steps=2)
    assert_equal(fused(case), reference(case), unsure_envs(case))


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_an_envs_bits_do_not_depend_on_its_slot_or_on_how_many_there_are(mode):
    case = case_of(ATARI, [["act"]], num_envs=19, mode=mode, num_blocks=1, n_denoise_steps=2)
    whole = named(fused(case))
    for index in ([7], [18, 3, 7], [*range(11, 19), *range(5)]):
        part = named(fused(case.rows(index)))
        for name, tensor in part.items():
            assert torch.equal(tensor, whole[name][index]), (name, index)


@pytest.mark.parametrize("slot", range(9))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_breaks_in_an_env_stays_in_it(slot, value):
    case = case_of(ATARI, [["act"]], num_envs=9, num_blocks=1, n_denoise_steps=2)
    others = [i for i in range(9) if i != slot]
    sound = named(fused(case))
    case.state.values[slot, slot % 4] = value
    broken = named(fused(case))
    assert broken["diverged"].tolist() == [i == slot for i in range(9)]
    for name, tensor in broken.items():
        assert torch.equal(tensor[others], sound[name][others]), name
    assert_equal(fused(case), reference(case), unsure_envs(case))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_action_that_is_no_number_ends_its_env(value):
    case = case_of(ATARI, [["act"]], num_envs=5, num_blocks=1, n_denoise_steps=2)
    case.actions[0][3] = value
    got = fused(case)
    assert got.finished.diverged.tolist() == [False, False, False, True, False]
    assert_equal(got, reference(case), unsure_envs(case))


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("exponents", [(-30, 12), (12, 38)])
def test_numbers_of_any_size(exponents, mode):
    case = case_of(ATARI, [["act"]], num_envs=16, mode=mode, num_blocks=1, n_denoise_steps=2)
    generator = torch.Generator().manual_seed(3)
    case.state.values.mul_(10.0 ** torch.randint(*exponents, (16, 1), generator=generator).to(DEVICE))
    got, expected = named(fused(case)), named(reference(case))
    for tensor in got.values():
        assert bool(tensor.isfinite().all())
    if exponents[1] < 20:  # where squares overflow, the two sum in another order
        assert torch.equal(got["diverged"], expected["diverged"])
        torch.testing.assert_close(got["final0"], expected["final0"], rtol=1e-3, atol=1e-3)


def test_positions_belong_to_one_perspective_and_are_seen_once():
    case = case_of(ATARI, [["act"]], num_envs=1)
    twice = [case.roles[0], case.roles[0]]
    seen = [case.roles[0].__class__(**{**vars(case.roles[0]), "observes": (1, 1)})]
    for roles in (twice, seen):
        with pytest.raises(ValueError, match="FusedStep"):
            FusedStep(lambda: case.packed, case.controls, roles, 1)


def test_the_compiler_sees_one_operator():
    """torch.compile takes a whole step into its graph, and does not look into the kernel."""
    case = case_of(ATARI, [["act"]], num_envs=3, num_blocks=1, n_denoise_steps=1)
    step = FusedStep(lambda: case.packed, case.controls, case.roles, 1)
    graphs = []

    def backend(graph, example_inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    def run(state, actions):
        return step(state, actions, *case.arguments()[2:])

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True)
    with torch.no_grad():
        got, expected = (named(call(case.state, case.actions)) for call in (compiled, run))
    assert sum("wm_kernels.launch" in target for target in graphs[0]) == 1
    assert not [target for target in graphs[0] if "linear" in target or "softmax" in target]
    for name, tensor in got.items():
        assert torch.equal(tensor, expected[name]), name
