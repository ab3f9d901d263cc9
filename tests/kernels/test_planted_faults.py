"""The harness that holds the kernels catches a wrong one: faults planted in each, one at a time."""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

import wm_kernels
from tests.kernels import test_device_functions
from tests.kernels.canvases import DEVICE, END, KINDS, case_of, needs_kernels
from tests.kernels.test_fused_step import assert_equal, fused, named, reference, unsure_envs
from wm_kernels import philox_normal, philox_words, use_backend
from wm_vec.canvas import Field

pytestmark = needs_kernels
KERNELS = ("philox_normal", "canvas_step", "finish_step", "fused_step")
FIELDS = {
    "x": Field(w=2),
    "slow": Field(period=3),
    "kind": KINDS["forty"],
    "hand": Field(),
    "foot": KINDS["told"],
    "end": END,
    "force": Field(is_input=False, low=-1.0, high=1.0),
    "paid": Field(is_input=False, num_classes=3),
}
SMALL = {"num_envs": 16, "num_blocks": 1, "n_denoise_steps": 4}


def steps_equal_the_reference():
    """Two agents by numbers, one of which may be held, and one by classes that sees whole numbers; periods."""
    for seed, mode in enumerate(["same_step", "next_step", "disabled"]):
        width = 64 if seed == 2 else 32
        agents = [["hand"], ["slow"]], {"hold": seed == 1, "observes": [(0, 4), (2,)]}
        if seed == 2:
            agents = [["foot"]], {"whole": True, "action_dtype": torch.int32}
        case = case_of(FIELDS, agents[0], mode=mode, seed=seed, d_model=width, **agents[1], **SMALL)
        case.state.values[3, 0] = torch.nan
        assert_equal(fused(case), reference(case), unsure_envs(case))


def fields_are_read_back():
    values = torch.tensor([1.0, 3e38, -1.0, math.nan], device=DEVICE)
    test_device_functions.test_numbers_are_read_back(values)


def a_broken_env_stays_alone():
    fields = {name: FIELDS[name] for name in ("x", "slow", "hand", "end")}  # two envs in an attention's tile
    case = case_of(fields, [["hand"]], num_envs=8, num_blocks=1, n_denoise_steps=2)
    sound = named(fused(case))
    case.state.values[3, 0] = torch.nan
    case.state.values[5, 1] = torch.inf
    broken, others = named(fused(case)), [0, 1, 2, 4, 6, 7]
    assert broken["diverged"].nonzero().flatten().tolist() == [3, 5]
    for name, tensor in broken.items():
        assert torch.equal(tensor[others], sound[name][others]), name


def numbers_are_philoxs():
    generator = torch.Generator().manual_seed(0)
    counters = [torch.randint(-(2**63), 2**63 - 1, (7,), generator=generator).to(DEVICE) for _ in range(3)]
    with use_backend("triton"):
        assert torch.equal(philox_words(*counters, 9, 3), philox_words.reference(*counters, 9, 3))
        torch.testing.assert_close(
            philox_normal(*counters, 9, 3), philox_normal.reference(*counters, 9, 3), rtol=4e-6, atol=4e-6
        )


FAULTS = [
    # the numbers
    ("philox_normal", numbers_are_philoxs, "tl.philox(seed,", "tl.philox(seed >> 1,"),
    ("philox_normal", numbers_are_philoxs, "second = (index % 4) >= 2", "second = (index % 4) >= 3"),
    ("philox_normal", numbers_are_philoxs, "tl.where(lane == 2, w2, w3)", "tl.where(lane == 2, w3, w2)"),
    # the network
    ("canvas_step", a_broken_env_stays_alone, 'y = tl.where((variance < float("inf"))[:, None], y, 0.0)', "y = y"),
    ("canvas_step", steps_equal_the_reference, "tl.where(together[None, :, :], scores, float(\"-inf\"))", "scores"),
    ("canvas_step", steps_equal_the_reference, "exp2(scores - tl.max(scores, 2)", "exp(scores - tl.max(scores, 2)"),
    ("canvas_step", steps_equal_the_reference, "x += tl.load(bias + 2 * D + H + d)", "x += tl.load(bias + D + d)"),
    ("canvas_step", steps_equal_the_reference, "(hidden * hidden).to(WEIGHT)", "hidden.to(WEIGHT)"),
    ("canvas_step", steps_equal_the_reference, "row + 2 * D + h * HEAD, HEAD, D, DESC)", "row + 2 * D, HEAD, D, DESC)"),
    # the fields
    ("canvas_step", steps_equal_the_reference, "first_row + index, -1)", "first_row, -1)"),
    ("canvas_step", steps_equal_the_reference, "x += gather_rows(told, drawn, D)", "pass"),
    ("canvas_step", steps_equal_the_reference, "channel = tl.where(known, channel, 0.0)", "pass"),
    ("canvas_step", fields_are_read_back, "return bounded + (number - number)", "return bounded"),
    ("canvas_step", steps_equal_the_reference, "row = tl.where(ended, 1, 0) * NP + pos", "row = pos"),
    ("canvas_step", steps_equal_the_reference, "tl.load(at + 5) * before", "tl.load(at + 5) * denoised"),
    ("canvas_step", steps_equal_the_reference, "sample + tl.load(at + 6) * noise, denoised", "sample, denoised"),
    ("canvas_step", steps_equal_the_reference, "after = tl.where(held, now, after)", "pass"),
    ("canvas_step", steps_equal_the_reference, "// period == tick // period", "// period > tick // period"),
    # the classes
    ("canvas_step", steps_equal_the_reference, "total = total * tl.exp(top - higher) +", "total = total +"),
    ("canvas_step", steps_equal_the_reference, "before += tl.sum(p, 1)", "before = tl.sum(p, 1)"),
    ("canvas_step", steps_equal_the_reference, "D)[None, :])\n    return drawn", "D)[None, :]) * 0\n    return drawn"),
    ("canvas_step", steps_equal_the_reference, "hidden = hidden / (1.0 + tl.exp(-hidden))", "pass"),
    ("canvas_step", steps_equal_the_reference, "index = tl.where(any_row(held & here, R, NP), known, index)", "pass"),
    # the end
    ("finish_step", steps_equal_the_reference, "reward = tl.where(ended | diverged", "reward = tl.where(diverged"),
    ("finish_step", steps_equal_the_reference, "terminated = terminated | ended |", "terminated = terminated |"),
    ("finish_step", steps_equal_the_reference, "(elapsed >= horizon)", "(elapsed > horizon)"),
    ("finish_step", steps_equal_the_reference, "was_reset = pending", "was_reset = finished"),
    ("finish_step", steps_equal_the_reference, "returns = tl.where(pending[:, None], 0.0, returns)", "pass"),
    ("finish_step", steps_equal_the_reference, "& (terminated == 0))", "& (terminated != 0))"),
    ("finish_step", steps_equal_the_reference, "tl.where(was_reset[:, None], 0.0, returns)", "returns"),
    ("finish_step", steps_equal_the_reference, "episode + was_reset.to(tl.int64)", "episode + 1"),
    ("finish_step", steps_equal_the_reference, "word_at(seed, episode + 1,", "word_at(seed, episode,"),
    # the whole
    ("fused_step", steps_equal_the_reference, "action = action.to(tl.int64) - offset", "action = action.to(tl.int64)"),
    ("fused_step", steps_equal_the_reference, "tl.where(action == action, clipped, action)", "action"),
    ("fused_step", steps_equal_the_reference, "mine = mine & (tl.load(ended", "mine = mine | (tl.load(ended"),
    ("fused_step", steps_equal_the_reference, "last = tl.where(broken_rows, before, after)", "last = after"),
    ("fused_step", steps_equal_the_reference, "fresh = tl.where(reset_rows, start, last)", "fresh = last"),
    ("fused_step", steps_equal_the_reference, "where(broken, ticks, ticks +", "where(broken, 0, ticks +"),
    ("fused_step", steps_equal_the_reference, "stride + spot, last, mask=seen)", "stride + spot, fresh, mask=seen)"),
    ("fused_step", steps_equal_the_reference, "half_even(last).to(tl.int64)", "last.to(tl.int64)"),
]  # fmt: skip


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Give the ops copies of the kernels' modules, one of them changed."""

    def replace(name, old, new):
        folder, root = tmp_path / "planted", Path(wm_kernels.__file__).parent
        folder.mkdir()
        for kernel in KERNELS:
            source = (root / kernel / "kernel.py").read_text()
            if kernel == name:
                assert source.count(old) >= 1, f"{old!r} is no part of {name}/kernel.py"
                source = source.replace(old, new, 1)
            for other in KERNELS:
                source = source.replace(f"wm_kernels.{other}.kernel", f"planted_{other}")
            (folder / f"planted_{kernel}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        for kernel in KERNELS:
            module = importlib.import_module(f"planted_{kernel}")
            monkeypatch.setitem(sys.modules, f"wm_kernels.{kernel}.kernel", module)

    yield replace
    for kernel in KERNELS:
        sys.modules.pop(f"planted_{kernel}", None)


@pytest.mark.parametrize("check", [steps_equal_the_reference, a_broken_env_stays_alone, numbers_are_philoxs])
def test_a_sound_copy_passes(plant, check):
    plant("fused_step", "tl", "tl")
    check()


@pytest.mark.parametrize(
    ("name", "check", "old", "new"),
    [
        pytest.param(*fault, id=f"{fault[0]}: {fault[3]}", marks=[pytest.mark.long] * (i % 4 > 0))
        for i, fault in enumerate(FAULTS)
    ],
)
def test_a_fault_is_caught(plant, name, check, old, new):
    plant(name, old, new)
    with pytest.raises(AssertionError):
        check()
