"""One step of a canvas: act, draw the noise, predict the next values."""

from wm_kernels.canvas_step.op import canvas_step
from wm_kernels.canvas_step.reference import Controls
from wm_kernels.canvas_step.tables import KernelTables, kernel_tables
from wm_kernels.canvas_step.weights import PackedWeights

__all__ = ["Controls", "KernelTables", "PackedWeights", "canvas_step", "kernel_tables"]
