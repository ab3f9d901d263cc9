"""`predict`, `denoiser_block` and `sampler_update`: contracts and dispatch."""

from __future__ import annotations

from wm_kernels.dispatch import Op, TensorContract
from wm_kernels.predict.reference import denoiser_block_reference, predict_reference, sampler_update_reference

denoiser_block = Op("denoiser_block", denoiser_block_reference, {"tokens": TensorContract(("B", "N", "D"))})

sampler_update = Op(
    "sampler_update",
    sampler_update_reference,
    {"noisy": TensorContract(("B", "N", "V")), "denoised": TensorContract(("B", "N", "V"))},
)

predict = Op(
    "predict",
    predict_reference,
    {
        "canvas": TensorContract(("B", "N", "D")),
        "noise": TensorContract(("B", "N", "V")),
        "modulation": TensorContract(("K", "L", 6, "D")),
    },
)
