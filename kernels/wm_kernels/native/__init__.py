"""Loops over rows in host memory, in C.

They are there where a C compiler was at installation; `AVAILABLE` says so. What they give is what
`wm_kernels.finish_step` gives, bit for bit, so whoever calls them has a way without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

try:
    from wm_kernels.native import _native  # type: ignore[attr-defined]
except ImportError:
    _native = None

# Addresses are asked for in every call: to send a tensor to another process moves its memory.
_ADDRESS = Tensor.data_ptr
AVAILABLE = _native is not None
"""Whether the functions of this module can be called."""
NEVER = 1 << 62
"""Horizons from here on cut nothing off."""


class RowCounters(NamedTuple):
    """What a step of B rows writes in place; contiguous in host memory.

    Attributes:
        began: ``(B,)`` int64, the clock when the row's episode began.
        episode: ``(B,)`` int64.
        returns: ``(B, P)`` float, the episode's sums of rewards.
    """

    began: Tensor
    episode: Tensor
    returns: Tensor


class RowStarts(NamedTuple):
    """Where the next episodes of B rows begin; contiguous in host memory.

    Attributes:
        bank: ``(M, N)`` float, initial values.
        places: ``(B, depth)`` int64 below M: row i begins its episode ``first[i] + k`` at ``bank[places[i, k]]``.
        first: ``(B,)`` int64.
    """

    bank: Tensor
    places: Tensor
    first: Tensor


class FinishedRows(NamedTuple):
    """What a step of B rows ends in.

    Attributes:
        state: ``(B, N)``, the values after resets: the very tensor that was given if no row was reset.
        observation, fresh: ``(B, n)``, the picked columns before and, if there are starts, after resets; None if none
            were asked for.
        reward: ``(B, 1)``.
        terminated, truncated, finished: ``(B, 1)`` bool.
        running: Three more such, all False.
        lengths: ``(B,)`` int64, the episodes' steps before resets; None if nobody asked.
        sums: ``(B, 1)``, their sums of rewards; likewise.
        rows, episodes: The rows that were reset, and the episodes that they are in now.
    """

    state: Tensor
    observation: Tensor | None
    fresh: Tensor | None
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    finished: Tensor
    running: list[Tensor]
    lengths: Tensor | None
    sums: Tensor | None
    rows: list[int]
    episodes: list[int]


def write_columns(
    values: Tensor, columns: Tensor, action: Tensor, low: Tensor, high: Tensor, offset: int = 0
) -> tuple[Tensor, bool] | None:
    """`values` with actions in some columns: ``values.index_copy(1, columns, action.clamp(low, high))``.

    Args:
        values: ``(B, N)`` float32 or float64, contiguous in host memory.
        columns: ``(A,)`` int64 below N, contiguous.
        action: ``(B, A)``, or ``(B,)`` for a single column; of the values' dtype, or int64 class indices.
        low, high: ``(A,)`` of the values' dtype, contiguous; of class indices the first and the last after `offset`.
        offset: Subtracted from class indices.

    Returns:
        A new tensor, and whether all of `action` was finite. NaN stays. None if the numbers of `action` do not lie one
        after another in host memory: torch has views and other devices.

    Raises:
        ValueError: Arguments of other shapes or dtypes.
    """
    if not action.is_contiguous() or not action.is_cpu or action.is_neg() or action._is_zerotensor():
        return None
    shape, dtype, size = values.shape, values.dtype, columns.shape
    fits = len(shape) == 2 and (dtype is torch.float32 or dtype is torch.float64) and values.is_contiguous()
    fits = fits and action.numel() == shape[0] * size[0]
    fits = fits and columns.dtype is torch.int64 and columns.is_contiguous() and low.dtype is high.dtype is dtype
    if not fits or low.shape != size or high.shape != size or action.dtype not in (dtype, torch.int64):
        raise _misfit("write_columns", values, columns, action, low, high)
    out = torch.empty_like(values)
    finite = _native.write_columns(
        values.element_size(),
        *shape,
        size[0],
        values.data_ptr(),
        action.dtype is torch.int64,
        offset,
        action.data_ptr(),
        low.data_ptr(),
        high.data_ptr(),
        columns.data_ptr(),
        out.data_ptr(),
    )
    return out, finite


def finish_rows(
    values: Tensor,
    reward_column: int | None,
    terminated_column: int | None,
    counters: RowCounters,
    clock: int,
    horizon: int | None,
    starts: RowStarts | None,
    picked: Tensor | None = None,
    keep: bool = False,
) -> FinishedRows | None:
    """End a step whose proposed values tell everything, as `wm_kernels.finish_step` does where no row diverges.

    Args:
        values: ``(B, N)`` float32 or float64, contiguous in host memory.
        reward_column: Where the reward stands; None for 0.
        terminated_column: Where it stands whether the episode terminates, above one half; None for never.
        counters: As before the step; written.
        clock: After the step.
        horizon: Steps after which an episode is truncated; None for no limit.
        starts: Where finished rows start; None leaves them as they are.
        picked: ``(n,)`` int64 below N, contiguous, the columns to show; None for none.
        keep: Tell how long episodes lasted and what they paid.

    Returns:
        New tensors; None if a value is not finite, and nothing is written then.

    Raises:
        IndexError: `starts` has no place for an episode that begins; nothing is written.
        ValueError: Arguments of other shapes or dtypes.
    """
    _check(values, counters, starts)
    num_rows, width = values.shape
    num_picked = 0 if picked is None else picked.shape[0]
    observation = fresh = state = lengths = sums = None
    reward = values.new_empty((num_rows, 1))
    flags = values.new_empty((6, num_rows, 1), dtype=torch.bool)
    if picked is not None:
        observation = values.new_empty((num_rows, num_picked))
    if starts is not None:
        state = values.new_empty((num_rows, width))
        if picked is not None:
            fresh = values.new_empty((num_rows, num_picked))
    if keep:
        lengths, sums = values.new_empty(num_rows, dtype=torch.int64), values.new_empty((num_rows, 1))
    made = observation, fresh, state, reward, flags, lengths, sums
    begun = _native.finish_rows(
        values.element_size(),
        num_rows,
        width,
        values.data_ptr(),
        -1 if reward_column is None else reward_column,
        -1 if terminated_column is None else terminated_column,
        clock,
        0 if horizon is None or horizon >= NEVER else horizon,
        *map(_ADDRESS, counters),
        *((0, 0, 0) if starts is None else map(_ADDRESS, starts)),
        0 if starts is None else starts.places.shape[1],
        0 if picked is None else picked.data_ptr(),
        num_picked,
        *[0 if tensor is None else tensor.data_ptr() for tensor in made],
    )
    if begun is None:
        return None
    rows, episodes = begun
    after = state if rows and state is not None else values
    terminated, truncated, finished, *running = flags.unbind()
    return FinishedRows(
        after, observation, fresh, reward, terminated, truncated, finished, running, lengths, sums, rows, episodes
    )


def copy_steps(target: Tensor, sources: Sequence[Tensor], rows: list[int], which: list[int], position: int) -> None:
    """Put some rows' first steps into `target` from `position` on: ``target[i, position:] = sources[j][i, :...]``.

    Args:
        target: ``(B, depth, n)``, contiguous in host memory; written.
        sources: ``(B, d, n)`` each of the same dtype, contiguous, with d at least what is left, ``depth - position``;
            B, n and dtype are not looked at.
        rows: The rows i.
        which: The source j of each.
        position: Up to depth.

    Raises:
        IndexError: There is no such row, source or step.
    """
    num_rows, depth, width = target.shape
    size = width * target.element_size()
    places = [number for source in sources for number in (source.data_ptr(), source.shape[1])]
    _native.copy_steps(target.data_ptr(), num_rows, depth, size, position, rows, which, *places)


def _check(values: Tensor, counters: RowCounters, starts: RowStarts | None) -> None:
    """Raise unless all fits: what follows is read by address."""
    shape, dtype, (began, episode, returns) = values.shape, values.dtype, counters
    rows = shape[:1]
    fits = len(shape) == 2 and (dtype is torch.float32 or dtype is torch.float64) and values.is_contiguous()
    fits = fits and returns.dtype is dtype and began.shape == episode.shape == rows and returns.shape == (*rows, 1)
    fits = fits and began.dtype is episode.dtype is torch.int64 and began.is_contiguous() and episode.is_contiguous()
    if fits and starts is not None:
        bank, places, first = starts
        fits = bank.dtype is dtype and bank.shape[1:] == shape[1:] and bank.is_contiguous()
        fits = fits and places.shape[:1] == first.shape == rows and places.dtype is first.dtype is torch.int64
        fits = fits and places.is_contiguous() and first.is_contiguous()
    if not fits:
        raise _misfit("finish_rows", values, *counters, *(starts or ()))


def _misfit(name: str, *tensors: Tensor) -> ValueError:
    given = ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in tensors)
    return ValueError(f"wm_kernels.native.{name}: these tensors do not fit each other: {given}.")
