"""Vector environments with one planted fault each, for the tests of the checker."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper

from wm_vec.envs import WorldModelVectorEnv


class ReusedBuffer(WorldModelVectorEnv):
    """One observation tensor, filled again at every step."""

    _buffer = None

    def step(self, actions):
        observation, *rest = super().step(actions)
        if self._buffer is None:
            self._buffer = torch.empty_like(observation)
        self._buffer.copy_(observation)
        return (self._buffer, *rest)


class ViewOfState(WorldModelVectorEnv):
    """Observations are a view of the engine's state (the CartPole world's first four positions)."""

    def step(self, actions):
        _, *rest = super().step(actions)
        return (self.engine.model_state()["values"][:, :4], *rest)


class KeepsAction(WorldModelVectorEnv):
    """Acts with the tensor of the step before, without a copy of it."""

    _last = None

    def reset(self, *, seed=None, options=None):
        self._last = None if options is None else self._last
        return super().reset(seed=seed, options=options)

    def step(self, actions):
        taken, self._last = actions if self._last is None else self._last, actions
        return super().step(taken.clamp(0, 1))


class WritesAction(WorldModelVectorEnv):
    """Turns the caller's actions round in place."""

    def step(self, actions):
        actions.neg_().add_(1)
        return super().step(actions)


class FinalIsReset(WorldModelVectorEnv):
    """The final observation is the one after the reset."""

    def step(self, actions):
        observation, *rest, info = super().step(actions)
        info["final_obs"] = observation.clone()
        return (observation, *rest, info)


class FinalIsStale(WorldModelVectorEnv):
    """The final observation is the one before the last action."""

    def step(self, actions):
        before = self._perspective.observe(self.engine.predictions())
        *rest, info = super().step(actions)
        info["final_obs"] = before
        return (*rest, info)


class FinalIsZero(WorldModelVectorEnv):
    """The final observation was allocated and never written."""

    def step(self, actions):
        *rest, info = super().step(actions)
        info["final_obs"] = torch.zeros_like(info["final_obs"])
        return (*rest, info)


class NoFinal(WorldModelVectorEnv):
    """The last observation is lost."""

    def step(self, actions):
        *rest, info = super().step(actions)
        return (*rest, {key: value for key, value in info.items() if "final" not in key})


class InvertedMask(WorldModelVectorEnv):
    """The mask of final observations says where there is none."""

    def step(self, actions):
        *rest, info = super().step(actions)
        info["_final_obs"] = ~info["_final_obs"]
        return (*rest, info)


class TerminationsAlone(WorldModelVectorEnv):
    """The mask of episode statistics forgets truncations."""

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        info["_episode"] = terminated.clone()
        return observation, reward, terminated, truncated, info


class LastRewardLost(WorldModelVectorEnv):
    """The return at the end of an episode lacks the last reward."""

    def step(self, actions):
        observation, reward, *flags, info = super().step(actions)
        info["episode"] = {"r": info["episode"]["r"] - reward, "l": info["episode"]["l"]}
        return (observation, reward, *flags, info)


class LengthOneOff(WorldModelVectorEnv):
    """The length at the end of an episode lacks the last step."""

    def step(self, actions):
        *rest, info = super().step(actions)
        info["episode"] = {"r": info["episode"]["r"], "l": info["episode"]["l"] - 1}
        return (*rest, info)


class FloatFlags(WorldModelVectorEnv):
    """Flags are numbers."""

    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        return observation, reward, terminated.float(), truncated.float(), info


class RewardColumn(WorldModelVectorEnv):
    """Rewards have a column too many."""

    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        return (observation, reward[:, None], *rest)


class DoubleObservations(WorldModelVectorEnv):
    """Observations are not what the space says."""

    def step(self, actions):
        observation, *rest = super().step(actions)
        return (observation.double(), *rest)


class OutOfBounds(WorldModelVectorEnv):
    """An observation leaves the space (the cart's position is bounded by 4.8)."""

    def step(self, actions):
        observation, *rest = super().step(actions)
        observation[1, 0] = 5.0
        return (observation, *rest)


class KeepsGraph(WorldModelVectorEnv):
    """Observations carry a graph."""

    def step(self, actions):
        observation, *rest = super().step(actions)
        return (observation.requires_grad_(), *rest)


class SeedIgnored(WorldModelVectorEnv):
    """Every seed is 7."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if seed is None else 7, options=options)


class SeedFromClock(WorldModelVectorEnv):
    """No seed is used."""

    def reset(self, *, seed=None, options=None):
        seed = None if seed is None else int(torch.randint(2**31, ()))
        return super().reset(seed=seed, options=options)


class OneSeedForAll(WorldModelVectorEnv):
    """All envs get the same seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=[seed] * self.num_envs if isinstance(seed, int) else seed, options=options)


class SeedOfBatch(WorldModelVectorEnv):
    """Seeds depend on how many envs there are."""

    def reset(self, *, seed=None, options=None):
        seed = seed + 1000 * self.num_envs if isinstance(seed, int) else seed
        if isinstance(seed, list):
            seed = [s + 1000 * self.num_envs for s in seed]
        return super().reset(seed=seed, options=options)


class EpisodeAgain(WorldModelVectorEnv):
    """A reset without a seed plays the same episode again."""

    _seed = None

    def reset(self, *, seed=None, options=None):
        self._seed = self._seed if seed is None else seed
        return super().reset(seed=self._seed if options is None else None, options=options)


class BatchMean(WorldModelVectorEnv):
    """Observations are centred by the batch."""

    def step(self, actions):
        observation, *rest = super().step(actions)
        return (observation - 0.1 * observation.mean(0), *rest)


class ActsTogether(WorldModelVectorEnv):
    """The last env's action is replaced by the first's."""

    def step(self, actions):
        actions = actions.clone()
        actions[-1] = actions[0]
        return super().step(actions)


class ResetsAll(WorldModelVectorEnv):
    """A masked reset resets every env."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class ResetsNone(WorldModelVectorEnv):
    """A masked reset resets no env."""

    def reset(self, *, seed=None, options=None):
        if options is None:
            return super().reset(seed=seed)
        return self._perspective.observe(self.engine.predictions()), {}


class StepsUnreset(WorldModelVectorEnv):
    """Steps without a reset."""

    def step(self, actions):
        if not self.engine.started:
            self.reset()
        return super().step(actions)


class KeepsTensors(WorldModelVectorEnv):
    """Every observation is kept for ever."""

    def step(self, actions):
        result = super().step(actions)
        self.__dict__.setdefault("_history", []).append(result[0])
        return result


class KeepsArrays(VectorWrapper):
    """The same, over any environment that returns NumPy."""

    def step(self, actions):
        result = super().step(actions)
        self.__dict__.setdefault("_history", []).append(np.copy(result[0]))
        return result


def declaring(mode: AutoresetMode) -> type[WorldModelVectorEnv]:
    """An environment that declares `mode`, whatever its engine does, and gives ``final_obs`` if due."""

    class Declares(WorldModelVectorEnv):
        autoreset_mode = mode

        def __init__(self, *args):
            super().__init__(*args)
            self.metadata = {**self.metadata, "autoreset_mode": mode}

    return Declares
