"""What passes by an adversary: a layer's activations, or gradients.

The only place where a release's clean activations and gradients exist. Noise and clipping are applied before anything
leaves it, so that no attack can reach what the release keeps back (in a public evaluation of such noise the attack had
been given the clean values, and the noise looked useless).
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from .target import Exposure

if TYPE_CHECKING:
    import torch
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from .target import NoiseSource, Release

#: Records that go through the model at once.
_BATCH = 256


def passing(
    module: torch.nn.Module,
    release: Release,
    x: NDArray[float32],
    y: NDArray[int64] | None,
    source: NoiseSource,
) -> NDArray[float64]:
    """What the release lets pass by when these records go through the model.

    Args:
        module: The model, in evaluation mode.
        release: It exposes activations or gradients.
        x: `(n, *shape)`.
        y: `(n,)`, their classes; gradients need them.
        source: What the noise is drawn from.

    Returns:
        As `exposed_activations` or `exposed_gradients`.
    """
    if release.exposes is Exposure.ACTIVATIONS:
        return exposed_activations(module, release, x, source)
    if y is None:
        raise ValueError("gradients are those of records with their classes")
    return exposed_gradients(module, release, x, y, source)


def exposed_activations(
    module: torch.nn.Module, release: Release, x: NDArray[float32], source: NoiseSource
) -> NDArray[float64]:
    """The activations of the release's layer, noised.

    Returns:
        `(n, d)`, each record's flattened.
    """
    import numpy as np
    import torch

    layer, seen = find_layer(module, release.layer), []
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output.flatten(1)))
    device = _device(module)
    try:
        with torch.no_grad():
            for start in range(0, len(x), _BATCH):
                module(torch.tensor(x[start : start + _BATCH], dtype=torch.float32, device=device))
    finally:
        hook.remove()
    clean = np.concatenate([part.double().cpu().numpy() for part in seen]) if seen else np.empty((0, 0))
    return source.add(release.noise, clean, x)


def noised_logits(
    module: torch.nn.Module, release: Release, x: NDArray[float32], source: NoiseSource
) -> NDArray[float64]:
    """What the model answers where its upper part is given the exposed activations: what a split model is worth.

    Returns:
        `(n, classes)`.
    """
    import numpy as np
    import torch

    def noised(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        clean = output.flatten(1).double().cpu().numpy()
        given = source.add(release.noise, clean, x[start : start + len(clean)])
        return torch.as_tensor(given, dtype=output.dtype, device=output.device).reshape(output.shape)

    hook, answers, start = find_layer(module, release.layer).register_forward_hook(noised), [], 0
    try:
        with torch.no_grad():
            for start in range(0, len(x), _BATCH):
                batch = torch.tensor(x[start : start + _BATCH], dtype=torch.float32, device=_device(module))
                answers.append(module(batch).double().cpu().numpy())
    finally:
        hook.remove()
    return np.concatenate(answers) if answers else np.empty((0, 0))


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


def _device(module: torch.nn.Module) -> torch.device:
    import torch

    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
