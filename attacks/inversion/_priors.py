"""Priors over records, fitted on those that the adversary owns: a reconstruction is looked for among what they allow.

Imports torch. Every prior maps a standard normal z to a record, so that one search serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from ...engine.errors import AttackError
from ._white_box import Place

if TYPE_CHECKING:
    from ...engine.attack import Progress
    from ...engine.target import Records

#: Fewer records than these say hardly anything of what records look like.
FEWEST = 10
#: How far z may go from 0 in every coordinate: beyond lie 3 records in 1,000.
RADIUS = 3.0
#: A direction in which records vary by less than this share of the widest is rounding.
_ROUNDING = 1e-6
#: Squared error of rounding to one of 256 shades: no decoder is trusted to be better.
_EIGHT_BITS = 1 / 12 / 255**2


class Prior(Protocol):
    """What records look like, as a map from a standard normal z.

    Attributes:
        size: How many coordinates z has.
        radius: Each of them is kept in [-radius, radius].
    """

    @property
    def size(self) -> int: ...

    @property
    def radius(self) -> float: ...

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The records, within the bounds, differentiable. Args: z `(n, size)`. Returns: `(n, *shape)`."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw z. Returns: `(n, size)`, no coordinate beyond the radius."""
        ...


@dataclass(frozen=True, slots=True)
class Decoded:
    """A prior whose records a network or a matrix decodes.

    Attributes:
        size: How many coordinates z has.
        bounds: Smallest and largest value of a record; what the decoder says beyond is cut off.
        shape: Of one record.
        place: Where z and records live.
        decoder: From `(n, size)` to `(n, values)`, values of [0, 1] as shares of the bounds.
        radius: Each coordinate of z is kept in [-radius, radius].
    """

    size: int
    bounds: tuple[float, float]
    shape: tuple[int, ...]
    place: Place
    decoder: Callable[[torch.Tensor], torch.Tensor]
    radius: float = RADIUS

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The records, within the bounds, differentiable. Args: z `(n, size)`. Returns: `(n, *shape)`."""
        low, high = self.bounds
        return low + (high - low) * self.decoder(z).clamp(0.0, 1.0).reshape(len(z), *self.shape)

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw z. Returns: `(n, size)`, no coordinate beyond the radius."""
        z = torch.randn((n, self.size), generator=generator, device=self.place.device, dtype=torch.float32)
        return z.to(self.place.dtype).clamp(-self.radius, self.radius)


def owned(auxiliary: Records | None, place: Place) -> torch.Tensor:
    """The adversary's records as the model reads them. Returns: `(n, *shape)`.

    Raises:
        AttackError: There are none, or too few to learn from.
    """
    found = 0 if auxiliary is None else len(auxiliary)
    if auxiliary is None or found < FEWEST:
        raise AttackError(f"expected at least {FEWEST} auxiliary records to learn a prior from, found {found}")
    return torch.as_tensor(auxiliary.x, dtype=place.dtype, device=place.device)


def scaled(auxiliary: Records | None, bounds: tuple[float, float], place: Place) -> torch.Tensor:
    """The adversary's records as shares of the bounds. Returns: `(n, *shape)` float32, in [0, 1].

    Raises:
        AttackError: There are none, or too few to learn from.
    """
    low, high = bounds
    return ((owned(auxiliary, place).float() - low) / (high - low)).clamp(0.0, 1.0)


# --- principal components --------------------------------------------------------------------------------------------


def fit_pca(
    auxiliary: Records | None, bounds: tuple[float, float], components: int, seed: int, place: Place
) -> Decoded:
    """Eigen-images, whitened: the mean record and the directions in which records differ most.

    Args:
        auxiliary: The adversary's records.
        bounds: Smallest and largest value of a record.
        components: Directions at most; there are no more than records or values.
        seed: Of the randomised decomposition.
        place: Where z lives.

    Raises:
        AttackError: Too few records, or they do not differ.
    """
    from sklearn.decomposition import PCA

    x = scaled(auxiliary, bounds, place)
    flat = x.flatten(1).cpu().double().numpy()
    if not (flat.std(axis=0) > _ROUNDING).any():
        raise AttackError("the auxiliary records do not differ from each other, so they say nothing of other records")
    most = min(components, len(flat) - 1, flat.shape[1])
    pca = PCA(most, svd_solver="randomized", random_state=seed % 2**32).fit(flat)
    spread = pca.explained_variance_**0.5
    kept = spread > _ROUNDING * spread.max()
    rows = pca.components_[kept] * spread[kept, None]
    centre, span = (torch.as_tensor(part, dtype=place.dtype, device=place.device) for part in (pca.mean_, rows))
    return Decoded(len(rows), bounds, tuple(x.shape[1:]), place, lambda z: centre + z @ span)


# --- a variational autoencoder ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VAESettings:
    """How the autoencoder is built and trained: by Adam.

    Attributes:
        size: Coordinates of z.
        width: Of the hidden layer on both sides.
        steps: Training steps.
        batch: Records a step.
        learning_rate: Of Adam.
    """

    size: int = 32
    width: int = 128
    steps: int = 400
    batch: int = 64
    learning_rate: float = 1e-3


def fit_vae(
    auxiliary: Records | None,
    bounds: tuple[float, float],
    settings: VAESettings,
    seed: int,
    place: Place,
    progress: Progress = lambda share: None,
) -> Decoded:
    """A small variational autoencoder (Kingma & Welling, arXiv 1312.6114), whose decoder is the prior.

    The noise of the decoder is the optimal one at every step, so that nothing weighs the two terms (Rybkin et al.,
    arXiv 2006.13202, eq. 9).

    Args:
        auxiliary: The adversary's records.
        bounds: Smallest and largest value of a record.
        settings: Sizes and training.
        seed: Of the first weights, batches and noise.
        place: Where z lives.
        progress: Told the share of the steps that are done.

    Raises:
        AttackError: Too few records, or training did not end in finite numbers.
    """
    x = scaled(auxiliary, bounds, place)
    flat = x.flatten(1)
    values, size, width = flat.shape[1], settings.size, settings.width
    encoder = place.build(lambda: _perceptron(values, width, 2 * size), seed)
    decoder = place.build(lambda: nn.Sequential(*_perceptron(size, width, values), nn.Sigmoid()), seed + 1)
    _train(encoder, decoder, flat, settings, place.generator(seed), progress)
    decoder.to(place.dtype).requires_grad_(False)
    return Decoded(size, bounds, tuple(x.shape[1:]), place, decoder)


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def _train(
    encoder: nn.Module,
    decoder: nn.Module,
    x: torch.Tensor,
    settings: VAESettings,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """Adam on the evidence bound."""
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.learning_rate)
    with torch.enable_grad():
        for step in range(settings.steps):
            batch = x[torch.randint(len(x), (settings.batch,), generator=generator, device=x.device)]
            adam.zero_grad()
            loss = _bound(encoder, decoder, batch, generator)
            torch.autograd.backward(loss)
            adam.step()
            progress((step + 1) / settings.steps)
    if not bool(torch.isfinite(loss)):
        raise AttackError("the autoencoder's training did not end in finite numbers: lower its learning rate")


def _bound(encoder: nn.Module, decoder: nn.Module, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Negative evidence bound per value, up to a constant. Args: x `(n, values)`. Returns: scalar."""
    mean, log_variance = encoder(x).chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=generator, device=x.device)
    missed = (decoder(mean + noise * (0.5 * log_variance).exp()) - x).square().mean()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
    bound: torch.Tensor = 0.5 * (missed + _EIGHT_BITS).log() + divergence / x.shape[1]
    return bound
