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
from torch import nn

from ..errors import InputError, Problem
from ._sums import Gradient, sums_by

if TYPE_CHECKING:
    from ._protocol import Setting
    from .dp_sgd import Mode, Way

_NORM = Problem(
    "it normalises each record by the others of its batch",
    hint="use group normalisation (architecture option norm: group, torch.nn.GroupNorm)",
)
_STATISTICS = Problem("it keeps running statistics of the records", hint="set track_running_stats=False")
#: By the name of a layer: its replacement, whose gradients can be had record by record.
_REPLACED = {
    "LSTM": "opacus.layers.DPLSTM",
    "GRU": "opacus.layers.DPGRU",
    "RNN": "opacus.layers.DPRNN",
    "MultiheadAttention": "opacus.layers.DPMultiheadAttention",
}
#: The fastest first.
_WAYS: tuple[Way, ...] = ("bookkeeping", "ghost", "hooks", "functorch")
#: Forward passes of differently composed batches differ by rounding alone below this share.
_ROUNDING = 1e-4
#: Likewise per-record gradients by a layer's formula and by plain backpropagation.
_GRADIENT_ROUNDING = 1e-3


def check_module(setting: Setting, mode: Mode) -> Way:
    """Refuse what breaks the guarantee.

    Returns: the way to clipped sums; for `auto` the fastest that gives what plain backpropagation gives.

    Raises:
        InputError: A layer that mixes records, a parameter outside the optimiser, a buffer that training changes, an
            output that depends on other records, or a record whose clipped gradient is larger than the bound.
    """
    _check_layers(setting.module)
    _check_parameters(setting)
    with torch.random.fork_rng(devices=[]):
        with _undisturbed():
            _check_buffers(setting)
            _check_independence(setting)
        return _way(setting, mode)


def _way(setting: Setting, mode: Mode) -> Way:
    """The first way that is right for the module."""
    ways = _WAYS if mode == "auto" else (mode,)
    for way in ways:
        try:
            with _undisturbed():
                _check_clipping(setting, way)
            return way
        except InputError:
            if way == ways[-1]:
                raise
    raise AssertionError("there is at least one way")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A failure inside the user's layers, as an error about them."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError, LookupError, AttributeError) as error:
        message = f"the module cannot be trained with per-record gradients: {error}"
        raise InputError.of(message, "try mode: functorch, or another architecture") from error


def _check_layers(module: nn.Module) -> None:
    """Layers that are known to break the guarantee, each with what to use instead."""
    problems = [
        Problem(f"layer '{name}' ({type(layer).__name__}) cannot be trained privately: {why.message}", hint=why.hint)
        for name, layer in module.named_modules()
        if not _frozen(layer)
        for why in _refusals(layer)
    ]
    if problems:
        raise InputError(tuple(problems))


def _frozen(layer: nn.Module) -> bool:
    """Whether training leaves it as it is: no parameter of it is trained, and it is not in training mode."""
    return not layer.training and not any(p.requires_grad for p in layer.parameters())


def _refusals(layer: nn.Module) -> Iterator[Problem]:
    """Why this layer breaks the guarantee, if it does."""
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        yield _NORM
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
        yield _STATISTICS
    kind = type(layer).__name__
    if type(layer).__module__.startswith("torch.nn.") and kind in _REPLACED:
        yield Problem("its per-record gradients cannot be had", hint=f"use {_REPLACED[kind]}")


def _check_parameters(setting: Setting) -> None:
    """Every trainable parameter is the optimiser's, and the optimiser has no other."""
    own = {id(p) for group in setting.optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in setting.module.named_parameters() if p.requires_grad}
    if not trainable:
        raise InputError.of("every parameter of the module is frozen", "train at least one layer")
    outside = [name for name, p in trainable.items() if id(p) not in own]
    if outside:
        message = f"trainable parameters outside the private optimiser: {', '.join(outside)}"
        raise InputError.of(message, "give them to it, or freeze them: whatever else trains them adds no noise")
    if own - {id(p) for p in trainable.values()}:
        raise InputError.of(
            "the optimiser has parameters that the module does not train", "give it the module's trainable parameters"
        )
    kinds = sorted({str(p.dtype) for p in trainable.values()})
    if kinds not in (["torch.float32"], ["torch.float64"]):
        raise InputError.of(
            f"the parameters are of {', '.join(kinds)}: sums of clipped gradients would be rounded too coarsely",
            "train in torch.float32",
        )


def _probe(setting: Setting) -> nn.Module:
    """A copy as it is trained, without its chance: dropout would make two passes differ by itself."""
    module = copy.deepcopy(setting.module)
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


def _check_clipping(setting: Setting, way: Way) -> None:
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
    found = _clipped_sum(module, x, y, bound, way)
    if not float((found - expected).norm()) <= _GRADIENT_ROUNDING * float(expected.norm() + bound):
        raise InputError.of(
            f"the clipped gradients of mode '{way}' are not those of the module taken record by record, so that one "
            "record's contribution is not bounded",
            "try mode: functorch, and avoid layers whose parameters are used twice or changed in the forward pass",
        )


def _gradient(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The flat gradient of one record by plain backpropagation."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    loss = nn.functional.cross_entropy(module(x), y, reduction="sum")
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def _clipped_sum(module: nn.Module, x: torch.Tensor, y: torch.Tensor, bound: float, way: Way) -> torch.Tensor:
    """The flat clipped sum as training computes it."""
    sums, totals = sums_by(way, module), Gradient([p for p in module.parameters() if p.requires_grad])
    sums.add(x, y, bound, totals.parts)
    return totals.flat
