"""One batched diffusion sampling: K evaluations of the denoiser over a canvas that is encoded once."""

from wm_kernels.predict.op import denoiser_block, predict, sampler_update
from wm_kernels.predict.weights import BlockWeights, DenoiserWeights

__all__ = ["BlockWeights", "DenoiserWeights", "denoiser_block", "predict", "sampler_update"]
