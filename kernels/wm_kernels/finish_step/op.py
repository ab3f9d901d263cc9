"""`finish_step`: contract, dispatch and launch. The leaves themselves are checked where states come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels.arena import Arena, Segment
from wm_kernels.dispatch import LIBRARY, Op, TensorContract, is_plain_tensor, wants_graph
from wm_kernels.finish_step.reference import Autoreset, Draw, FinishedStep, finish_step_reference

MODES = {"disabled": 0, "next_step": 1, "same_step": 2}
NO_HORIZON = 2**62
ENVS = 32
"""Envs of a program."""
MOST_LEAVES = 16
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

finish_step = Op(
    "finish_step",
    finish_step_reference,
    {"reward": TensorContract(("B", "P")), "terminated": TensorContract(("B", "P"), (torch.bool,))},
    first=5,
)


def power_of_two(size: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (size - 1).bit_length()


def outcome_segments(num_perspectives: int) -> list[Segment]:
    """What `write_outcome` writes: everything of a `FinishedStep` but the leaves, and who is pending."""
    each = (num_perspectives,)
    longs = [Segment(name, torch.int64) for name in ("elapsed", "episode", "final_elapsed")]
    floats = [Segment(name, torch.float32, each) for name in ("reward", "returns", "final_returns")]
    flags = [Segment(name, torch.bool, each) for name in ("terminated", "ended")]
    flags += [Segment(name, torch.bool) for name in ("truncated", "finished", "was_reset", "diverged", "pending")]
    return [*longs, *floats, *flags]


def outcome_of(views: Mapping[str, Tensor], ends: bool, autoreset: Autoreset) -> dict[str, Any]:
    """The fields of a `FinishedStep` but the leaves, of an arena's views."""
    names = {*FinishedStep._fields} - {"final", "state"}
    absent = {"ended": not ends, "pending": autoreset != "next_step"}
    return {name: None if absent.get(name) else views[name] for name in names}


LIBRARY.define(
    "finish_step(Tensor[] previous, Tensor[] proposed, Tensor[] bank, Tensor[] checked, Tensor reward, "
    "Tensor terminated, Tensor? truncated, Tensor elapsed, Tensor episode, Tensor returns, Tensor? pending, "
    "Tensor? ended, Tensor? seed, Tensor? size, int stream, SymInt horizon, str autoreset) -> Tensor[]"
)


def _takes(
    previous: Sequence[Tensor],
    proposed: Sequence[Tensor],
    bank: Sequence[Tensor],
    draw: Draw | None,
    action: Tensor | None,
    reward: Tensor,
    *_: Any,
    kernel: bool = False,
) -> bool:
    leaves = [*proposed, *([] if action is None else [action])]
    return (
        kernel
        and is_plain_tensor(reward)
        and reward.dtype is torch.float32
        and len(leaves) <= MOST_LEAVES
        and all(leaf.dtype in WHOLE + REAL for leaf in leaves)
        and not wants_graph(reward, *previous, *leaves)
    )


@finish_step.register("triton", _takes)
def finish_step_triton(
    previous: Sequence[Tensor],
    proposed: Sequence[Tensor],
    bank: Sequence[Tensor],
    draw: Draw | None,
    action: Tensor | None,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    elapsed: Tensor,
    episode: Tensor,
    returns: Tensor,
    pending: Tensor | None,
    ended: Tensor | None,
    horizon: int | None,
    autoreset: Autoreset,
    kernel: bool = True,
) -> FinishedStep:
    """`finish_step_reference` in one launch."""
    checked = [leaf for leaf in proposed if leaf.dtype in REAL]
    seed, size, stream = (None, None, 0) if draw is None else (draw.seed, draw.size, draw.stream)
    buffer, *leaves = torch.ops.wm_kernels.finish_step(
        list(previous), list(proposed), list(bank), checked if action is None else [*checked, action], reward,
        terminated, truncated, elapsed, episode, returns, pending, ended, seed, size, stream,
        NO_HORIZON if horizon is None else horizon, autoreset,
    )  # fmt: skip
    views = Arena(outcome_segments(reward.shape[1])).views(buffer, reward.shape[0])
    final = leaves[: len(proposed)]
    return FinishedStep(
        final=final,
        state=final if autoreset == "disabled" else leaves[len(proposed) :],
        **outcome_of(views, ended is not None, autoreset),
    )


@torch.library.register_fake("wm_kernels::finish_step")
def _buffers(
    previous: list[Tensor],
    proposed: list[Tensor],
    bank: list[Tensor],
    checked: list[Tensor],
    reward: Tensor,
    *arguments: Any,
) -> list[Tensor]:
    """The arena and the final leaves, and after them those after resets; not yet written."""
    arena = Arena(outcome_segments(reward.shape[1]))
    buffer = reward.new_empty(arena.size(reward.shape[0]), dtype=torch.uint8)
    copies = 1 if arguments[-1] == "disabled" else 2
    leaves = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in proposed * copies]
    return [buffer, *leaves]


@torch.library.impl(LIBRARY, "finish_step", "CPU")
@torch.library.impl(LIBRARY, "finish_step", "CUDA")
def _launch(
    previous: list[Tensor],
    proposed: list[Tensor],
    bank: list[Tensor],
    checked: list[Tensor],
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor | None,
    elapsed: Tensor,
    episode: Tensor,
    returns: Tensor,
    pending: Tensor | None,
    ended: Tensor | None,
    seed: Tensor | None,
    size: Tensor | None,
    stream: int,
    horizon: int,
    autoreset: str,
) -> list[Tensor]:
    from wm_kernels.finish_step.kernel import finish_step_kernel

    num_envs, num_perspectives = reward.shape
    buffer, *leaves = _buffers(previous, proposed, bank, checked, reward, autoreset)
    if not num_envs:
        return [buffer, *leaves]
    arena = Arena(outcome_segments(num_perspectives))
    final = leaves[: len(proposed)]
    widths = tuple(leaf[0].numel() for leaf in proposed)
    contiguous = [tuple(x.contiguous() for x in some) for some in (previous, proposed, bank, checked)]
    unused = elapsed  # in the place of tensors that are not read
    finish_step_kernel[(-(-num_envs // ENVS),)](
        *contiguous[:2],
        contiguous[2] if bank else tuple(final),
        tuple(final),
        tuple(leaves[len(proposed) :] or final),
        contiguous[3],
        reward.contiguous(),
        terminated.contiguous(),
        unused if truncated is None else truncated.contiguous(),
        elapsed.contiguous(),
        episode.contiguous(),
        returns.contiguous(),
        unused if ended is None else ended.contiguous(),
        unused if pending is None else pending.contiguous(),
        unused if seed is None else seed.contiguous(),
        unused if size is None else size,
        *arena.parts(buffer, num_envs),
        num_envs,
        arena.stride(num_envs),
        horizon,
        stream,
        WIDTHS=widths,
        CHECKED=tuple(leaf[0].numel() for leaf in checked),
        P=num_perspectives,
        PP=power_of_two(num_perspectives),
        MODE=MODES[autoreset],
        TRUNCATES=truncated is not None,
        ENDS=ended is not None,
        OWN_STARTS=seed is None,
        ENVS=ENVS,
        COLUMNS=min(64, max(power_of_two(width) for width in (1, *widths))),
        num_warps=4,
    )
    return [buffer, *leaves]
