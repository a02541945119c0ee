"""The embedded simulator: physics, hands and a robot at one table, rendered headless."""

from data_pipelines.simulate.headless import load_mujoco

load_mujoco()
