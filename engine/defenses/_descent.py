"""A step of an optimiser. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import torch

#: What makes of a step of SGD more than the rate times the gradient, where it is set.
_MORE = ("momentum", "weight_decay", "nesterov", "maximize", "differentiable")


def descend(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimiser step on the gradients that its parameters have.

    What torch does around plain SGD takes longer than small layers do, so that is left out: the weights are the same.
    """
    if not _is_plain(optimizer):
        optimizer.step()
        return
    with torch.no_grad():
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad, alpha=-group["lr"])


def _is_plain(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step is the rate times the gradient and nothing else, which nobody listens to."""
    heard = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if type(optimizer) is not torch.optim.SGD or heard or "step" in vars(optimizer):
        return False
    return not any(group[name] for group in optimizer.param_groups for name in _MORE)
