"""The engine and its contracts: dynamics, state, random numbers, autoreset, reward functions. No models here."""

from gymnasium.vector import AutoresetMode

from wm_vec.core.captured_call import captured
from wm_vec.core.config import EngineConfig
from wm_vec.core.dynamics import Dynamics, Transition
from wm_vec.core.engine import Engine
from wm_vec.core.functions import BatchedFunction, batched
from wm_vec.core.perspective import ActionSpec, Perspective
from wm_vec.core.resets import GivenStart
from wm_vec.core.rng import CounterRNG, spawn_seeds
from wm_vec.core.state import EnvState, StepOutput
from wm_vec.core.step import World, step

__all__ = [
    "ActionSpec",
    "AutoresetMode",
    "BatchedFunction",
    "CounterRNG",
    "Dynamics",
    "Engine",
    "EngineConfig",
    "EnvState",
    "GivenStart",
    "Perspective",
    "StepOutput",
    "Transition",
    "World",
    "batched",
    "captured",
    "spawn_seeds",
    "step",
]
