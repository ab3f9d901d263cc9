"""The scan of machine code finds what it is for, and the page says what the kernels are compiled to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks.kernel_code import BEGIN, END, TARGETS, put
from benchmarks.sass_scan import scan

ROOT = Path(__file__).resolve().parents[2]
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x0"


def loop(assembler):
    """The MLP loop of a kernel of 64 x 64 tiles with descriptors: its SASS and PTX."""
    path = ROOT / "tests" / "kernels" / "data" / f"mlp_loop_ptxas_{assembler}"
    return path.with_suffix(".sass").read_text(), path.with_suffix(".ptx").read_text()


def test_the_faulty_listing_is_found():
    verdict = scan(*loop("12_8"))  # on an H100 its error is 1.07
    assert (verdict.products, verdict.followed) == (8, 8)
    # The four products with the up weights read sixteen registers that the last round filled with the hidden layer.
    assert len(verdict.faults) == 16
    assert verdict.faults[0] == (
        "HGMMA.64x64x16.F32.BF16 at 0x55a0: R88 is %r893 of the PTX, and was defined in 2 places: "
        "before the listing and at 0x5a90."
    )


def test_the_sound_listing_is_sound():
    assert scan(*loop("12_9")) == (8, 8, [])


def test_a_write_before_the_wait_is_found():
    sass, ptx = loop("12_9")
    (fault, *_) = scan(sass.replace(WAIT, "NOP", 1), ptx).faults
    assert "which a product in flight uses" in fault


PRODUCT = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r9}, {%r1,%r2,%r3,%r4}, %rd1, %p1, 1, 1, 0;"
HGMMA = "HGMMA.64x8x16.F32.BF16 R24, R88, gdesc[UR8], R24, gsb0"


@pytest.mark.parametrize(
    ("between", "faults"),
    [
        (["NOP"], 0),
        (["MOV R88, R40"], 1),  # another value
        (["MOV R40, R88", "FADD R88, R1, R2", "MOV R88, R40"], 0),  # moved away and back
        (["STL.128 [R1+0x10], R88", "LDS.128 R88, [R5]", "LDL.128 R88, [R1+0x10]"], 0),  # the same through the stack
        (["STL.128 [R1+0x10], R88", "LDS.128 R88, [R5]", "LDL.128 R88, [R1+0x20]"], 4),  # another slot
        (["LDS.64 R90, [R5]"], 2),
        (["@P0 MOV R89, R40"], 1),  # on one path
        (["@P0 BRA 0x90", "FADD R90, R1, R2"], 1),
        (["ISETP.NE.AND P0, PT, R88, RZ, PT", "STS [R88], R89", "R2UR UR4, R88"], 0),  # read alone
    ],
)
def test_what_reaches_a_product_is_followed(between, faults):
    lines = ["LDS.128 R88, [R5]", HGMMA, WAIT, *between]
    lines += ["NOP"] * (8 - len(lines)) + [HGMMA, WAIT, "EXIT"]
    sass = "\n".join(f"/*{16 * i:04x}*/ {line} ;" for i, line in enumerate(lines, 1))
    assert len(scan(sass, f"{PRODUCT}\n{PRODUCT}").faults) == faults


def test_products_that_do_not_correspond_are_no_silence():
    sass, ptx = loop("12_9")
    (fault,) = scan(sass, ptx.replace("wgmma", "mma", 1)).faults
    assert "8 HGMMA in the SASS, 7 wgmma in the PTX" in fault


def test_an_unrolled_loop_corresponds():
    lines = ["LDS.128 R88, [R5]", *[HGMMA, WAIT] * 3, "@P0 BRA 0x0020", "EXIT"]
    sass = "\n".join(f"/*{16 * i:04x}*/ {line} ;" for i, line in enumerate(lines, 1))
    assert scan(sass, f"$L__BB0_1:\n{PRODUCT}\n@%p2 bra $L__BB0_1;") == (3, 3, [])


def test_synchronous_products_are_counted():
    sass = "/*0000*/ HMMA.16816.F32.BF16 R4, R8, R12, R4 ;\n/*0010*/ HFMA2.MMA R4, -RZ, RZ, 0, 0 ;\n/*0020*/ EXIT ;"
    assert scan(sass, "mma.sync.aligned.m16n8k16 {%r1}, {%r2}, {%r3}, {%r4};") == (1, 0, [])


def test_a_section_is_put_in_its_place():
    page = f"# Title\n{BEGIN}\n{END}\nrest\n"
    for target in reversed(TARGETS):
        page = put(page, target, f"### {target}, Triton 1\n\nold\n\n")
    page = put(page, "sm_90", "### sm_90, Triton 2\n\nnew\n\n")
    assert [line for line in page.splitlines() if "#" in line] == [
        "# Title",
        "### sm_80, Triton 1",
        "### sm_90, Triton 2",
        "### sm_100, Triton 1",
        "### gfx942, Triton 1",
    ]
    assert page.count("old") == 3
    assert page.endswith(f"{END}\nrest\n")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=[] if name == "sm_90" else [pytest.mark.long]) for name in TARGETS]
)
def test_every_kernel_compiles_as_the_page_says(target):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'kernels'}"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kernel_code", "--check", target]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
