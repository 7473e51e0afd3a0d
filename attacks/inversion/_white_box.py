"""What the white-box inversions share: where the model lives, batches, views of an image and its roughness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...engine.errors import AttackError

if TYPE_CHECKING:
    import torch
    from numpy import float32, int64
    from numpy.typing import NDArray

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
        from torch.nn.functional import affine_grid, grid_sample

        if not is_image(tuple(x.shape[1:])) or not (self.shift or self.scale or self.flip):
            return x
        grid = affine_grid(maps, list(x.shape), align_corners=False)
        return grid_sample(x, grid, padding_mode="border", align_corners=False)


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
