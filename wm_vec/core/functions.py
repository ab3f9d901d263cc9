"""Reward and termination functions as users write them, for one env, run over a batch."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from wm_vec.compat import tree_flatten, tree_leaves, tree_map, tree_unflatten
from wm_vec.core.trees import Tree
from wm_vec.plain import check_callable

Path = Literal["batched", "vmap", "loop"]
_BATCHED_MARK = "__wm_vec_batched__"


def batched(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that takes all envs at once.

    Rewards and terminations then take ``(B, n)`` values per field, resets a ``(B,)`` int64 tensor of seeds.
    """
    check_callable(fn, "batched: the function")
    try:
        setattr(fn, _BATCHED_MARK, True)
    except AttributeError:  # bound methods and builtins take no marks
        fn = functools.partial(fn)
        setattr(fn, _BATCHED_MARK, True)
    return fn


def is_batched(fn: Callable[..., Any] | None) -> bool:
    """Whether a function was marked by `batched`."""
    return getattr(fn, _BATCHED_MARK, False)


class BatchedFunction:
    """Runs a per-env function over a batch: at once if it is marked so, under `torch.func.vmap`, or in a loop.

    The path is decided once, by a probe on copies. What vmap cannot take (``float(...)``, ``if`` on values, NumPy,
    random draws), or what comes out different under it, runs in a loop over CPU tensors, with one warning.

    Args:
        fn: The user's function.
        name: What to call it in messages, ``"reward_fn"``.
        dtype: Dtype of the result: floating for rewards, bool for terminations, which may be numbers all the same.
        call: Calls `fn` with one env's (or, for the batched path, all envs') tensors: ``call(fn, *tensors)``.
        stateful: `fn` takes its state as the last tensor and returns ``(result, new state)``.
        copies: False for a caller that hands in tensors of the function's own.

    Attributes:
        path: How it runs; None before the probe.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        dtype: torch.dtype,
        call: Callable[..., Any],
        stateful: bool = False,
        copies: bool = True,
    ) -> None:
        self._copies = copies
        self.fn, self.name, self.dtype, self._call, self._stateful = fn, name, dtype, call, stateful
        self.path: Path | None = "batched" if is_batched(fn) else None
        self._env: int | None = None  # the env that runs in the loop, for errors

    def probe(self, *tensors: Tree) -> None:
        """Decide the path on a few envs, ``(B, ...)`` each.

        Warns:
            UserWarning: It needs the loop, or gives something that is not finite.

        Raises:
            ValueError: The function gives something that is no number per env, or keeps what it was given.
            Exception: Whatever the function itself raises, on every path.
        """
        if self.path == "batched" or any(t.is_meta for t in tree_leaves(tensors)):
            self.path = self.path or "vmap"
            return
        with torch.random.fork_rng(devices=[]):
            reason = self._told(self._why_not_vmap, tensors, "on initial states, where it is tried first")
        self.path = "vmap" if reason is None else "loop"
        if reason is not None:
            warnings.warn(
                f"{self.name} runs env by env in a Python loop, since torch.func.vmap cannot take it ({reason}). To "
                "make it fast, write it in torch operations without float(), .item(), NumPy or `if` on values "
                "(torch.where instead), or take all envs at once and mark it with @wm_vec.batched.",
                stacklevel=2,
            )

    def _why_not_vmap(self, *tensors: Tree) -> str | None:
        """None where vmap gives what the loop gives; raises what the function itself raises."""
        try:
            mapped, reason = self._vmap(*tree_map(Tensor.clone, tensors)), ""
        except Exception as error:  # whatever vmap cannot take, the loop decides
            mapped, reason = (), f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        looped = self._loop(*tensors)
        if not bool(looped[0].isfinite().all()):
            warnings.warn(
                f"{self.name} gives {looped[0].tolist()} on initial states. An env with a number that is not finite "
                "ends as one whose world broke down, with a reward of 0 and info['diverged'].",
                stacklevel=2,
            )
        if not mapped:
            return reason
        if all(torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(mapped, looped, strict=True)):
            return None
        return "its result under torch.func.vmap differs from the result env by env"

    def __call__(self, *tensors: Tree, step: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run on the tensors ``(B, ...)``, or trees of them; returns ``(result (B,), *new state)``.

        Args:
            tensors: What the function is called with.
            step: ``(B,)`` int64, the number of each env's step, for errors.
        """
        run = {"vmap": self._vmap, "batched": self._batched, "loop": self._loop, None: self._loop}[self.path]
        return self._told(run, tensors, step)

    def _told(self, run: Callable[..., Any], tensors: tuple[Tree, ...], place: Tensor | str | None) -> Any:
        """``run(*tensors)``; its exceptions say of which env and in which step they are."""
        self._env = None
        try:
            return run(*tensors)
        except Exception as error:
            if isinstance(error, RuntimeError) and "functorch" in str(error):  # what it kept is dead outside of vmap
                raise ValueError(
                    f"{self.name} keeps values from one call to the next; they are of other envs and steps. A reward "
                    "that remembers declares a reward_state, takes it as its fourth argument and returns (reward, "
                    "reward_state); info['step'] counts steps."
                ) from error
            which = f"all {len(tree_leaves(tensors)[0])} envs at once" if self._env is None else f"env {self._env}"
            if isinstance(place, Tensor) and not place.is_meta:
                place = f"in step {int(place[self._env or 0])}{' of the first' if self._env is None else ''}"
            error.add_note(
                f"Raised in {self.name}, called for {which}{f', {place}' if isinstance(place, str) else ''}."
            )
            raise

    def _batched(self, *tensors: Tree) -> tuple[Tensor, ...]:
        result, *state = self._run(self._own(tensors))
        batch = tree_leaves(tensors)[0].shape[0]
        if tuple(result.shape) not in ((batch,), (batch, 1)):
            raise ValueError(
                f"{self.name} is marked batched: it must return one number per env, shape ({batch},), "
                f"got {tuple(result.shape)}. Reduce over the last axis, for example with .mean(-1)."
            )
        return (self._cast(result.reshape(batch)), *state)

    def _vmap(self, *tensors: Tree) -> tuple[Tensor, ...]:
        return torch.func.vmap(self._one)(*self._own(tensors))

    def _own(self, tensors: tuple[Tree, ...]) -> tuple[Tree, ...]:
        return tree_map(Tensor.clone, tensors) if self._copies else tensors

    def _loop(self, *tensors: Tree) -> tuple[Tensor, ...]:
        leaves, structure = tree_flatten(tensors)
        columns = [leaf.cpu().unbind(0) for leaf in leaves]
        envs = (tree_unflatten([t.clone() for t in env], structure) for env in zip(*columns, strict=True))
        results = []
        for self._env, env in enumerate(envs):
            results.append(self._one(*env))
        return tuple(torch.stack(column).to(leaves[0].device) for column in zip(*results, strict=True))

    def _one(self, *tensors: Tree) -> tuple[Tensor, ...]:
        """One env's result as a tensor of shape ``()``."""
        value, *state = self._run(tensors)
        if value.numel() != 1:
            raise ValueError(
                f"{self.name} must return one number per env, got a tensor of shape {tuple(value.shape)}. "
                "Reduce it, for example with .mean()."
            )
        return (self._cast(value.reshape(())), *state)

    def _cast(self, value: Tensor) -> Tensor:
        """The result in its dtype; a flag that is no bool stays a number, since NaN is neither true nor false."""
        if value.is_complex():
            raise ValueError(f"{self.name} must return one real number per env, got {value.dtype}.")
        if self.dtype is torch.bool:
            return value if value.dtype is torch.bool else value.float()
        return value.to(self.dtype)

    def _run(self, tensors: Sequence[Tree]) -> tuple[Tensor, ...]:
        """Call the function; its result, and its new state in the shape and dtype of the old one."""
        returned = self._call(self.fn, *tensors)
        leaf = tree_leaves(tensors)[0]
        # A Python number is a constant; a tensor of no axes is mostly a mean over all envs.
        lead, device = leaf.shape[:1] if self.path == "batched" else (), leaf.device
        if not self._stateful:
            return (self._as_tensor(returned, device, lead),)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(
                f"{self.name} carries a reward_state, so it must return (reward, reward_state), "
                f"got {type(returned).__name__}."
            )
        state, old = self._as_tensor(returned[1], device), tensors[-1]
        if tuple(state.shape) not in (tuple(old.shape), (*old.shape, 1)) and not state.numel() == 1 == old.numel():
            raise ValueError(
                f"{self.name} must return a reward_state of shape {tuple(old.shape)}, as it was declared, "
                f"got {tuple(state.shape)}."
            )
        return self._as_tensor(returned[0], device, lead), state.reshape(old.shape).to(old.dtype)

    def _as_tensor(self, value: Any, device: torch.device, lead: tuple[int, ...] = ()) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if type(value) in (bool, int, float):
            return torch.full(lead, value, device=device)
        try:
            return torch.as_tensor(value, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{self.name} must return one number per env, got {type(value).__name__}.") from error
