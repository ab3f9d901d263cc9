"""The canvas diffusion model: field codec, denoiser, diffusion. No environments here."""

from wm_kernels import PackedWeights
from wm_vec.model.canvas_model import CanvasModel, ModelConfig
from wm_vec.model.state_check import check_state

__all__ = ["CanvasModel", "ModelConfig", "PackedWeights", "check_state"]
