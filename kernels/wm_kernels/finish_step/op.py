"""`finish_step`: contract, dispatch and launch. The leaves themselves are checked where states come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wm_kernels.arena import Arena, Segment
from wm_kernels.dispatch import Launch, Op, TensorContract, is_plain_tensor, wants_graph
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
    *rest: Any,
    kernel: bool = True,
) -> FinishedStep:
    """`finish_step_reference` in one launch."""
    *counters, horizon, autoreset = rest
    seed, size, stream = (None, None, 0) if draw is None else (draw.seed, draw.size, draw.stream)
    tensors = [*previous, *proposed, *bank, action, reward, *counters, seed, size]
    settings = stream, NO_HORIZON if horizon is None else horizon, MODES[autoreset]
    buffer, *leaves = _FINISH.over(tensors, len(proposed), *settings)
    final = leaves[: len(proposed)]
    views = Arena(outcome_segments(reward.shape[1])).views(buffer, reward.shape[0])
    return FinishedStep(
        final=final,
        state=final if autoreset == "disabled" else leaves[len(proposed) :],
        **outcome_of(views, counters[-1] is not None, autoreset),
    )


class FinishLaunch(Launch):
    """Over the leaves before the step, those proposed, the bank's if there is one, the action, and ten counters.

    The settings are the number of leaves, the stream of the starts, the horizon and the mode.
    """

    def outputs(self, tensors: Sequence[Any], *settings: int) -> list[Tensor]:
        """The arena, the final leaves, and after them those after resets."""
        reward, (n, *_, mode) = tensors[-10], settings
        arena = Arena(outcome_segments(reward.shape[1]))
        buffer = reward.new_empty(arena.size(reward.shape[0]), dtype=torch.uint8)
        copies = [*tensors[n : 2 * n]] * (1 if mode == MODES["disabled"] else 2)
        return [buffer, *(torch.empty_like(x, memory_format=torch.contiguous_format) for x in copies)]

    def write(self, tensors: Sequence[Any], outputs: list[Tensor], *settings: int) -> None:
        """By programs of 32 envs."""
        from wm_kernels.finish_step.kernel import finish_step_kernel

        (n, stream, horizon, mode), (*leaves, action), counters = settings, tensors[:-10], tensors[-10:]
        previous, proposed, bank = (tuple(leaves[i : i + n]) for i in (0, n, 2 * n))
        final, state = tuple(outputs[1 : n + 1]), tuple(outputs[n + 1 :])
        checked = tuple(x for x in (*proposed, action) if x is not None and x.dtype in REAL)
        widths, checked_widths = (tuple(x[0].numel() for x in some) for some in (proposed, checked))
        (num_envs, num_perspectives), elapsed = counters[0].shape, counters[3]
        arena = Arena(outcome_segments(num_perspectives))
        finish_step_kernel[(-(-num_envs // ENVS),)](
            previous, proposed, bank or final, final, state or final, checked,
            *(elapsed if x is None else x for x in counters),  # what is not there is not read
            *arena.parts(outputs[0], num_envs), num_envs, arena.stride(num_envs), horizon, stream, WIDTHS=widths,
            CHECKED=checked_widths, P=num_perspectives, PP=power_of_two(num_perspectives), MODE=mode,
            TRUNCATES=counters[2] is not None, ENDS=counters[7] is not None, OWN_STARTS=counters[8] is None, ENVS=ENVS,
            COLUMNS=min(64, max(power_of_two(width) for width in (1, *widths))), num_warps=4,
        )  # fmt: skip


_FINISH = FinishLaunch()
