"""The canvas diffusion model: field codec, denoiser, diffusion. No environments here."""

from wm_vec.model.canvas_model import CanvasModel, ModelConfig, Prepared

__all__ = ["CanvasModel", "ModelConfig", "Prepared"]
