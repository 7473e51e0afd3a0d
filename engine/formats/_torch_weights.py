"""From tensors by name to a module that holds them. Imports torch: to be imported inside functions only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import InputError, Problem

#: Wrappers that put a prefix before every name of the module they wrap.
_WRAPPERS = {"module.": "DataParallel", "_module.": "Opacus", "_orig_mod.": "torch.compile"}
_LISTED = 10


def fit_weights(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put the file's tensors into the module, every name, shape and dtype checked first.

    Raises:
        InputError: A tensor is missing, unexpected, of another shape or dtype, or not finite.
    """
    expected = module.state_dict()
    problems = [*_names(expected, tensors, path), *_shapes(expected, tensors, path)]
    problems = problems or _dtypes(expected, tensors, path)
    if problems:
        raise InputError(tuple(problems))
    module.load_state_dict(dict(tensors), strict=True)
    check_finite(module, path)


def check_finite(module: torch.nn.Module, path: Path) -> None:
    """Refuse NaN and infinity among parameters and buffers.

    Raises:
        InputError: There is one.
    """
    problems = []
    for name, tensor in module.state_dict().items():
        bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if bad:
            message = f"{path}: {bad} of {tensor.numel()} values of {name!r} are NaN or infinite"
            problems.append(Problem(message, hint="train it again: nothing can be measured on such a model"))
    if problems:
        raise InputError(tuple(problems[:_LISTED]))


def check_answers(
    module: torch.nn.Module, shape: tuple[int, ...], classes: int, bounds: tuple[float, float], path: Path
) -> None:
    """Refuse a model that does not answer the darkest and the brightest record with one finite logit a class.

    Raises:
        InputError: It fails, answers in another shape, with NaN or infinity, or with probabilities.
    """
    records = torch.stack([torch.full(shape, bound) for bound in bounds])
    try:
        with torch.no_grad():
            answer = module(records)
    except Exception as error:  # a module may raise anything; whatever it is, it cannot be asked
        message = f"{path}: the model cannot read records of shape {list(shape)} ({error})"
        raise InputError.of(message, "correct spec.task.input or the architecture") from error
    if not isinstance(answer, torch.Tensor) or answer.shape != (2, classes):
        found = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        message = f"{path}: two records were answered with {found}, expected logits of shape {[2, classes]}"
        raise InputError.of(message, "correct spec.task.classes or the architecture")
    if not answer.is_floating_point() or not bool(torch.isfinite(answer).all()):
        message = f"{path}: records at the ends of the task's range are answered with NaN or infinity"
        raise InputError.of(message, "nothing can be measured on such a model")
    sums_to_one = torch.isclose(answer.sum(dim=1), torch.ones_like(answer[:, 0]), atol=1e-4)
    if bool((answer >= 0).all()) and bool(sums_to_one.all()):
        message = f"{path}: the model answers with probabilities, expected logits"
        raise InputError.of(message, "leave out its softmax: the release applies it")


def _names(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> list[Problem]:
    """Tensors that are missing or that the architecture does not know."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if not missing and not unexpected:
        return []
    hint = _unwrap(expected, found) or "name the architecture (and its parameters) that this file was saved from"
    lists = [("missing", missing), ("unexpected", unexpected)]
    said = "; ".join(f"{what}: {_some(names)}" for what, names in lists if names)
    return [Problem(f"{path}: the tensors are not those of the architecture: {said}", hint=hint)]


def _unwrap(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """What to do where a wrapper's prefix is all that is wrong."""
    for prefix, wrapper in _WRAPPERS.items():
        if {name.removeprefix(prefix) for name in found} == set(expected):
            inner = prefix.rstrip(".")
            return f"{wrapper} put {prefix!r} before every name: save the module inside it, model.{inner}.state_dict()"
    return ""


def _some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _shapes(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> list[Problem]:
    """Tensors of another shape than the architecture's, both shapes said."""
    problems = []
    for name, wanted in expected.items():
        if name in found and found[name].shape != wanted.shape:
            shapes = f"has shape {list(found[name].shape)}, the architecture expects {list(wanted.shape)}"
            hint = "the architecture's parameters or the task's input and classes are not those of this model"
            problems.append(Problem(f"{path}: {name!r} {shapes}", hint=hint))
    return problems[:_LISTED]


def _dtypes(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], path: Path) -> list[Problem]:
    """Tensors that the module could hold only by changing their values."""
    problems = []
    for name, wanted in expected.items():
        tensor = found[name]
        if not _plain(tensor):
            kind = "quantised" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
            problems.append(Problem(f"{path}: {name!r} is no plain tensor ({kind})", hint="save the float32 model"))
        elif not _fits(tensor.dtype, wanted.dtype):
            message = f"{path}: {name!r} is {_name(tensor.dtype)}, the architecture computes in {_name(wanted.dtype)}"
            hint = "convert and save it again, so that what is measured is what is released: model.float()"
            problems.append(Problem(message, hint=hint))
    return problems[:_LISTED]


def _plain(tensor: torch.Tensor) -> bool:
    """Whether it is dense numbers in memory."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _fits(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether every stored value is one of the wanted dtype too."""
    if stored == wanted:
        return True
    return stored in (torch.float16, torch.bfloat16, torch.float32) and wanted in (torch.float32, torch.float64)


def _name(dtype: torch.dtype) -> str:
    """`float32` and so on."""
    return str(dtype).removeprefix("torch.")
