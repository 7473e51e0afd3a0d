"""What a module must satisfy before a per-record guarantee can hold for it. Imports torch and opacus.

Opacus' own validator knows layers by name. The probes here ask the module itself: records that are nobody's are sent
through a copy, and what one record does to the outcome is compared with what it may do.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from opacus.validators import ModuleValidator
from torch import nn

from ..errors import InputError, Problem
from ._opacus import Clipping, Mode

if TYPE_CHECKING:
    from ._protocol import Setting

_GROUP_NORM = Problem(
    "it normalises each record by the others of its batch",
    hint="use group normalisation (architecture option norm: group, torch.nn.GroupNorm)",
)
#: By the beginning of a layer's name: why Opacus refuses it, and what to use instead.
_REFUSED = {
    "BatchNorm": _GROUP_NORM,
    "SyncBatchNorm": _GROUP_NORM,
    "InstanceNorm": Problem("it keeps running statistics of the records", hint="set track_running_stats=False"),
    "LSTM": Problem("its per-record gradients cannot be had", hint="use opacus.layers.DPLSTM"),
    "GRU": Problem("its per-record gradients cannot be had", hint="use opacus.layers.DPGRU"),
    "MultiheadAttention": Problem(
        "its per-record gradients cannot be had", hint="use opacus.layers.DPMultiheadAttention"
    ),
}
#: Forward passes of differently composed batches differ by rounding alone below this share.
_ROUNDING = 1e-4
#: Likewise per-record gradients by a layer's formula and by plain backpropagation.
_GRADIENT_ROUNDING = 1e-3


def check_module(setting: Setting, mode: Mode) -> None:
    """Refuse what breaks the guarantee.

    Raises:
        InputError: A layer that mixes records, a parameter outside the optimiser, a buffer that training changes, an
            output that depends on other records, or a record whose clipped gradient is larger than the bound.
    """
    _check_layers(setting.module)
    _check_parameters(setting)
    with _undisturbed(), torch.random.fork_rng(devices=[]):
        _check_buffers(setting)
        _check_independence(setting)
        _check_clipping(setting, mode)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A failure inside the user's layers, as an error about them."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        message = f"the module cannot be trained with per-record gradients: {error}"
        raise InputError.of(message, "try mode: functorch, or another architecture") from error


def _check_layers(module: nn.Module) -> None:
    """Layers that Opacus refuses, each with what to use instead."""
    problems = [
        _refusal(name, layer, str(error))
        for name, layer in module.named_modules()
        if type(layer) in ModuleValidator.VALIDATORS
        for error in ModuleValidator.VALIDATORS[type(layer)](layer)
    ]
    if problems:
        raise InputError(tuple(problems))


def _refusal(name: str, layer: nn.Module, error: str) -> Problem:
    """The problem with one layer."""
    kind = type(layer).__name__
    known = next((problem for start, problem in _REFUSED.items() if kind.startswith(start)), None)
    why = known or Problem(error, hint="use another layer")
    return Problem(f"layer '{name}' ({kind}) cannot be trained privately: {why.message}", hint=why.hint)


def _check_parameters(setting: Setting) -> None:
    """Every trainable parameter is the optimiser's, and the optimiser has no other."""
    own = {id(p) for group in setting.optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in setting.module.named_parameters() if p.requires_grad}
    outside = [name for name, p in trainable.items() if id(p) not in own]
    if outside:
        message = f"trainable parameters outside the private optimiser: {', '.join(outside)}"
        raise InputError.of(message, "give them to it, or freeze them: whatever else trains them adds no noise")
    if own - {id(p) for p in trainable.values()}:
        raise InputError.of(
            "the optimiser has parameters that the module does not train", "give it the module's trainable parameters"
        )


def _probe(setting: Setting) -> nn.Module:
    """A copy in training mode without its chance: dropout would make two passes differ by itself."""
    module = copy.deepcopy(setting.module).train()
    for layer in module.modules():
        if type(layer).__module__ == "torch.nn.modules.dropout":
            layer.eval()
    return module


def _check_buffers(setting: Setting) -> None:
    """Training must not write the records into buffers, which no noise is added to."""
    module = _probe(setting)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module(setting.example)
    changed = changed_buffers(module, before)
    if changed:
        message = f"training writes the records into buffers, without noise: {', '.join(changed)}"
        raise InputError.of(message, "use layers without running statistics")


def changed_buffers(module: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    """Names of the buffers that are no longer what they were; new ones count."""
    return [
        name
        for name, buffer in module.named_buffers()
        if name not in before or not torch.equal(torch.nan_to_num(buffer), torch.nan_to_num(before[name]))
    ]


def _check_independence(setting: Setting) -> None:
    """What the module says of one record must not depend on the others in the batch, nor on how many there are."""
    module, x = _probe(setting), setting.example
    others = torch.cat([x[:1], x[1:].flip(0) * 0.5 - 1.0])
    with torch.no_grad():
        first, changed, alone = module(x)[:1], module(others)[:1], module(x[:1])
    for answer in (changed, alone):
        if not torch.allclose(first, answer, rtol=_ROUNDING, atol=_ROUNDING * float(1 + first.abs().max())):
            raise InputError.of(
                "what the module says of one record depends on the other records of its batch, so that clipping its "
                "gradient does not bound its influence",
                "remove statistics over the batch (mean, normalisation, attention across records)",
            )


def _check_clipping(setting: Setting, mode: Mode) -> None:
    """The clipped sum over a batch must be the sum of what plain backpropagation gives for each record, clipped."""
    module, x = _probe(setting), setting.example
    with torch.no_grad():
        y = module(x).argmin(dim=1)
    alone = [_gradient(module, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    norms = torch.stack([gradient.norm() for gradient in alone])
    bound = float(norms.median())
    if not bound > 0:
        return
    expected = torch.stack([g * min(1.0, bound / float(n)) for g, n in zip(alone, norms, strict=True)]).sum(dim=0)
    found = _clipped_sum(module, x, y, bound, mode)
    if not float((found - expected).norm()) <= _GRADIENT_ROUNDING * float(expected.norm() + bound):
        raise InputError.of(
            f"the clipped gradients of mode '{mode}' are not those of the module taken record by record, so that one "
            "record's contribution is not bounded",
            "try mode: functorch, and avoid layers whose parameters are used twice or changed in the forward pass",
        )


def _gradient(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The flat gradient of one record by plain backpropagation."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = nn.functional.cross_entropy(module(x), y, reduction="sum")
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def _clipped_sum(module: nn.Module, x: torch.Tensor, y: torch.Tensor, bound: float, mode: Mode) -> torch.Tensor:
    """The flat clipped sum as training computes it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    clipping = Clipping(module, torch.optim.SGD(parameters, lr=0.0), mode, bound, noise_multiplier=0.0, expected=1.0)
    clipping.gradients(x, y)
    return torch.cat([total.flatten() for total in clipping.sums()])
