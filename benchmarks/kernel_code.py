"""What the kernels are compiled to, read without a GPU: registers, shared memory, stack; and a scan of their SASS.

Run: ``python -m benchmarks.kernel_code`` writes the tables of docs/kernels.md; after the name of a target only that
one's. With ``--check`` it compares instead, and fails where the page is of the same Triton and says something else.
Either way it fails where `benchmarks.sass_scan` finds a fault. Needs a process without ``TRITON_INTERPRET=1``, under
which nothing compiles. Triton keeps what it has compiled on disk.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from benchmarks.kernel_cases import Case, kernel_cases
from benchmarks.sass_scan import Verdict, scan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
BEGIN, END = "<!-- kernel_code: begin -->", "<!-- kernel_code: end -->"
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class Resources(NamedTuple):
    """What a program of a kernel takes.

    Attributes:
        registers: 32-bit registers of a thread; on AMD accumulation registers included.
        shared: Bytes of shared memory (LDS) of a program.
        stack: Bytes of stack or scratch of a thread: what was spilled.
    """

    registers: int
    shared: int
    stack: int


class Row(NamedTuple):
    """One kernel compiled for one target; `verdict` is None where there is no SASS."""

    name: str
    resources: Resources
    verdict: Verdict | None


def compiled(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: GPUTarget) -> Any:
    """A kernel as a launch with these arguments compiles it, specialised on what they are divisible by."""
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*args, **kwargs)
    options, signature, constants, attributes = kernel._pack_args(backend, kwargs, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def read(name: str, code: Any) -> Row:
    """What the binary of a compiled kernel says."""
    if "cubin" not in code.asm:
        vgprs, scratch = (_amdgcn(code.asm["amdgcn"], key) for key in ("vgpr_count", "private_segment_fixed_size"))
        return Row(name, Resources(vgprs, code.metadata.shared, scratch), None)
    usage = cuobjdump(code.asm["cubin"], "-res-usage")
    registers, stack = (int(number) for number in re.findall(r"(?:REG|STACK):(\d+)", usage))
    verdict = scan(cuobjdump(code.asm["cubin"], "-sass"), code.asm["ptx"])
    return Row(name, Resources(registers, code.metadata.shared, stack), verdict)


def cuobjdump(cubin: bytes, option: str) -> str:
    """The output of the tool that Triton brings along."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _amdgcn(assembly: str, key: str) -> int:
    """A figure of the metadata at the end of an AMD kernel's assembly."""
    found = re.search(rf"\.{key}:\s+(\d+)", assembly)
    assert found is not None, key
    return int(found[1])


def rows(cases: Iterable[Case], target: str) -> list[Row]:
    """Compile cases, one after the other."""
    return [read(name, compiled(kernel, args, kwargs, TARGETS[target])) for name, kernel, args, kwargs in cases]


def section(target: str, found: list[Row]) -> str:
    """What the page says about a target."""
    lines = [
        f"{_title(target)}\n",
        "| kernel | registers | shared, bytes | stack, bytes | products, of them followed | scan |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, (registers, shared, stack), verdict in found:
        products, result = "", "-"
        if verdict is not None:
            products = f"{verdict.products}, {verdict.followed}"
            result = f"{len(verdict.faults)} faults" if verdict.faults else "sound" if verdict.followed else "-"
        lines.append(f"| {name} | {registers} | {shared:,} | {stack:,} | {products} | {result} |")
    return "\n".join(lines) + "\n\n"


def _title(target: str) -> str:
    return f"### {target}, Triton {triton.__version__}"


def put(page: str, target: str, text: str) -> str:
    """The page with another section of a target."""
    before, rest = page.split(BEGIN)
    held, after = rest.split(END)
    sections = {part.split(",")[0]: f"### {part}" for part in held.split("### ")[1:]}
    sections[target] = text
    return f"{before}{BEGIN}\n\n{''.join(sections[name] for name in TARGETS if name in sections)}{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all of them if none is named")
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    options = parser.parse_args(arguments)
    unknown = {*options.targets} - {*TARGETS}
    if unknown:
        parser.error(f"unknown targets {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    wrong = []
    for target in options.targets or TARGETS:
        found = rows(kernel_cases(_arch(target)), target)
        text, page = section(target, found), PAGE.read_text()
        wrong += [f"{target}, {row.name}: {fault}" for row in found if row.verdict for fault in row.verdict.faults]
        if not options.check:
            PAGE.write_text(put(page, target, text))
        elif _title(target) not in page:
            print(
                f"{PAGE.name} has no figures of {target} under Triton {triton.__version__}; the code is scanned alone."
            )
        elif text not in page:
            wrong.append(f"{PAGE.name} differs: run python -m benchmarks.kernel_code {target}. It is now\n{text}")
    print("\n".join(wrong))
    return 1 if wrong else 0


def _arch(target: str) -> str:
    """A target as `wm_kernels.canvas_step.tiles.architecture` names it."""
    return f"{TARGETS[target].backend}:{TARGETS[target].arch}"


if __name__ == "__main__":
    sys.exit(main())
