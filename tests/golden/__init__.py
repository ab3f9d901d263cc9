"""Rollouts that the code reproduces, whatever its inside looks like; `rollouts.json` says which code made them."""
