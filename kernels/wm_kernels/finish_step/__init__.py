"""The bookkeeping at the end of a step: finite check, episode ends, resets, counters, statistics."""

from wm_kernels.finish_step.op import finish_step
from wm_kernels.finish_step.reference import Draw, FinishedStep

__all__ = ["Draw", "FinishedStep", "finish_step"]
