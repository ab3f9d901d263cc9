"""Models -> `Dynamics`."""

from wm_vec.adapters.callables import CallableDynamics
from wm_vec.adapters.canvas import CanvasDynamics
from wm_vec.adapters.errors import AdapterError
from wm_vec.adapters.torchrl import TorchRLDynamics

__all__ = ["AdapterError", "CallableDynamics", "CanvasDynamics", "TorchRLDynamics"]
