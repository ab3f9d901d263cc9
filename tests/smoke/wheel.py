"""Build the wheel, install it away from the checkout, and use what it carries."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
USE = """
import gymnasium as gym, wm_vec, wm_kernels, os
home = os.environ["WHEEL_HOME"]
assert wm_vec.__file__.startswith(home) and wm_kernels.__file__.startswith(home), wm_vec.__file__
envs = gym.make_vec("wm_vec/CartPole-v1", num_envs=8)
observation, info = envs.reset(seed=0)
observation, reward, terminated, truncated, info = envs.step(envs.sample_actions())
assert observation.shape == (8, 4) and bool((reward > 0.9).all()), (observation, reward)
print("wheel", wm_vec.__version__, "works from", home)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheels, home = Path(folder) / "wheels", Path(folder) / "home"
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(wheels), str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = wheels.glob("*.whl")
        assert wheel.name.endswith("-py3-none-any.whl"), f"{wheel.name} is not pure Python"
        install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(home), str(wheel)]
        subprocess.run(install, check=True)
        env = {**os.environ, "PYTHONPATH": str(home), "WHEEL_HOME": str(home)}
        subprocess.run([sys.executable, "-c", USE], check=True, cwd=folder, env=env)
        subprocess.run(
            [str(home / "bin" / "wm-vec"), "--help"], check=True, cwd=folder, env=env, stdout=subprocess.DEVNULL
        )


if __name__ == "__main__":
    main()
