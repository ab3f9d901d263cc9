"""Planning in imagination: search for actions over forked states of a world."""

from wm_vec.plan.planners import CEM, MPPI

__all__ = ["CEM", "MPPI"]
