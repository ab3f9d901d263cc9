"""Ready-made worlds in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from wm_vec.canvas import compile_schema
from wm_vec.model import ModelConfig
from wm_vec.plain import whole_number
from wm_vec.schema import TICKS, World
from wm_vec.world_model import WorldModel


class GeneralUnifiedWorldModel(WorldModel):
    """A world of the fields in `wm_vec.schema`, of which you say what you need.

    Args:
        include: Groups and fields of `wm_vec.schema.World` to keep, ``["regime", "financial.equities"]``; None for all
            of them, also beside entities.
        exclude: Those to leave out again, also of entities.
        entities: Firms, people, countries, or dataclasses of fields of your own, by name:
            ``{"firm_acme": Business()}``.
        d_model: Width of the network, a multiple of 32.
        n_layers: Transformer blocks of their own weights.
        n_heads: Attention heads; None for as many as are 32 wide.
        n_loops: Times the blocks are gone through.
        step: What one env step, one predict, lasts: a key of `wm_vec.schema.TICKS`. Fields that change less often stay
            as they are in between: a quarter's for three steps of a month.
        topology: Which positions attend to which, see `ModelConfig`.
        device: Where the network lives.
        dtype: Its floating dtype; float32 if not given.
        seed: Seeds the initial weights.

    Raises:
        UnknownFieldError: An `include` or `exclude` that matches nothing.
        SchemaError: Entities that collide with a group or a field, or are none.
        ValueError: Another number or word that is out of its range.
    """

    def __init__(
        self,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        entities: Mapping[str, Any] | None = None,
        d_model: int = 64,
        n_layers: int = 6,
        n_heads: int | None = None,
        n_loops: int = 3,
        *,
        step: str = "month",
        topology: Literal["dense", "groups"] = "groups",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(step, str) or step not in TICKS:
            raise ValueError(f"step must be one of {', '.join(TICKS)}, got {step!r}.")
        bound = compile_schema(World, include, exclude, entities, d_model)
        config = ModelConfig(
            num_blocks=whole_number(n_layers, "n_layers"),
            num_loops=whole_number(n_loops, "n_loops"),
            ticks_per_step=TICKS[step],
            topology=topology,
            num_heads=None if n_heads is None else whole_number(n_heads, "n_heads"),
        )
        super().__init__(bound, config=config, device=device, dtype=dtype, seed=seed)
