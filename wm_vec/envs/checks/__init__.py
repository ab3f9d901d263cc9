"""The parts of `wm_vec.envs.checker`: what is rolled out, and what is checked on it."""
