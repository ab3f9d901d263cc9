"""What the reality check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wm_vec.train.metrics import ClassFigures, DimensionFigures, RewardFigures, TerminationFigures
from wm_vec.train.rollout_metrics import Distribution, EffectFigures, OpenLoopFigures

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class OneStep:
    """Single steps on held-out transitions of the real environment.

    Attributes:
        n_transitions: How many.
        dimensions: One entry per dimension of a Box observation; empty for a Discrete one.
        classes: For a Discrete observation; None for a Box.
        reward: Of the same steps.
        termination: Of the same steps.
        diverged: Steps in which the world broke down.
    """

    n_transitions: int
    dimensions: list[DimensionFigures]
    classes: ClassFigures | None
    reward: RewardFigures
    termination: TerminationFigures
    diverged: int


@dataclass(frozen=True)
class Returns:
    """Returns of whole episodes, imagined and real, under the same policy.

    Attributes:
        real: In the real environment.
        imagined: In the world.
        ks: Two-sample Kolmogorov-Smirnov statistic, from 0 (alike) to 1; see `returns_statistic`.
        ks_critical: What `ks` would exceed in about 5 % of cases, were the two alike.
    """

    real: Distribution
    imagined: Distribution
    ks: float
    ks_critical: float


@dataclass(frozen=True)
class Samples:
    """What plots show; D dimensions, k trajectories of up to H steps. Not part of the JSON.

    Attributes:
        real_steps, imagined_steps: ``(m, D)``, residuals of held-out steps.
        real_paths, imagined_paths: ``(H + 1, k, D)`` with the common start; NaN after the real episode's end.
        real_returns, imagined_returns: ``(n,)``.
    """

    real_steps: np.ndarray
    imagined_steps: np.ndarray
    real_paths: np.ndarray
    imagined_paths: np.ndarray
    real_returns: np.ndarray
    imagined_returns: np.ndarray


@dataclass(frozen=True)
class PolicyReport:
    """The figures under one policy. `effects` is None where the real environment's state cannot be set."""

    one_step: OneStep
    open_loop: OpenLoopFigures
    effects: list[EffectFigures] | None
    returns: Returns
    samples: Samples


@dataclass(frozen=True)
class RealityReport:
    """What the reality check found.

    Attributes:
        env_id: The real environment.
        n_denoise_steps: K of the imagined steps; None for a dynamics that has none.
        seed: As given.
        seconds: Wall time.
        policies: By name; ``"random"`` first.
    """

    env_id: str
    n_denoise_steps: int | None
    seed: int
    seconds: float
    policies: dict[str, PolicyReport]

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data that JSON can hold; None where a figure is not defined."""
        data = asdict(self)
        for policy in data["policies"].values():
            del policy["samples"]
        return data

    def table(self) -> Group:
        """The figures for people, as something that a rich console prints."""
        from wm_vec.train.evaluation_table import report_table

        return report_table(self)
