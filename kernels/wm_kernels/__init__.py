"""The batched operations of a world model's step, each with a reference, a contract and a dispatch.

One folder per operation: ``reference.py`` is the specification in pure torch, ``op.py`` the checked entry
point that picks an implementation, ``cpu.py`` a faster one for host memory where that pays. Nothing here knows what an
environment is.
"""

from wm_kernels.canvas_step import Controls, KernelTables, PackedWeights, canvas_step, kernel_tables
from wm_kernels.decode_fields import decode_fields
from wm_kernels.dispatch import ContractError, Op, use_backend
from wm_kernels.encode_fields import ClassInputs, encode_fields
from wm_kernels.finish_step import Draw, FinishedStep, finish_step
from wm_kernels.fused_step import CanvasState, FusedOutput, FusedStep, Role
from wm_kernels.philox_normal import philox_normal, philox_words
from wm_kernels.predict import (
    Attention,
    BlockWeights,
    ClassHead,
    DenoiserWeights,
    changing_fields,
    denoiser_block,
    predict,
    sampler_update,
)

__all__ = [
    "Attention",
    "BlockWeights",
    "CanvasState",
    "ClassHead",
    "ClassInputs",
    "ContractError",
    "Controls",
    "DenoiserWeights",
    "Draw",
    "FinishedStep",
    "FusedOutput",
    "FusedStep",
    "KernelTables",
    "Op",
    "PackedWeights",
    "Role",
    "canvas_step",
    "changing_fields",
    "decode_fields",
    "denoiser_block",
    "encode_fields",
    "finish_step",
    "kernel_tables",
    "philox_normal",
    "philox_words",
    "predict",
    "sampler_update",
    "use_backend",
]
