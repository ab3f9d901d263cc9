"""N envs of one world, shared out among worker processes that each hold a copy of the world.

The workers are TorchRL's: its collectors, `ParallelEnv` and Ray's actors all take functions that make an env. This
package makes those functions, and sends new weights of the world to their envs. What needs Ray is in
`wm_vec.workers.ray_collector`.
"""

from wm_vec.workers.env import RandomActions, WorkerEnv
from wm_vec.workers.worker_envs import EnvMaker, WorkerEnvs

__all__ = ["EnvMaker", "RandomActions", "WorkerEnv", "WorkerEnvs"]
