"""Simulated hands and scenes (MuJoCo), each task as a Gymnasium environment, and scripted teachers."""

from gymnasium.envs.registration import register, registry

if "softflow/CubeRotation-v0" not in registry:
    register(id="softflow/CubeRotation-v0", entry_point="softflow_sim.cube_env:CubeRotationEnv")
