"""Augmentation: each record varied each time that it is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .recipe import Augmentation


def vary(
    x: torch.Tensor, how: Augmentation, bounds: tuple[float, float], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Each record varied on its own. Args: x `(n, *shape)`; generator instead of torch's global one."""
    import torch

    if len(x) == 0:
        return x
    if how.shift:
        x = _shifted(x, how.shift, bounds[0], generator)
    if how.flip:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    if how.noise:
        x = (x + how.noise * torch.randn(x.shape, generator=generator)).clamp(*bounds)
    return x


def _shifted(x: torch.Tensor, most: int, fill: float, generator: torch.Generator | None) -> torch.Tensor:
    """Each image moved by up to `most` pixels in each direction. Args: x `(n, channels, height, width)`."""
    import torch

    n, channels, height, width = x.shape
    padded = torch.nn.functional.pad(x, (most, most, most, most), value=fill)
    down, right = torch.randint(0, 2 * most + 1, (2, n, 1), generator=generator)
    rows, columns = torch.arange(height) + down, torch.arange(width) + right
    images, planes = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[images, planes, rows[:, None, :, None], columns[:, None, None, :]]
