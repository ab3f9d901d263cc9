"""The engine and its contracts: dynamics, state, random numbers, autoreset, reward functions. No models here."""

from wm_vec.core.dynamics import Dynamics, Transition
from wm_vec.core.engine import Engine
from wm_vec.core.functions import BatchedFunction, batched
from wm_vec.core.perspective import ActionSpec, Perspective
from wm_vec.core.rng import CounterRNG, spawn_seeds
from wm_vec.core.state import AutoresetMode, EnvState, StepResult

__all__ = [
    "ActionSpec",
    "AutoresetMode",
    "BatchedFunction",
    "CounterRNG",
    "Dynamics",
    "Engine",
    "EnvState",
    "Perspective",
    "StepResult",
    "Transition",
    "batched",
    "spawn_seeds",
]
