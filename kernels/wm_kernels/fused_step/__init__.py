"""A whole env step of a canvas in one launch."""

from wm_kernels.fused_step.op import FusedStep
from wm_kernels.fused_step.reference import CanvasState, FusedOutput, Role, fused_step_reference

__all__ = ["CanvasState", "FusedOutput", "FusedStep", "Role", "fused_step_reference"]
