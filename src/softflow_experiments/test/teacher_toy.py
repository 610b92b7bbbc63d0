"""A small teacher with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from softflow_experiments.privileged import INPUTS, Teacher, load_teacher, save_teacher

WIDTHS = (16, 16)


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Of a small teacher with random weights."""
    rng = np.random.default_rng(seed)
    shapes = {
        "mlp_extractor.policy_net.0.weight": (16, INPUTS),
        "mlp_extractor.policy_net.0.bias": (16,),
        "mlp_extractor.policy_net.2.weight": (16, 16),
        "mlp_extractor.policy_net.2.bias": (16,),
        "action_net.weight": (8, 16),
        "action_net.bias": (8,),
    }
    out = {f"policy/{n}": (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
    out["policy/features_extractor.normalizer.mean"] = np.zeros(INPUTS, np.float32)
    out["policy/features_extractor.normalizer.std"] = np.ones(INPUTS, np.float32)
    return out


def toy_teacher(directory: Path, seed: int = 0) -> Teacher:
    """Saved and loaded."""
    save_teacher(directory, tensors(seed), WIDTHS, {"steps": 7})
    return load_teacher(directory)
