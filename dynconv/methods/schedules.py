"""How learning rates and the weights of losses change during a run."""

from __future__ import annotations

import math

from dynconv.methods.config import MethodConfig


def learning_rate_factor(config: MethodConfig, step: int, max_steps: int) -> float:
    """What the learning rate of `step` is multiplied by under the schedule of `config`."""
    if config.lr_schedule == "constant":
        return 1.0
    if config.lr_schedule == "inverse":
        return (1 + config.lr_gamma * step) ** -config.lr_power
    if config.lr_schedule == "poly":
        return (1 - step / max_steps) ** config.lr_power
    return config.lr_decay ** sum(step >= milestone * max_steps for milestone in config.lr_milestones)


def sigmoid_ramp(progress: float) -> float:
    """2 / (1 + exp(-10 p)) - 1 (DANN section 5.2.2): from 0 at p = `progress` = 0 to all but 1e-4 of 1 at p = 1."""
    return 2 / (1 + math.exp(-10 * progress)) - 1
