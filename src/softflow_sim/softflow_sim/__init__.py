"""Simulated hands and scenes (MuJoCo), each task as a Gymnasium environment, and scripted teachers."""

from gymnasium.envs.registration import register, registry

_ENVIRONMENTS = {
    "softflow/CubeRotation-v0": "softflow_sim.cube_env:CubeRotationEnv",
    "softflow/ToolCut-v0": "softflow_sim.tool_env:ToolCutEnv",
}
for _id, _entry_point in _ENVIRONMENTS.items():
    if _id not in registry:
        register(id=_id, entry_point=_entry_point)
