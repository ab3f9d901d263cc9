"""The code of "Plug TorchWM world models into RL libraries"; import names changed, lost indentation restored."""

CONTRACT = """
obs, info = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(action)
"""

ADAPTER = """
import gymnasium as gym
import numpy as np
from wm_vec.envs import WorldModelEnv
trained_model = ... # Load a TorchWM model, an exported module, or your own adapter object.
initial_latent = ... # Optional: pass None if reset_fn creates the initial state.
obs_space = gym.spaces.Box(-np.inf, np.inf, shape=(64,), dtype=np.float32)
action_space = gym.spaces.Box(-1.0, 1.0, shape=(6,), dtype=np.float32)
def reset_world_model(model, seed=None, options=None):
    latent = model.sample_initial_state(seed=seed)
    obs = model.decode_observation(latent)
    return {"state": latent, "observation": obs, "info": {"source": "world_model"}}
def transition_world_model(model, state, action):
    next_state = model.predict_next_state(state, action)
    obs = model.decode_observation(next_state)
    reward = model.predict_reward(next_state, action)
    done = model.predict_terminal(next_state)
    return {
        "state": next_state,
        "observation": obs,
        "reward": reward,
        "terminated": done,
    }
env = WorldModelEnv(
    trained_model,
    observation_space=obs_space,
    action_space=action_space,
    initial_state=initial_latent,
    reset_fn=reset_world_model,
    transition_fn=transition_world_model,
    max_episode_steps=50,
)
"""

ACTION_TRANSFORM = """
def action_transform(model, action):
    # Example: convert a discrete library action into a learned one-hot action vector.
    one_hot = np.zeros(model.num_actions, dtype=np.float32)
    one_hot[int(action)] = 1.0
    return one_hot
env = WorldModelEnv(
    trained_model,
    observation_space=obs_space,
    action_space=gym.spaces.Discrete(trained_model.num_actions),
    reset_fn=reset_world_model,
    transition_fn=transition_world_model,
    action_transform_fn=action_transform,
)
"""

STABLE_BASELINES = """
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
check_env(env, warn=True)
sb3_env = Monitor(env)
model = PPO("MlpPolicy", sb3_env, verbose=1)
model.learn(total_timesteps=10_000)
"""

DICTIONARY_OBSERVATIONS = """
model = PPO("MultiInputPolicy", sb3_env, verbose=1)
"""

TORCHRL = """
from torchrl.envs import GymWrapper, TransformedEnv
from torchrl.envs.transforms import Compose, DoubleToFloat, StepCounter
base_env = GymWrapper(env)
torchrl_env = TransformedEnv(
    base_env,
    Compose(
        DoubleToFloat(),
        StepCounter(max_steps=50),
    ),
)
td = torchrl_env.reset()
td = torchrl_env.rand_step(td)
"""

CLEANRL = """
import gymnasium as gym
def make_env(seed: int):
    def thunk():
        env = WorldModelEnv(
            trained_model,
            observation_space=obs_space,
            action_space=action_space,
            reset_fn=reset_world_model,
            transition_fn=transition_world_model,
            max_episode_steps=50,
            seed=seed,
        )
        return env
    return thunk
envs = gym.vector.SyncVectorEnv([make_env(seed=i) for i in range(4)])
obs, infos = envs.reset(seed=0)
"""
