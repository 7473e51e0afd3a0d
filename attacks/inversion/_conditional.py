"""A generator that is told the class, trained on the adversary's records under the labels that the model gives them.

Imports torch. Yuan et al. 2023, arXiv 2302.09814 (PLG-MI): pseudo-labels, a spectrally normalised critic that is told
the class as well, the hinge loss, and the model's word on what is generated. Records are in [0, 1] in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ...engine.errors import AttackError
from ._gan import Network, adam, averaged, critic_body, generator_network, linear_after, step
from ._priors import RADIUS, scaled
from ._white_box import ROWS, Place, is_image

if TYPE_CHECKING:
    from numpy import int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records

#: For records within the bounds `(n, *shape)` and labels `(n,)`: what the model lacks to see the class, `(n,)`.
Lack = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ConditionalSettings:
    """How the conditional GAN is built and trained: by Adam, beta (0, .9).

    Attributes:
        network: What both sides are made of; records that are not images are always `dense`.
        size: Coordinates of z, and of what stands for the class beside it.
        width: Channels of the smallest image.
        iterations: Steps of the generator.
        critic_steps: Steps of the critic before each of them.
        batch: Records a step.
        learning_rate: Of Adam.
        inversion: Weight of the model's word on what is generated.
    """

    network: Network
    size: int
    width: int
    iterations: int
    critic_steps: int
    batch: int
    learning_rate: float
    inversion: float


@dataclass(frozen=True, slots=True)
class ConditionalPrior:
    """What the generator makes of z, once it is told the class; a prior for each class.

    Attributes:
        size: How many coordinates z has.
        bounds: Smallest and largest value of a record.
        place: Where z and records live.
        maker: From z `(n, size)` and labels `(n,)` to records in [0, 1], `(n, *shape)`.
        radius: Each coordinate of z is kept in [-radius, radius].
    """

    size: int
    bounds: tuple[float, float]
    place: Place
    maker: nn.Module
    radius: float = RADIUS

    def decode(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The records, within the bounds, differentiable. Returns: `(n, *shape)`."""
        return self.stretched(self.maker(z, labels))

    def stretched(self, made: torch.Tensor) -> torch.Tensor:
        """From [0, 1] to the bounds. Args: made `(n, *shape)`."""
        low, high = self.bounds
        return low + (high - low) * made

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw z. Returns: `(n, size)`, no coordinate beyond the radius."""
        z = torch.randn((n, self.size), generator=generator, device=self.place.device, dtype=torch.float32)
        return z.to(self.place.dtype).clamp(-self.radius, self.radius)


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """Which of the adversary's records stand for each class, by the model's own word.

    Attributes:
        classes: `(k,)`, the classes.
        chosen: `(k, top)`, positions of the records that the model finds likeliest for each.
    """

    classes: torch.Tensor
    chosen: torch.Tensor

    @classmethod
    def of(cls, probabilities: torch.Tensor, classes: NDArray[int64], top: int) -> PseudoLabels:
        """The `top` likeliest records for each class; one record may stand for several.

        Args:
            probabilities: `(n, classes)`, the model's on the adversary's records.
            classes: `(k,)`.
            top: How many, or all where there are fewer.
        """
        kinds = torch.as_tensor(classes, device=probabilities.device)
        chosen = probabilities[:, kinds].topk(min(top, len(probabilities)), dim=0).indices
        return cls(kinds, chosen.T)

    def batches(self, batch: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For ever: positions of records and the labels that they stand for, `(batch,)` each."""
        rows, top = self.chosen.shape
        while True:
            row = torch.randint(rows, (batch,), generator=generator, device=generator.device)
            column = torch.randint(top, (batch,), generator=generator, device=generator.device)
            yield self.chosen[row, column], self.classes[row]


def probabilities_of(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The model's probabilities, batch after batch. Args: x `(n, *shape)`. Returns: `(n, classes)`."""
    with torch.no_grad():
        return torch.cat([module(x[i : i + ROWS]).softmax(dim=1) for i in range(0, len(x), ROWS)])


def fit_conditional(
    auxiliary: Records | None,
    bounds: tuple[float, float],
    pseudo: PseudoLabels,
    known: int,
    lack: Lack,
    settings: ConditionalSettings,
    seed: int,
    place: Place,
    progress: Progress,
) -> ConditionalPrior:
    """Train generator and critic on the pseudo-labelled records.

    Args:
        auxiliary: The adversary's records.
        bounds: Smallest and largest value of a record.
        pseudo: Which of them stand for which class.
        known: How many classes the model tells apart.
        lack: What the model lacks to see its class in a record.
        settings: Sizes and training.
        seed: Of the first weights, batches and noise.
        place: Where z lives.
        progress: Told the share of the training that is done.

    Raises:
        AttackError: Too few records, or training did not end in finite numbers.
    """
    x = scaled(auxiliary, bounds, place)
    shape = tuple(x.shape[1:])
    width = settings.width if settings.network == "convolutional" and is_image(shape) else None
    maker = place.build(lambda: _Maker(known, settings.size, shape, width), seed)
    critic = place.build(lambda: _Judge(known, shape, width), seed + 1)
    prior = ConditionalPrior(settings.size, bounds, Place(place.device, torch.float32), maker)
    with torch.enable_grad():
        _play(prior, critic, x, pseudo, lack, settings, place.generator(seed), progress)
    if not all(bool(torch.isfinite(p).all()) for p in maker.parameters()):
        raise AttackError("the generator's training did not end in finite numbers: lower its learning rate")
    maker.to(place.dtype).eval().requires_grad_(False)
    return ConditionalPrior(settings.size, bounds, place, maker)


def _play(
    prior: ConditionalPrior,
    critic: nn.Module,
    x: torch.Tensor,
    pseudo: PseudoLabels,
    lack: Lack,
    settings: ConditionalSettings,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """Train both against each other by the hinge loss; the model has its word on what is generated."""
    first, second = (adam(network, settings.learning_rate, 0.0, 0.9) for network in (prior.maker, critic))
    batches, smooth = pseudo.batches(settings.batch, generator), averaged(prior.maker, settings.iterations)
    for iteration in range(settings.iterations):
        for _ in range(settings.critic_steps):
            index, labels = next(batches)
            with torch.no_grad():
                fake = prior.maker(prior.sample(len(labels), generator), labels)
            step(second, (1 - critic(x[index], labels)).relu().mean() + (1 + critic(fake, labels)).relu().mean())
        _, labels = next(batches)
        z = prior.sample(len(labels), generator)
        made = prior.maker(z, labels)
        missed = lack(prior.stretched(made), labels).float().mean()
        step(first, settings.inversion * missed - critic(made, labels).mean())
        smooth.update_parameters(prior.maker)
        progress((iteration + 1) / settings.iterations)
    prior.maker.load_state_dict(smooth.module.state_dict())


class _Maker(nn.Module):
    """From z `(n, size)` and labels `(n,)` to records in [0, 1], `(n, *shape)`."""

    def __init__(self, classes: int, size: int, shape: tuple[int, ...], width: int | None) -> None:
        super().__init__()
        self.told = nn.Embedding(classes, size)
        self.network = generator_network(2 * size, shape, width)

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.network(torch.cat([z, self.told(labels)], dim=1))
        return made


class _Judge(nn.Module):
    """How real records `(n, *shape)` look as their class: a projection critic (Miyato & Koyama, arXiv 1802.05637)."""

    def __init__(self, classes: int, shape: tuple[int, ...], width: int | None) -> None:
        super().__init__()
        body = critic_body(shape, width)
        last = linear_after(body, shape, 1)
        self.told = spectral_norm(nn.Embedding(classes, last.in_features))
        self.last = spectral_norm(last)
        for part in body:
            if isinstance(part, nn.Linear | nn.Conv2d):
                spectral_norm(part)
        self.body = body

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen = self.body(x)
        said: torch.Tensor = self.last(seen)[:, 0] + (self.told(labels) * seen).sum(dim=1)
        return said
