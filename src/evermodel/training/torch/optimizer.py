"""AdamW and SGD with momentum 0.9. Moments are kept by parameter name, so that they can be saved and restored.

The arithmetic is torch's functions. `torch.optim.Optimizer` isn't used for two reasons: it imports torch's compiler, 3 s
in every process that trains (torch 2.13), and it keeps moments by parameter object, which a changed module doesn't have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

Kind = Literal["adamw", "sgd"]
MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOMENTS: dict[Kind, tuple[str, ...]] = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
STEP = "step"  # of AdamW's bias correction, float32 of no dimension


@dataclass
class Optimizer:
    """`moments[parameter][moment]`: a tensor of the parameter's shape. A parameter without a gradient has no moments."""

    kind: Kind
    weight_decay: float
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of each parameter's moments."""
        return (*MOMENTS[self.kind], STEP) if self.kind == "adamw" else MOMENTS[self.kind]

    @torch.no_grad()
    def step(self, parameters: Mapping[str, Tensor], learning_rate: float) -> None:
        """Take one step in place on the parameters that have a gradient."""
        names = [name for name, parameter in parameters.items() if parameter.grad is not None]
        if not names:
            return
        for name in names:
            if name not in self.moments:
                self.moments[name] = self._fresh(parameters[name])
        values = [parameters[name] for name in names]
        gradients = [value.grad for value in values if value.grad is not None]
        held = {key: [self.moments[name][key] for name in names] for key in self.keys}
        if self.kind == "sgd":
            sgd(
                values,
                gradients,
                list(held["momentum_buffer"]),
                foreach=True,
                weight_decay=self.weight_decay,
                momentum=MOMENTUM,
                lr=learning_rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            return
        adamw(
            values,
            gradients,
            held["exp_avg"],
            held["exp_avg_sq"],
            [],
            held[STEP],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        return {key: torch.zeros(()) if key == STEP else torch.zeros_like(parameter) for key in self.keys}
