"""Models -> `Dynamics`."""

from wm_vec.adapters.canvas import CanvasDynamics

__all__ = ["CanvasDynamics"]
