"""One batched diffusion sampling: K evaluations of the denoiser over a canvas that is encoded once."""

from wm_kernels.predict.op import denoiser_block, predict, sampler_update
from wm_kernels.predict.reference import changing_fields
from wm_kernels.predict.weights import Attention, BlockWeights, ClassHead, DenoiserWeights

__all__ = [
    "Attention",
    "BlockWeights",
    "ClassHead",
    "DenoiserWeights",
    "changing_fields",
    "denoiser_block",
    "predict",
    "sampler_update",
]
