"""`finish_step`: dispatch. Its arguments are lists of leaves, which the engine has already checked."""

from __future__ import annotations

from wm_kernels.dispatch import Op
from wm_kernels.finish_step.reference import finish_step_reference

finish_step = Op("finish_step", finish_step_reference)
