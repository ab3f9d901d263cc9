"""Where an engine keeps its rows between steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wm_vec.core.host import HostRows, can_step_on_host
from wm_vec.core.lookahead import DrawsAhead
from wm_vec.core.rng import CounterRNG
from wm_vec.core.rows import RowLayout, Rows
from wm_vec.core.single import RowDynamics, SingleRow
from wm_vec.core.starts import Starts, restart


class RowStore:
    """The rows of an engine, in the form that the last step left them in: tensors, counters in host memory, one row.

    Args:
        num_envs: B.
        layout: The rows' leaves.
        row_dynamics: How the dynamics keeps one row.
        device: Where rows live.

    Attributes:
        ahead: What has been drawn ahead for them; None outside of host memory.
        keeps_tensors: Step on tensors alone, for steps that are compiled; set by the first traced call.
    """

    def __init__(self, num_envs: int, layout: RowLayout, row_dynamics: RowDynamics, device: torch.device) -> None:
        self.layout, self.row_dynamics, self.device = layout, row_dynamics, device
        self.ahead = DrawsAhead(num_envs) if device.type == "cpu" else None
        self.keeps_tensors = False
        # Of the three at most one.
        self._rows: Rows | None = None
        self._host: HostRows | None = None
        self._one: SingleRow | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._host is None:
            return self.__dict__
        # Tensors that are sent to another process share their memory with it; what is written in place must not.
        return {**self.__dict__, "_rows": self._host.to_rows(), "_host": None}

    @property
    def filled(self) -> bool:
        """Whether there are rows yet."""
        return self._rows is not None or self._host is not None or self._one is not None

    @property
    def holds_one(self) -> bool:
        """Whether the last step was one of the only row."""
        return self._one is not None

    @property
    def leaves(self) -> list[Tensor]:
        """The rows' leaves; there must be rows. Not copies."""
        return self.rows().leaves if self._host is None else self._host.leaves

    def rows(self) -> Rows:
        """As tensors; there must be rows. Nobody writes into them."""
        if torch.compiler.is_compiling():
            self.keeps_tensors = True  # a graph holds for one value of every counter on the host
        if self._host is not None:
            return self._host.to_rows()
        if self._one is not None:
            self._rows, self._one = self._one.to_rows(self.layout, self.row_dynamics, self.device), None
        assert self._rows is not None
        return self._rows

    def host(self) -> HostRows | None:
        """In host memory, to be written into; None where they cannot be."""
        if self.ahead is None or self.keeps_tensors or torch.compiler.is_compiling():
            return None
        if self._host is not None:
            wrapped = torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack()
            return None if wrapped else self._host
        rows = self.rows()
        # Sums that hang on a graph would lose it, also if the step then fails.
        if can_step_on_host(rows.seed) and not rows.returns.requires_grad:
            self._host, self._rows = HostRows.of(rows, self.ahead), None
        return self._host

    def one(self) -> SingleRow:
        """The only row; there must be rows."""
        if self._one is None:
            self._one, self._rows, self._host = SingleRow.of(self.rows(), self.layout, self.row_dynamics), None, None
        return self._one

    def put(self, rows: Rows) -> None:
        """Go on from other rows."""
        self._rows, self._host, self._one = rows, None, None
        if self.ahead is not None:
            self.ahead.forget()

    def put_next(self, rows: Rows, restarted: Tensor | None) -> None:
        """Go on from where a step of these rows led.

        Args:
            rows: As they are now.
            restarted: ``(B,)`` bool, the rows that began an episode; None for none.
        """
        self._rows, self._host, self._one = rows, None, None
        if self.ahead is not None and not torch.compiler.is_compiling():
            self.ahead.advance(restarted, rows.episode)

    def restart(self, starts: Starts, mask: Tensor, options: Mapping[str, Any] | None) -> None:
        """Begin the next episodes of the rows of `mask`, ``(B,)`` bool; arguments as in `restart`."""
        if self._host is not None and can_step_on_host(mask):
            self._host.restart(mask.numpy(), starts, options)
            return
        self._rows = restart(starts, self.rows(), mask=mask, options=options)
        self._host = None
        if self.ahead is not None and not torch.compiler.is_compiling():
            self.ahead.restart(mask, self._rows.episode)

    def put_one(self, one: SingleRow) -> None:
        """Go on from where a step of the only row led."""
        self._one = one
        if self.ahead is not None and self.ahead.numbers is not None:
            self.ahead.numbers.advance()

    def counters(self) -> CounterRNG:
        """The numbers of the next step, drawn when they are asked for."""
        if self._host is not None:
            return self._host.rng_now()
        rows = self.rows()
        return CounterRNG(rows.seed, rows.episode, rows.elapsed)

    def rng(self) -> CounterRNG:
        """The numbers of the next step; drawn ahead in host memory."""
        if self.ahead is None:
            return self.counters()
        if torch.compiler.is_compiling():
            self.ahead.forget()  # what an eager step drew ahead counts on the host
            return self.counters()
        return self.ahead.rng(self.counters)
