"""Which positions of a canvas attend to which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_vec.canvas.field import MAX_POSITIONS
from wm_vec.canvas.schema import BoundSchema
from wm_vec.plain import check_type


class Tiles(NamedTuple):
    """Attention as T tiles of Q queries each, which share at most K keys.

    Attributes:
        queries: ``(T, Q)`` int64, tokens; the last tile repeats its last one.
        keys: ``(T, K)`` int64, tokens that any query of the tile attends to, ascending; then others as padding.
        mask: ``(T, Q, K)`` bool, which query attends to which of the keys; never to padding.
        places: ``(N + S,)`` int64, where each token is among the ``T * Q`` queries.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor
    places: Tensor


@dataclass(frozen=True, eq=False)
class Topology:
    """A canvas as a tree of groups, joined through their summaries.

    The group of a field is its path without the last part, and so is the group above a group, up to the root ``""``.
    Each of the S groups has one summary: a token of the network that carries no value. Tokens are the N positions,
    then the summaries.

    A position attends to the positions of its group, the group's summary and the summary of the group above. A summary
    attends to its group's positions, itself, and the summaries of the groups above and right below. So what is said
    anywhere in an entity of two levels reaches all of it within three blocks.

    Attributes:
        groups: Paths of the groups, each after the one above it.
        group: ``(N + S,)`` int64, the group of each token.
        mask: ``(N + S, N + S)`` bool, whether a query (first axis) attends to a key.
        order: ``(N + S,)`` int64, the tokens by group, the summary after the positions.
    """

    groups: tuple[str, ...]
    group: Tensor
    mask: Tensor
    order: Tensor

    @classmethod
    def of(cls, bound: BoundSchema) -> Topology:
        """The topology of a layout, on the CPU.

        Raises:
            ValueError: More than `MAX_POSITIONS` positions and groups.
        """
        check_type(bound, BoundSchema, "Topology: bound", "A world's is `world.bound`.")
        count = bound.layout.num_positions
        numbers = {"": 0}
        for path in bound:
            parts = path.split(".")
            for depth in range(1, len(parts)):
                numbers.setdefault(".".join(parts[:depth]), len(numbers))
                if count + len(numbers) > MAX_POSITIONS:
                    raise ValueError(
                        f"With topology='groups' a canvas takes at most {MAX_POSITIONS} positions and groups; the "
                        f"fields have {count} positions, and too many groups. Use fewer, or topology='dense'."
                    )
        of_position = [numbers[f.path.rpartition(".")[0]] for f in bound.bound_fields() for _ in f.indices()]
        group = torch.tensor([*of_position, *range(len(numbers))], device="cpu")
        above = torch.tensor([numbers[path.rpartition(".")[0]] for path in numbers], device="cpu")[group]
        summary = torch.arange(len(group), device="cpu") >= len(of_position)
        mask = group[:, None] == group
        mask |= (above[:, None] == group) & summary
        mask |= (group[:, None] == above) & summary & summary[:, None]
        return cls(tuple(numbers), group, mask, group.argsort(stable=True))

    @property
    def num_summaries(self) -> int:
        """S."""
        return len(self.groups)

    def tiles(self, size: int) -> Tiles:
        """Key lists of tiles of `size` queries, taken in `order`."""
        queries = torch.cat((self.order, self.order[-1:].expand(-len(self.order) % size))).view(-1, size)
        touched = self.mask[queries].any(1)
        most = int(touched.sum(1).max())
        keys = touched.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        return Tiles(queries, keys, self.mask[queries[:, :, None], keys[:, None]], self.order.argsort())

    def blocks(self, size: int) -> tuple[Tensor, Tensor]:
        """Which blocks of `size` keys each block of `size` queries touches, both in `order`, as compressed rows.

        Returns:
            ``starts`` ``(blocks + 1,)`` int64 and key blocks, ascending: those of block i are ``starts[i]`` to
            ``starts[i + 1]``.
        """
        padding = -len(self.order) % size
        mask = F.pad(self.mask[self.order][:, self.order], (0, padding, 0, padding))
        touched = mask.unflatten(0, (-1, size)).unflatten(2, (-1, size)).any(3).any(1)
        return F.pad(touched.sum(1).cumsum(0), (1, 0)), touched.nonzero()[:, 1]
