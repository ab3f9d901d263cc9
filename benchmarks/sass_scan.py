"""Whether an assembler kept what tensor-core products read: a scan of SASS beside the PTX that it was made of.

An assembler was seen to put the hidden layer of an MLP into the registers of the normalised rows that the next round of
its loop reads again. Nothing fails; the numbers are wrong. Two rules find that in the listing, without a GPU:

1. *Held*: what PTX defines once, outside of a loop or in the same round of it, is of one definition in SASS too, the
   same for every product that reads it.
2. *In flight*: what an asynchronous product reads or adds to is not written before the kernel has waited for it.

What reaches a product is followed by reaching definitions over all paths, through moves between registers and through
the stack. Products of SASS and PTX correspond by their order and shapes, which assemblers keep for ``wgmma``; the body
of an innermost loop may come several times, since they unroll.

Asynchronous products (``HGMMA``, sm_90) are held to both rules. ``mma.sync`` (``HMMA``, what sm_80 has) waits for
itself, so that nothing is in flight, and assemblers reorder it, so that rule 1 has nothing to go by: those are counted.
``UTCHMMA`` of sm_100 reads shared and tensor memory, no registers.

Not followed: operands in shared memory; what called functions write; registers that PTX assigns in several places.
Values are told apart by where they are defined: one that is computed in two places is reported though it may be right.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from typing import NamedTuple, TypeVar

LINE = re.compile(r"/\*([0-9a-f]{4,5})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
SIZE = 16
"""Bytes of an instruction."""
REGISTER = re.compile(r"R(\d+)")
ZERO = 255
"""The number of RZ."""
PREDICATE = re.compile(r"!?U?P(\d|T)")
ADDRESS = re.compile(r"0x[0-9a-f]+$")
MOVE = re.compile(r"MOV|IMAD\.MOV(\.U32)?")
NO_RESULT = (
    "ST", "RED", "BAR", "BRA", "SYNCS", "UTMA", "R2UR", "LDGSTS", "EXIT", "CALL", "RET", "WARP", "FCHK", "NANOSLEEP",
    "BSSY", "BSYNC",
)  # fmt: skip
"""How operations begin that write no register, or uniform ones and predicates alone."""
FRAGMENT = 4
"""Registers of a product's left operand."""
WGMMA = re.compile(r"wgmma\.mma_async\S*\.m64n(\d+)k\S+ \{[^}]*\}, (?:\{([^}]*)\}|%\w+), .*?(\d);")
PTX_RESULT = re.compile(r"\s*(?:@!?%\w+\s+)?[a-z][\w.:]*\s+(\{[^}]*\}|%\w+)")

Place = int | str  # a register's number, or an address on the stack
Definitions = frozenset[int]  # addresses of the instructions that may have defined a value
BEFORE: Definitions = frozenset({-1})
"""Defined before the listing."""
State = TypeVar("State", bound=dict)


class Instruction(NamedTuple):
    """One line of SASS: ``@guard op operands``."""

    address: int
    guard: str | None
    op: str
    operands: tuple[str, ...]


class Product(NamedTuple):
    """One ``wgmma`` of PTX.

    Attributes:
        shape: Columns, and whether its right operand is transposed.
        loop: Lines of the innermost loop around it; empty where there is none.
        fragment: Registers of its left operand; none where that lies in shared memory.
    """

    shape: str
    loop: range
    fragment: tuple[str, ...]


class Verdict(NamedTuple):
    """What a scan found.

    Attributes:
        products: Tensor-core products in the listing.
        followed: Those whose left operand lies in registers and was held to the rules.
        faults: What is wrong, a sentence each.
    """

    products: int
    followed: int
    faults: list[str]


def scan(sass: str, ptx: str) -> Verdict:
    """Hold one kernel's machine code to the rules.

    Args:
        sass: ``cuobjdump -sass`` of one function, or a part of it.
        ptx: What it was assembled from, or the same part.
    """
    code = {line.address: line for line in instructions(sass)}
    asynchronous = [line for line in code.values() if line.op.startswith("HGMMA")]
    count = sum(re.match(r"[A-Z]+MMA\b", line.op) is not None for line in code.values())
    source = PtxSource(ptx)
    origins = source.origins(asynchronous)
    if origins is None:
        numbers = f"{len(asynchronous)} HGMMA in the SASS, {len(source.products)} wgmma in the PTX"
        return Verdict(count, 0, [f"Cannot be followed: {numbers}, and the ones are not the others in that order."])
    followed = sum(REGISTER.match(line.operands[1]) is not None for line in asynchronous)
    return Verdict(count, followed, [*_not_held(code, origins), *_written_in_flight(code)] if code else [])


# -- what the listings say ---------------------------------------------------------------------------------------


class PtxSource:
    """What the rules need of a kernel's PTX: its products, and where registers are assigned."""

    def __init__(self, ptx: str) -> None:
        lines = ptx.splitlines()
        self.assigned: dict[str, list[int]] = defaultdict(list)
        self.copies = dict(re.findall(r"^\s*mov\.b32\s+(%r\d+), (%r\d+);", ptx, re.MULTILINE))
        labels, loops = {}, []
        for at, line in enumerate(lines):
            if found := re.match(r"(\$\w+):", line):
                labels[found[1]] = at
            elif (found := re.search(r"\bbra\S*\s+(\$\w+)", line)) and found[1] in labels:
                loops.append(range(labels[found[1]], at))
            elif found := PTX_RESULT.match(line):
                for register in re.findall(r"%\w+", found[1]):
                    self.assigned[register].append(at)
        self.products = []
        for at, line in enumerate(lines):
            if found := WGMMA.search(line):
                loop = min((loop for loop in loops if at in loop), key=len, default=range(0))
                fragment = tuple(self._original(register) for register in re.findall(r"%\w+", found[2] or ""))
                self.products.append(
                    Product(f"{found[1]}{'T' if found[3] == '1' and fragment else ''}", loop, fragment)
                )

    def _original(self, register: str) -> str:
        """What a register is a copy of."""
        while len(self.assigned[register]) == 1 and register in self.copies:
            register = self.copies[register]
        return register

    def origins(self, asynchronous: list[Instruction]) -> dict[int, list[str | None]] | None:
        """For each ``HGMMA``, by address, what the registers of its left operand are in PTX.

        A register that is assigned in the loop around it is another one in each copy of the body. None stands for one
        that is assigned in several places. The whole is None where the products do not correspond.
        """
        bodies = [list(body) for _, body in groupby(self.products, lambda product: product.loop)]
        pattern = "".join(
            f"((?:{''.join(product.shape + ';' for product in body)}){'+' if body[0].loop else ''})" for body in bodies
        )
        found = re.fullmatch(pattern, "".join(_shape(line) + ";" for line in asynchronous))
        if found is None:
            return None
        copied = []
        for body, text in zip(bodies, found.groups(), strict=True):
            copied += [(i // len(body), body[i % len(body)]) for i in range(text.count(";"))]
        return {
            line.address: [self._name(register, product.loop, copy) for register in product.fragment]
            for line, (copy, product) in zip(asynchronous, copied, strict=True)
        }

    def _name(self, register: str, loop: range, copy: int) -> str | None:
        places = self.assigned[register]
        if len(places) > 1:
            return None
        return f"{register} of round {copy}" if places and places[0] in loop else register


def _shape(line: Instruction) -> str:
    """`Product.shape` of an ``HGMMA``."""
    columns = line.op.split(".")[1].split("x")[1]
    return f"{columns}{'T' if 'tnspB' in line.operands[2] else ''}"


def instructions(sass: str) -> Iterator[Instruction]:
    """The instructions of a listing, in order."""
    for address, guard, op, operands in LINE.findall(sass):
        yield Instruction(int(address, 16), guard or None, op, tuple(x.strip() for x in operands.split(",")))


def result(line: Instruction) -> range:
    """The registers that an instruction writes."""
    if line.op.startswith(NO_RESULT) or "SETP" in line.op:
        return range(0)
    operands = [operand for operand in line.operands if not PREDICATE.fullmatch(operand)]
    register = REGISTER.fullmatch(operands[0]) if operands else None
    if register is None:
        return range(0)
    first = int(register[1])
    return range(first, first + _width(line.op))


def _width(op: str) -> int:
    """How many registers an operation writes."""
    if op.startswith("HGMMA"):
        return int(op.split(".")[1].split("x")[1]) // 2
    if op.startswith(("HMMA", "LDSM")):
        return 4
    if op.startswith(("LD", "ATOM")):
        return 4 if ".128" in op else 2 if ".64" in op else 1
    doubled = ".WIDE" in op or op == "CS2R" or op.startswith(("DADD", "DMUL", "DFMA")) or re.search(r"[FSU]64", op)
    return 2 if doubled else 1


# -- control flow ------------------------------------------------------------------------------------------------


def successors(code: dict[int, Instruction]) -> dict[int, list[int]]:
    """Where control goes from each instruction; what leaves the listing is left out."""
    addresses = list(code)
    following = dict(zip(addresses, [*addresses[1:], -1], strict=True))
    flow = {}
    for address, line in code.items():
        always = line.guard is None and len(line.operands) <= 1
        targets = [] if always and line.op.startswith(("BRA", "EXIT", "RET")) else [following[address]]
        if line.op.startswith(("BRA", "CALL")) and ADDRESS.match(line.operands[-1]):
            targets.append(int(line.operands[-1], 16))
        flow[address] = [target for target in targets if target in code]
    return flow


def states(
    code: dict[int, Instruction], apply: Callable[[Instruction, State], None], join: Callable[[State, State], State]
) -> Iterator[tuple[Instruction, State]]:
    """Each instruction that is reached, with what holds before it: the fixed point over all paths.

    Args:
        code: The listing.
        apply: Changes the state as an instruction does.
        join: The state where two paths meet.
    """
    flow = successors(code)
    addresses = list(code)
    starts = {addresses[0], *(to for at, after in flow.items() if after != [at + SIZE] for to in after)}
    bounds = sorted(starts | {at + SIZE for at, after in flow.items() if after != [at + SIZE]} & code.keys())
    blocks = dict(zip(bounds, (range(a, b, SIZE) for a, b in pairwise([*bounds, addresses[-1] + SIZE])), strict=True))
    entry: dict[int, State] = {addresses[0]: {}}  # type: ignore[dict-item]
    waiting = [addresses[0]]
    while waiting:
        block = waiting.pop()
        state = entry[block].copy()
        for address in blocks[block]:
            apply(code[address], state)
        for to in flow[address]:
            joined = join(entry[to], state) if to in entry else state
            if to not in entry or joined != entry[to]:
                entry[to] = joined
                waiting.append(to)
    for block, first in entry.items():
        state = first.copy()
        for address in blocks[block]:
            yield code[address], state
            apply(code[address], state)


# -- rule 1 ------------------------------------------------------------------------------------------------------


def _not_held(code: dict[int, Instruction], origins: dict[int, list[str | None]]) -> Iterator[str]:
    """Products that may read something else than PTX says."""
    seen: dict[str, tuple[int, Definitions]] = {}
    for line, state in states(code, define, either):
        for i, origin in enumerate(origins.get(line.address, ())):
            if origin is None:
                continue
            register = _first(line.operands[1]) + i
            found = state.get(register, BEFORE)
            first, expected = seen.setdefault(origin, (line.address, found))
            here = f"{line.op} at {line.address:#x}: R{register} is {origin} of the PTX, and was defined"
            if len(found) > 1:
                yield f"{here} in {len(found)} places: {_named(found)}."
            elif found != expected and len(expected) == 1:
                yield f"{here} {_named(found)}, for the product at {first:#x} {_named(expected)}."


def define(line: Instruction, state: dict[Place, Definitions]) -> None:
    """What an instruction defines; a move hands on what it moves. Where it has a guard, what was there may stay."""
    moved = _moved(line)
    if moved is None:
        new: dict[Place, Definitions] = {register: frozenset({line.address}) for register in result(line)}
    else:
        new = {to: state.get(source, BEFORE) for to, source in moved}
    for place, definitions in new.items():
        state[place] = definitions if line.guard is None else definitions | state.get(place, BEFORE)


def either(a: dict[Place, Definitions], b: dict[Place, Definitions]) -> dict[Place, Definitions]:
    """What may be defined where two paths meet."""
    return {place: a.get(place, BEFORE) | b.get(place, BEFORE) for place in {*a, *b}}


def _moved(line: Instruction) -> list[tuple[Place, Place]] | None:
    """Pairs (to, from) of a move between registers, or from or to the stack; None for anything else."""
    if MOVE.fullmatch(line.op) and {*line.operands[1:-1]} <= {"RZ"} and REGISTER.match(line.operands[-1]):
        return [(_first(line.operands[0]), _first(line.operands[-1]))]
    if line.op.startswith(("STL", "LDL")):
        store = line.op.startswith("STL")
        slot, register = line.operands if store else line.operands[::-1]
        offset = int(found[1], 16) if (found := re.search(r"\+(0x[0-9a-f]+)", slot)) else 0
        count = 4 if ".128" in line.op else 2 if ".64" in line.op else 1
        if not REGISTER.match(register):  # a zero is stored
            return [(f"stack+{offset + 4 * i}", -line.address) for i in range(count)]
        pairs: list[tuple[Place, Place]] = [(f"stack+{offset + 4 * i}", _first(register) + i) for i in range(count)]
        return pairs if store else [(source, to) for to, source in pairs]
    return None


def _first(operand: str) -> int:
    """The number of a register operand; of RZ, which always is 0, 255."""
    found = REGISTER.match(operand)
    return int(found[1]) if found else ZERO


def _named(definitions: Definitions) -> str:
    return " and ".join(
        "before the listing" if address == -1 else f"at {address:#x}" for address in sorted(definitions)
    )


# -- rule 2 ------------------------------------------------------------------------------------------------------


def _written_in_flight(code: dict[int, Instruction]) -> Iterator[str]:
    """Instructions that write what a product in flight reads or adds to."""
    for line, flying in states(code, launch, lambda a, b: {r: min(a.get(r, 9), b.get(r, 9)) for r in {*a, *b}}):
        overwritten = (
            [] if line.op.startswith("HGMMA") else [register for register in result(line) if register in flying]
        )
        if overwritten:
            yield f"{line.op} at {line.address:#x}: writes R{overwritten[0]}, which a product in flight uses."


def launch(line: Instruction, flying: dict[Place, int]) -> None:
    """Registers in use by products in flight, with the number of groups that were committed since."""
    if line.op.startswith("HGMMA"):
        for register in result(line):
            flying[register] = 0
        if REGISTER.match(line.operands[1]):
            for register in range(_first(line.operands[1]), _first(line.operands[1]) + FRAGMENT):
                flying[register] = 0
        if "gsb0" in line.operands:
            for register in flying:
                flying[register] = min(flying[register] + 1, 8)
    elif line.op.startswith("WARPGROUP.DEPBAR"):
        allowed = int(line.operands[-1], 16)
        for register in [register for register, groups in flying.items() if groups > allowed]:
            del flying[register]
