"""Models -> `Dynamics`."""

from wm_vec.adapters.callables import CallableDynamics
from wm_vec.adapters.canvas import CanvasDynamics
from wm_vec.adapters.errors import AdapterError

__all__ = ["AdapterError", "CallableDynamics", "CanvasDynamics"]
