"""Several agents in one world: what each sees and does, and what becomes of fields that more than one acts on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor

from wm_vec.canvas import BoundSchema, EnvSignature, SchemaError
from wm_vec.canvas.schema import check_paths
from wm_vec.core.actions import Rule, Sharing
from wm_vec.perspectives import View, view_of
from wm_vec.plain import check_callable, check_type
from wm_vec.settings import ActBound, CanvasConfig

Combine = Rule | Mapping[str, Rule] | None
"""What becomes of a field that several agents act on: of all such fields, or by path; None allows none."""
KEPT = frozenset(
    [
        "action",
        "active",
        "collector",
        "device",
        "diverged",
        "done",
        "episode",
        "episode_length",
        "final_info",
        "final_obs",
        "finished",
        "next",
        "observation",
        "reward",
        "shape",
        "terminated",
        "truncated",
    ]
)
"""Names that infos and TensorDicts of many agents have for other things."""


@dataclass(frozen=True)
class AgentSpec:
    """What one of several agents sees, controls and is paid for.

    Attributes:
        obs_fields: Field paths that it observes, in order.
        act_fields: Field paths that it controls, in order.
        reward_fn: ``(obs, action, info) -> float`` of one env; None for the learned reward of a world that has one.
        terminated_fn: ``(obs, step, info) -> bool`` of one env; None for the learned termination, if any.
        act_low: Lower bound of its actions: one number, or a mapping from paths to a number or one per position; None
            for the fields' own where finite, else -1.
        act_high: Upper bound, likewise, else 1.
        reward_state: Start value of what a stateful `reward_fn` carries, see `wm_vec.settings.CanvasConfig`.

    Raises:
        SchemaError: Fields that are no list of paths.
        TypeError: Functions that cannot be called, or a `reward_state` that is no tensor.
    """

    obs_fields: Sequence[str]
    act_fields: Sequence[str]
    reward_fn: Callable[..., Any] | None
    terminated_fn: Callable[..., Any] | None = None
    act_low: ActBound = -1.0
    act_high: ActBound = 1.0
    reward_state: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("obs_fields", "act_fields"):
            check_paths(f"AgentSpec: {name}", getattr(self, name))
        for name in ("reward_fn", "terminated_fn"):
            check_callable(getattr(self, name), f"AgentSpec: {name}")
        check_type(self.reward_state, (Tensor, type(None)), "AgentSpec: reward_state")


def check_agents(agents: Any) -> dict[str, AgentSpec]:
    """Agents by name, as they were given.

    Raises:
        TypeError: No mapping from names to `AgentSpec`.
        ValueError: None at all, or a name that cannot be one.
    """
    check_type(agents, Mapping, "agents", "Give {'name': AgentSpec(...), ...}.")
    if not agents:
        raise ValueError("agents: give at least one, {'name': AgentSpec(...), ...}.")
    for name, spec in agents.items():
        check_type(name, str, "agents: a name")
        check_type(spec, AgentSpec, f"agents[{name!r}]")
        if name in KEPT or name.startswith("_") or not name.isprintable() or not name:
            raise ValueError(f"agents: {name!r} can be no agent's name: infos and TensorDicts keep it. Rename it.")
    return dict(agents)


def views_of(
    bound: BoundSchema,
    signature: EnvSignature | None,
    agents: Mapping[str, AgentSpec],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, View]:
    """Every agent's view of a world, as `view_of` has it; errors say whose.

    Raises:
        SchemaError: Fields that cannot be seen or acted on so, or no reward.
        ValueError: Bounds that are no numbers.
    """
    views = {}
    for name, spec in agents.items():
        canvas = CanvasConfig(**{field.name: getattr(spec, field.name) for field in fields(spec)})
        try:
            views[name] = view_of(bound, signature, canvas, device, dtype, name)
        except ValueError as error:
            raise type(error)(f"agents[{name!r}]: {error}") from error
    return views


def joint_fields(
    bound: BoundSchema, agents: Mapping[str, AgentSpec], combine: Combine
) -> tuple[list[str], Sharing | None]:
    """The fields that agents act on, each once, and how they are made of the agents' actions side by side.

    Sums and means are taken in the order of names, so that no number depends on the order of the agents; ``"last"`` is
    by that order.

    Returns:
        Paths, and a `Sharing` if several agents act on one of them.

    Raises:
        SchemaError: Fields that several agents act on without a rule, one of classes with another rule than "last", or
            something else than rules.
    """
    columns: dict[str, dict[str, int]] = {}
    end = 0
    for name, spec in agents.items():
        for path in spec.act_fields:
            columns.setdefault(path, {})[name] = end
            end += bound[path].num_positions
    rules = _rules(bound, {path: [*by] for path, by in columns.items() if len(by) > 1}, combine)
    if not rules:
        return [*columns], None
    sources: list[tuple[int, ...]] = []
    for path, by in columns.items():
        order = sorted(by) if rules.get(path) in ("sum", "mean") else [*by]
        sources += [tuple(by[name] + place for name in order) for place in range(bound[path].num_positions)]
    each = [rules.get(path, "last") for path in columns for _ in range(bound[path].num_positions)]
    bounds = [pair for path in columns for pair in zip(*bound[path].spec.span(), strict=True)]
    return [*columns], Sharing(tuple(sources), tuple(each), tuple(bounds))


def _rules(bound: BoundSchema, shared: Mapping[str, list[str]], combine: Any) -> dict[str, Rule]:
    """The rule of every field that several agents act on."""
    given = {bound[path].path: rule for path, rule in combine.items()} if isinstance(combine, Mapping) else None
    for rule in (combine,) if given is None else given.values():
        if not (rule is None and given is None) and not (isinstance(rule, str) and rule in get_args(Rule)):
            raise SchemaError(f"combine must be 'sum', 'mean' or 'last', or such by field path, got {combine!r}.")
    rules: dict[str, Rule] = {}
    for path, names in shared.items():
        rule = combine if given is None else given.get(path)
        if rule is None:
            raise SchemaError(
                f"Agents {', '.join(map(repr, names))} all act on {path!r}: say what becomes of it, combine='sum', "
                f"'mean' or 'last' (in the order of the agents), or combine={{{path!r}: ...}} for this field."
            )
        if rule != "last" and bound[path].spec.num_classes is not None:
            raise SchemaError(f"{path!r} holds classes, which have no {rule}: take combine={{{path!r}: 'last'}}.")
        rules[path] = rule
    return rules
