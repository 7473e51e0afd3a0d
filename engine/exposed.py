"""What passes by an adversary: a layer's activations, or gradients.

The only place where a release's clean activations and gradients exist. Noise and clipping are applied before anything
leaves it, so that no attack can reach what the release keeps back (in a public evaluation of such noise the attack had
been given the clean values, and the noise looked useless).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from .errors import NotMeasurable
from .target import Exposure

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from .target import NoiseSource, Release

#: Records that go through the model at once.
_BATCH = 256


@dataclass(slots=True)
class Passage:
    """What a release lets pass by when records go through the model.

    The clean activations of the records that passed last are kept, so that watching them again costs no new pass.

    Attributes:
        release: It exposes activations or gradients.
        module: Gives the model, in evaluation mode.
    """

    release: Release
    module: Callable[[], torch.nn.Module]
    _last: tuple[bytes, NDArray[float64]] | None = field(default=None, repr=False)

    def __call__(self, x: NDArray[float32], y: NDArray[int64] | None, source: NoiseSource) -> NDArray[float64]:
        """Let records pass.

        Args:
            x: `(n, *shape)`.
            y: `(n,)`, their classes; gradients need them.
            source: What the noise is drawn from.

        Returns:
            As `exposed_activations` or `exposed_gradients`.
        """
        if self.release.exposes is Exposure.GRADIENTS:
            if y is None:
                raise ValueError("gradients are those of records with their classes")
            return exposed_gradients(self.module(), self.release, x, y, source)
        return _noised(source, self.release, self._clean(x), x)

    def _clean(self, x: NDArray[float32]) -> NDArray[float64]:
        import numpy as np

        seen = hashlib.sha256(np.ascontiguousarray(x).data).digest()
        if self._last is None or self._last[0] != seen:
            self._last = seen, _clean_activations(self.module(), self.release.layer, x)
        return self._last[1]


def exposed_activations(
    module: torch.nn.Module, release: Release, x: NDArray[float32], source: NoiseSource
) -> NDArray[float64]:
    """The activations of the release's layer, noised.

    Returns:
        `(n, d)`, each record's flattened.
    """
    return _noised(source, release, _clean_activations(module, release.layer, x), x)


def _noised(source: NoiseSource, release: Release, clean: NDArray[float64], x: NDArray[float32]) -> NDArray[float64]:
    """Clean activations with the release's noise; a copy, which nobody can use to reach the clean ones."""
    return source.add(release.noise, clean.copy(), x)


def _clean_activations(module: torch.nn.Module, name: str, x: NDArray[float32]) -> NDArray[float64]:
    import numpy as np
    import torch

    layer, seen, device = find_layer(module, name), list[torch.Tensor](), _device(module)
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output.flatten(1)))
    try:
        with torch.no_grad():
            for start in range(0, len(x), _BATCH):
                module(torch.tensor(x[start : start + _BATCH], dtype=torch.float32, device=device))
    finally:
        hook.remove()
    return np.concatenate([part.double().cpu().numpy() for part in seen]) if seen else np.empty((0, 0))


def noised_logits(
    module: torch.nn.Module, release: Release, x: NDArray[float32], source: NoiseSource
) -> NDArray[float64]:
    """What a split model answers: its upper part on the exposed activations, and on nothing else of the records.

    Args:
        module: The whole model, in evaluation mode.
        release: It exposes activations.
        x: `(n, *shape)`.
        source: What the noise is drawn from.

    Returns:
        `(n, classes)`.

    Raises:
        NotMeasurable: The record reaches the answer around the layer, too, so that no server could do with what passes.
    """
    import numpy as np

    given = exposed_activations(module, release, x, source)
    blank = np.zeros_like(x[:1])
    first, second = (_upper(module, release.layer, record, given[:1]) for record in (blank, blank + 1))
    if not np.array_equal(first, second, equal_nan=True):
        raise NotMeasurable(
            f"the record reaches the answer around the layer {release.layer!r}: nothing can be answered from what is "
            "exposed alone; name a layer through which everything passes (spec.release.layer)"
        )
    starts = range(0, len(x), _BATCH)
    return np.concatenate([_upper(module, release.layer, blank, given[i : i + _BATCH]) for i in starts])


def _upper(module: torch.nn.Module, name: str, record: NDArray[float32], given: NDArray[float64]) -> NDArray[float64]:
    """The answer on a record that says nothing, its layer's output put in place. Args: given `(n, d)`."""
    import numpy as np
    import torch

    def put(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(given, dtype=output.dtype, device=output.device).reshape(output.shape)

    hook = find_layer(module, name).register_forward_hook(put)
    try:
        with torch.no_grad():
            answers = module(torch.tensor(np.repeat(record, len(given), axis=0), device=_device(module)))
    finally:
        hook.remove()
    return np.asarray(answers.double().cpu().numpy())


def exposed_gradients(
    module: torch.nn.Module, release: Release, x: NDArray[float32], y: NDArray[int64], source: NoiseSource
) -> NDArray[float64]:
    """The mean gradient of the cross-entropy of each consecutive batch, clipped record by record and noised.

    Returns:
        `(n // batch, parameters)`, in the order of `module.named_parameters()`, each flattened.
    """
    import numpy as np

    whole = len(x) - len(x) % release.batch
    starts = range(0, whole, release.batch)
    rows = [_batch_gradient(module, release, x[i : i + release.batch], y[i : i + release.batch]) for i in starts]
    clean = np.stack(rows) if rows else np.empty((0, 0))
    return source.add(release.noise, clean, x[: whole : release.batch])


def _batch_gradient(
    module: torch.nn.Module, release: Release, x: NDArray[float32], y: NDArray[int64]
) -> NDArray[float64]:
    import numpy as np

    gradients = [_gradient(module, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    if release.clip is not None:
        gradients = [g * min(1.0, release.clip / max(float(np.linalg.norm(g)), 1e-300)) for g in gradients]
    return np.asarray(np.mean(gradients, axis=0))


def _gradient(module: torch.nn.Module, x: NDArray[float32], y: NDArray[int64]) -> NDArray[float64]:
    """One record's gradient, by copies of the parameters: the model's own stay frozen."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    device = _device(module)
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    record = torch.tensor(x, dtype=torch.float32, device=device)
    with torch.enable_grad():
        logits = torch.func.functional_call(module, parameters, (record,))
        loss = cross_entropy(logits, torch.as_tensor(y, device=device))
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return np.concatenate([part.flatten().double().cpu().numpy() for part in found])


def find_layer(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """The submodule of this name.

    Raises:
        LookupError: There is none; the message names close ones.
    """
    known: dict[str, torch.nn.Module] = dict(module.named_modules())
    if name and name in known:
        return known[name]
    names = [other for other in known if other]
    near = get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:20]) or 'none'}"
    raise LookupError(f"the model has no layer {name!r}; {hint}")


def check_layer(module: torch.nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a layer that does not give one array for each record.

    Args:
        module: The model.
        name: The layer.
        shape: Of one record.

    Raises:
        LookupError: There is none of this name, or it does not run once for each record; the message says what to do.
    """
    import torch

    outputs = list[object]()
    hook = find_layer(module, name).register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad():
            module(torch.zeros((2, *shape), device=_device(module)))
    finally:
        hook.remove()
    if len(outputs) != 1:
        raise LookupError(f"the layer {name!r} runs {len(outputs)} times on a record, expected once")
    (output,) = outputs
    if not isinstance(output, torch.Tensor) or not output.is_floating_point() or output.shape[:1] != (2,):
        raise LookupError(f"the layer {name!r} does not give one array of numbers for each record")


def _device(module: torch.nn.Module) -> torch.device:
    import torch

    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
