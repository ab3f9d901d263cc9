"""The keywords of ``WorldModel.to_*``, and the two configs that they become."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from wm_vec.adapters.canvas import ActMode
from wm_vec.core.config import Backend, Capture, EngineConfig
from wm_vec.plain import check_callable

ActBound = float | Mapping[str, float | Sequence[float]] | None
"""A bound of actions: of all, by the field's path, or the fields' own."""


@dataclass(frozen=True)
class CanvasConfig:
    """How an env is cut out of a canvas world: what its agent sees, controls and is paid for, and how a step is made.

    Attributes:
        obs_fields: Field paths that the agent observes, in order; None for the environment's own observation.
        act_fields: Field paths that it controls, in order; None for the environment's own action.
        reward_fn: ``(obs, action, info) -> float`` of one env; None for the learned reward.
        terminated_fn: ``(obs, step, info) -> bool`` of one env; None for the learned termination, if any.
        act_low: Lower bound of actions on `act_fields`: one number, or a mapping from their paths to a number or one
            per position. None, also for a path that is left out, for the fields' own where finite, else -1. Beyond the
            fields' own bounds actions are clipped.
        act_high: Upper bound, likewise, else 1.
        reward_state: Start value of what a stateful `reward_fn` carries through an episode of one env. It then takes a
            fourth argument and returns ``(reward, reward_state)``.
        n_denoise_steps: K, passes of the network per step; None for the model's own.
        act_mode: ``"set"``: an action overwrites its field's current value, and the next is predicted like any other;
            ``"hold"``: the field keeps it through the step.
        initial_obs_fn: Returns field path -> values to start an episode with; the model fills in the other fields. It
            is called when the env is made, once per state of its bank. None for the world's own bank.

    Raises:
        ValueError: A `reward_state` without a `reward_fn`.
        TypeError: An `initial_obs_fn` that cannot be called.
    """

    obs_fields: Sequence[str] | None = None
    act_fields: Sequence[str] | None = None
    reward_fn: Callable[..., Any] | None = None
    terminated_fn: Callable[..., Any] | None = None
    act_low: ActBound = None
    act_high: ActBound = None
    reward_state: Tensor | None = None
    n_denoise_steps: int | None = None
    act_mode: ActMode = "set"
    initial_obs_fn: Callable[[], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.reward_state is not None and self.reward_fn is None:
            raise ValueError("reward_state is what a reward_fn carries: give reward_fn too.")
        check_callable(self.initial_obs_fn, "initial_obs_fn")


class RunSettings(TypedDict, total=False):
    """Keywords of every ``WorldModel.to_*`` but `to_openenv`; see `EngineConfig`, whose defaults they have."""

    max_episode_steps: int | None
    act_mode: ActMode
    seed: int | None
    exact_rows: bool
    backend: Backend
    dtype: torch.dtype | None
    capture: Capture
    copy: bool


class CommonSettings(RunSettings, total=False):
    """Those of the calls that have no such parameters of their own; see `CanvasConfig`."""

    n_denoise_steps: int | None
    initial_obs_fn: Callable[[], Mapping[str, Any]] | None


class EngineSettings(CommonSettings, total=False):
    """Keywords of `WorldModel.to_engine`."""

    autoreset_mode: AutoresetMode | str
    validate: bool


class EnvSettings(CommonSettings, total=False):
    """Keywords of `WorldModel.to_env` and `WorldModel.to_torchrl_env`."""

    act_low: ActBound
    act_high: ActBound
    reward_state: Tensor | None


class VectorSettings(EngineSettings, EnvSettings, total=False):
    """Keywords of `WorldModel.to_vector_env`."""


def configs_of(
    method: Callable[..., Any], keywords: type, settings: Mapping[str, Any], *view: Any
) -> tuple[CanvasConfig, EngineConfig]:
    """The two configs that a call's arguments make.

    Args:
        method: What was called; its parameters count as known names.
        keywords: The TypedDict of its `settings`.
        settings: Keywords as they were given.
        *view: The first fields of `CanvasConfig`.

    Raises:
        TypeError: A keyword that there is not.
        ValueError: A value out of its range.
    """
    known = keywords.__annotations__
    for name in settings:
        if name not in known:
            parameters = inspect.signature(method).parameters.values()
            names = [*dict.fromkeys([*(p.name for p in parameters if p.kind is not p.VAR_KEYWORD), *known])]
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TypeError(
                f"{method.__name__}() got an unexpected keyword argument {name!r}.{hint} It takes {', '.join(names)}."
            )
    engine_names = {field.name for field in fields(EngineConfig)}
    engine = EngineConfig(**{name: value for name, value in settings.items() if name in engine_names})
    canvas = {name: value for name, value in settings.items() if name not in engine_names}
    return CanvasConfig(*view, **canvas), engine
