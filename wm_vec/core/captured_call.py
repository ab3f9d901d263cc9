"""Gradient steps, and whatever else writes into tensors of its own, as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from wm_vec.core.capture import GRAPHS, Graph, Template, beside, drop_oldest, may_capture, mode_key
from wm_vec.core.probe import Outside, Recorder
from wm_vec.plain import check_callable, warn_once

REAL_CALLS = 2
"""Calls that run as they are: optimizers make their state in the first, and the second shows what is read."""


class CapturedCall:
    """A function that is called as it is at first, and then replayed as a graph.

    Args:
        fn: The function.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        check_callable(fn, "captured: the function")
        self._fn = fn
        self._plain = False
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Replay] = {}
        self._outside: dict[Hashable, Outside] = {}

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns; from a graph, new tensors without gradients."""
        given = Template(inputs)
        if self._plain or not given.tensors:
            return self._fn(*inputs)
        device = given.tensors[0].device
        # Autocast keeps casts of weights for a while, of which a graph would know nothing.
        if not may_capture(device) or torch.is_autocast_enabled(device.type):
            return self._fn(*inputs)
        key = given.key, mode_key()
        graph = self._graphs.get(key)
        if graph is not None and graph.is_valid:
            return graph(given.tensors)
        calls = 0 if graph is not None else self._calls.get(key, 0)
        self._graphs.pop(key, None)
        self._calls[key] = calls + 1
        drop_oldest(self._calls)
        if calls < REAL_CALLS:
            return self._watched(key, given, inputs, device, last=calls == REAL_CALLS - 1)
        try:
            self._graphs[key] = graph = _Replay(self._fn, given, device, self._outside.pop(key))
        except RuntimeError as error:
            self._give_up(str(error))
            return self._fn(*inputs)
        drop_oldest(self._graphs)
        return graph(given.tensors)

    def _watched(self, key: Hashable, given: Template, inputs: Any, device: torch.device, last: bool) -> Any:
        """A call as it is; the last one says what a graph would read."""
        with beside(device):
            if not last:
                return self._fn(*inputs)
            recorder, outside = Recorder(given.tensors, device, draws=True, writes=True), Outside(given.tensors)
            with recorder, outside:
                result = self._fn(*inputs)
        self._outside[key] = outside
        if recorder.problem is not None:
            self._give_up(recorder.problem)
        return result

    def _give_up(self, problem: str) -> None:
        self._plain, self._graphs, self._outside = True, {}, {}
        name = getattr(self._fn, "__name__", getattr(getattr(self._fn, "func", None), "__name__", "a function"))
        warn_once(f"captured: {name} runs operation by operation: {problem}.")


class _Replay:
    """One graph of a function, for inputs of some shapes and dtypes; its first call is the recorded one."""

    def __init__(self, fn: Callable[..., Any], given: Template, device: torch.device, outside: Outside) -> None:
        self._outside = [(tensor, tensor.data_ptr()) for tensor in outside.tensors]
        self._inputs = [tensor.detach().clone() for tensor in given.tensors]
        arguments = given.filled(self._inputs)

        def run() -> None:
            self._returned = Template(fn(*arguments))

        self._graph: Graph = GRAPHS[device.type](run, device, 0)

    @property
    def is_valid(self) -> bool:
        return all(tensor.data_ptr() == address for tensor, address in self._outside)

    def __call__(self, tensors: list[Tensor]) -> Any:
        with torch.no_grad():
            torch._foreach_copy_(self._inputs, tensors)
        self._graph.replay()
        return self._returned.filled([tensor.detach().clone() for tensor in self._returned.tensors])


def captured(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, from its third call on replayed as one CUDA graph: a gradient step, say, with backward and optimizer.

    It takes and returns tensors, and trees of them. It may read and write others, such as parameters, where they lie;
    where one has moved it is captured anew. In host memory, under autocast, and where it cannot be captured, which is
    said once, it is `fn` itself.

    A graph repeats what was recorded. So a learning rate that changes is a tensor, the optimizer ``capturable=True``,
    and gradients are set to None inside. After an optimizer's ``load_state_dict``, which puts other tensors in place of
    its own, call `captured` anew.

    Args:
        fn: The function. It reads nothing on the host.
    """
    return CapturedCall(fn)
