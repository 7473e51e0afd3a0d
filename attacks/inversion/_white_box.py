"""What the white-box inversions share: where the model lives, batches, views of an image and its roughness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ...engine.errors import AttackError

if TYPE_CHECKING:
    import torch
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress

#: Records that are optimised at once: bounds the memory that a deep model's activations take.
ROWS = 128


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model's numbers live and of which type they are."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, module: torch.nn.Module) -> Place:
        """The place of the model's first floating-point parameter; the CPU and float32 where it has none."""
        import torch

        for parameter in module.parameters():
            if parameter.is_floating_point():
                return cls(parameter.device, parameter.dtype)
        return cls(torch.device("cpu"), torch.float32)

    def generator(self, seed: int) -> torch.Generator:
        """A source of random numbers of its own."""
        import torch

        return torch.Generator(device=self.device).manual_seed(seed)

    def build(self, make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
        """A network of the adversary's own, its first weights drawn from this seed; float32, at this place."""
        import torch

        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = make()
        return module.to(self.device, torch.float32)

    def batches(self, labels: NDArray[int64]) -> Iterator[torch.Tensor]:
        """The labels in batches of at most `ROWS`."""
        import torch

        for start in range(0, len(labels), ROWS):
            yield torch.as_tensor(labels[start : start + ROWS], dtype=torch.int64, device=self.device)


def to_records(parts: list[torch.Tensor], shape: tuple[int, ...]) -> NDArray[float32]:
    """The batches as records again. Returns: `(n, *shape)`."""
    import torch

    joined = torch.cat(parts) if parts else torch.empty(0, *shape)
    return joined.detach().to("cpu", torch.float32).numpy()


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether records are `(channels, height, width)`, with neighbours to compare."""
    return len(shape) == 3 and min(shape[1:]) > 1


@dataclass(frozen=True, slots=True)
class Views:
    """Random shifts, scales and flips of images; anything that is not an image stays as it is.

    Attributes:
        shift: Furthest shift, as a share of the side.
        scale: Largest change of size, as a share of the side.
        flip: Whether half of the views are mirrored.
    """

    shift: float
    scale: float
    flip: bool

    def draw(self, n: int, place: Place, generator: torch.Generator) -> torch.Tensor:
        """Draw views. Returns: `(n, 2, 3)`, the affine maps from the view's coordinates in [-1, 1] to the image's."""
        import torch

        # Uniform in (-1, 1): size, shift across, shift down, mirror.
        u = 2 * torch.rand((n, 4), generator=generator, device=place.device, dtype=place.dtype) - 1
        size = 1 + self.scale * u[:, 0]
        maps = torch.zeros((n, 2, 3), device=place.device, dtype=place.dtype)
        maps[:, 0, 0] = torch.where((u[:, 3] < 0) & self.flip, -size, size)
        maps[:, 1, 1] = size
        maps[:, :, 2] = 2 * self.shift * u[:, 1:3]
        return maps

    def apply(self, x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Look at each record through its own map. Args: x `(n, *shape)`, maps `(n, 2, 3)`. Returns: `(n, *shape)`."""
        from torch.nn.functional import grid_sample

        if not is_image(tuple(x.shape[1:])) or not (self.shift or self.scale or self.flip):
            return x
        return grid_sample(x, _grid(maps, x.shape[2], x.shape[3]), padding_mode="border", align_corners=False)


def _grid(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What `affine_grid` gives for the centres of pixels, in a tenth of its time. Returns: `(n, height, width, 2)`."""
    import torch

    across, down = (
        (2 * torch.arange(side, device=maps.device, dtype=maps.dtype) + 1) / side - 1 for side in (width, height)
    )
    rows = maps[:, :, None, None, :]
    places = rows[..., 0] * across + rows[..., 1] * down[:, None] + rows[..., 2]
    return places.movedim(1, -1)


def total_variation(x: torch.Tensor) -> torch.Tensor:
    """Sum of the absolute differences of neighbours; its gradient per value lies in [-4, 4] whatever the size.

    Args:
        x: `(n, *shape)`.

    Returns:
        `(n,)`; 0 for records that are not images.
    """
    if not is_image(tuple(x.shape[1:])):
        return x.new_zeros(len(x))
    return x.diff(dim=2).abs().sum(dim=(1, 2, 3)) + x.diff(dim=3).abs().sum(dim=(1, 2, 3))


def gradient_at(x: torch.Tensor, objective: Callable[[torch.Tensor], torch.Tensor]) -> Slope:
    """Evaluate an objective that treats its rows apart, and its gradient; no parameter's gradient is touched.

    Args:
        x: `(n, *shape)`.
        objective: From `(n, *shape)` to `(n,)`. One that does not depend on its argument has gradient 0.

    Raises:
        AttackError: The objective is not finite.
    """
    import torch

    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = objective(leaf)
        if not bool(torch.isfinite(value).all()):
            raise AttackError("the model's answer to a reconstruction is not finite: check its weights")
        if not value.requires_grad:
            return Slope(value, torch.zeros_like(x))
        (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True, materialize_grads=True)
    return Slope(value.detach(), gradient)


@dataclass(frozen=True, slots=True)
class Slope:
    """An objective's values `(n,)` and their gradients `(n, *shape)`."""

    value: torch.Tensor
    gradient: torch.Tensor


def lead_of_another(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Max-margin loss (Yuan et al. 2023, arXiv 2302.09814): the largest other logit minus the label's own.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)`.

    Returns:
        `(n,)`.
    """
    import torch

    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own


def confidence(
    module: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, views: Views, seen: torch.Tensor
) -> torch.Tensor:
    """The model's mean probability of the label over views, the same for every row (Struppek et al. 2022).

    Args:
        module: The model under attack.
        x: `(n, *shape)`.
        labels: `(n,)`.
        views: How a record is looked at.
        seen: `(t, 2, 3)`, the views.

    Returns:
        `(n,)` float64.
    """
    import torch

    total = torch.zeros(len(x), device=x.device, dtype=torch.float64)
    with torch.no_grad():
        for view in seen:
            logits = module(views.apply(x, view.expand(len(x), 2, 3)))
            total += logits.double().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return total / len(seen)


def best_restarts(
    classes: NDArray[int64],
    restarts: int,
    place: Place,
    shape: tuple[int, ...],
    attempt: Callable[[torch.Tensor, Progress], torch.Tensor],
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    progress: Progress,
) -> NDArray[float32]:
    """Of each class, the restart that scores highest, whatever the sign of the scores.

    Args:
        classes: `(k,)`.
        restarts: Attempts for each class.
        place: Of the labels.
        shape: Of one record.
        attempt: For labels `(n,)` and its own progress: a record for each of them, `(n, *shape)`.
        score: For records and labels: `(n,)`.
        progress: Told the share of all attempts that is done.

    Returns:
        `(k, *shape)`.
    """
    import numpy as np
    import torch

    images: list[torch.Tensor] = []
    scores: list[torch.Tensor] = []
    rows = len(classes) * restarts
    for labels in place.batches(np.repeat(classes, restarts)):
        done = sum(len(part) for part in images)
        images.append(attempt(labels, partial(tell, progress, done / rows, len(labels) / rows)))
        scores.append(score(images[-1], labels))
    records = to_records(images, shape).reshape(len(classes), restarts, *shape)
    best = torch.cat(scores).reshape(len(classes), restarts).argmax(dim=1).cpu().numpy()
    progress(1.0)
    return np.asarray(records[np.arange(len(classes)), best])


def tell(progress: Progress, done: float, part: float, share: float) -> None:
    """Tell the share of the whole from the share of a part."""
    progress(min(1.0, done + part * share))
