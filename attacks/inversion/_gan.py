"""Generative adversarial networks on the adversary's own records, small enough for a CPU.

Imports torch. Two hidden layers on both sides learn what small images look like in a minute or two on a CPU; images may
have transposed convolutions instead, which double the sides of a small image until it is large enough, and a strided
convolutional critic: better in the end, at many times the cost. Records are in [0, 1] in here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...engine.errors import AttackError
from ._priors import Decoded, scaled
from ._white_box import Place, is_image

if TYPE_CHECKING:
    from ...engine.attack import Progress
    from ...engine.target import Records

#: A generator's first image has no side above this.
_SEED_SIDE = 8
#: Most units of a hidden layer, and most weights between the last one and the record: half a million parameters in all.
_HIDDEN, _WEIGHTS = 256, 400_000
#: Fewest units of a hidden layer, however large the record.
_FEWEST_UNITS = 16
_LEAK = 0.2
#: Share of the averaged generator that each step keeps at most.
_KEPT = 0.99

#: What both sides are made of.
Network = Literal["dense", "convolutional"]


@dataclass(frozen=True, slots=True)
class GanSettings:
    """How a WGAN-GP is built and trained: by Adam, beta (.5, .999).

    Attributes:
        network: What both sides are made of; records that are not images are always `dense`.
        size: Coordinates of z.
        radius: Each of them is kept in [-radius, radius] by the search.
        width: Channels of the smallest image; each doubling of the sides halves them.
        iterations: Steps of the generator.
        critic_steps: Steps of the critic before each of them.
        penalty: Weight of the gradient penalty.
        batch: Records a step.
        learning_rate: Of Adam.
    """

    network: Network = "dense"
    size: int = 64
    radius: float = 1.0
    width: int = 64
    iterations: int = 600
    critic_steps: int = 5
    penalty: float = 10.0
    batch: int = 64
    learning_rate: float = 5e-4


@dataclass(frozen=True, slots=True)
class Gan:
    """A trained generator and the critic that it was trained against.

    Attributes:
        prior: The generator's records.
        critic: From records in [0, 1], `(n, *shape)`, to `(n, 1)`: higher is more like a real one.
    """

    prior: Decoded
    critic: nn.Module

    def realism(self, x: torch.Tensor) -> torch.Tensor:
        """What the critic says of records within the bounds. Args: x `(n, *shape)`. Returns: `(n,)`."""
        low, high = self.prior.bounds
        said: torch.Tensor = self.critic((x - low) / (high - low))
        return said[:, 0]


def fit_gan(
    auxiliary: Records | None,
    bounds: tuple[float, float],
    settings: GanSettings,
    seed: int,
    place: Place,
    progress: Progress = lambda share: None,
) -> Gan:
    """A Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv 1704.00028, algorithm 1).

    The last one is kept: it depends on nothing of the model under attack, and every control is attacked with the same.

    Args:
        auxiliary: The adversary's records.
        bounds: Smallest and largest value of a record.
        settings: Sizes and training.
        seed: Of the first weights, batches and noise.
        place: Where z lives.
        progress: Told the share of the training that is done.

    Raises:
        AttackError: Too few records, or training did not end in finite numbers.
    """
    x = scaled(auxiliary, bounds, place)
    key = (hashlib.sha256(x.cpu().numpy().tobytes()).digest(), tuple(x.shape), bounds, settings, seed, place)
    if key not in _last:
        found = _fitted(x, bounds, settings, seed, place, progress)
        _last.clear()
        _last[key] = found
    progress(1.0)
    return _last[key]


#: The GAN that was trained last, by everything that decides it. Its networks are frozen.
_last: dict[object, Gan] = {}


def _fitted(
    x: torch.Tensor,
    bounds: tuple[float, float],
    settings: GanSettings,
    seed: int,
    place: Place,
    progress: Progress,
) -> Gan:
    generator, shape = place.generator(seed), tuple(x.shape[1:])
    width = settings.width if settings.network == "convolutional" and is_image(shape) else None
    maker = place.build(lambda: generator_network(settings.size, shape, width), seed)
    critic = place.build(
        lambda: nn.Sequential(body := critic_body(shape, width), linear_after(body, shape, 1)), seed + 1
    )
    with torch.enable_grad():
        _play(maker, critic, x, settings, generator, progress)
    _finite(maker, critic)
    for network in (maker, critic):
        network.to(place.dtype).eval().requires_grad_(False)
    return Gan(Decoded(settings.size, bounds, shape, place, maker, settings.radius), critic)


def _play(
    maker: nn.Module,
    critic: nn.Module,
    x: torch.Tensor,
    settings: GanSettings,
    generator: torch.Generator,
    progress: Progress,
) -> None:
    """Train both against each other; the generator that is kept is the average of the late ones."""
    first, second = (adam(network, settings.learning_rate) for network in (maker, critic))
    batches, smooth = batches_of(x, settings.batch, generator), averaged(maker, settings.iterations)
    for iteration in range(settings.iterations):
        for _ in range(settings.critic_steps):
            real = next(batches)
            with torch.no_grad():
                fake = maker(_noise(len(real), settings.size, x, generator))
            made, true = critic(torch.cat([fake, real])).chunk(2)
            step(second, made.mean() - true.mean() + settings.penalty * _penalty(critic, real, fake, generator))
        fake = maker(_noise(settings.batch, settings.size, x, generator))
        step(first, -critic(fake).mean())
        smooth.update_parameters(maker)
        progress((iteration + 1) / settings.iterations)
    maker.load_state_dict(smooth.module.state_dict())


def _penalty(critic: nn.Module, real: torch.Tensor, fake: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """How far the critic's gradient between real and made records is from length 1. Returns: scalar."""
    share = torch.rand((len(real), *(1 for _ in real.shape[1:])), generator=generator, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    distance: torch.Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return distance


def adam(network: nn.Module, learning_rate: float, first: float = 0.5, second: float = 0.999) -> torch.optim.Adam:
    """Adam with the decay rates that GANs are trained with."""
    return torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(first, second), fused=True)


def averaged(network: nn.Module, iterations: int) -> AveragedModel:
    """A running average of a network's weights over the last tenth of its training, or a hundred steps.

    It makes less noise than the last network alone (Yazici et al., arXiv 1806.04498).
    """
    kept = max(0.0, min(_KEPT, 1 - 10 / iterations))
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(kept), use_buffers=True)  # type: ignore[no-untyped-call]


def step(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Descend once; gradients that other losses left behind do not count."""
    optimiser.zero_grad()
    torch.autograd.backward(loss, inputs=[p for group in optimiser.param_groups for p in group["params"]])
    optimiser.step()


def batches_of(x: torch.Tensor, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Records for ever, in a new order each time round."""
    for index in positions(len(x), batch, generator):
        yield x[index]


def positions(n: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Positions of n records for ever, in a new order each time round; `(batch,)`, or n where there are fewer."""
    while True:
        order = torch.randperm(n, generator=generator, device=generator.device)
        for start in range(0, n - n % min(batch, n), min(batch, n)):
            yield order[start : start + min(batch, n)]


def _noise(n: int, size: int, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn((n, size), generator=generator, device=x.device)


def _finite(*networks: nn.Module) -> None:
    if not all(bool(torch.isfinite(p).all()) for network in networks for p in network.parameters()):
        raise AttackError("the generator's training did not end in finite numbers: lower its learning rate")


# --- networks --------------------------------------------------------------------------------------------------------


def generator_network(inputs: int, shape: tuple[int, ...], width: int | None) -> nn.Module:
    """From `(n, inputs)` to records, `(n, *shape)` in [0, 1].

    Args:
        inputs: Coordinates of z.
        shape: Of one record.
        width: Channels of the smallest image; `None` for a network without convolutions.
    """
    if width is None:
        hidden = units(shape)
        layers = [part for a in (inputs, hidden) for part in (nn.Linear(a, hidden), nn.BatchNorm1d(hidden), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(hidden, math.prod(shape)), nn.Sigmoid(), nn.Unflatten(1, shape))
    doublings = _doublings(shape)
    height, across = (math.ceil(side / 2**doublings) for side in shape[1:])
    channels = [max(1, width >> done) for done in range(doublings)] + [shape[0]]
    parts: list[nn.Module] = [nn.Linear(inputs, width * height * across), nn.Unflatten(1, (width, height, across))]
    for a, b in pairwise(channels):
        parts += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1)]
    return nn.Sequential(*parts, nn.Sigmoid(), _Crop(shape))


def critic_body(shape: tuple[int, ...], width: int | None) -> nn.Sequential:
    """From records in [0, 1] to flat features, the generator's mirror without normalisation."""
    if width is None:
        sizes = (math.prod(shape), units(shape), units(shape))
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU(_LEAK))]
        return nn.Sequential(nn.Flatten(), *layers)
    channels = [shape[0], *(max(1, width >> left) for left in reversed(range(_doublings(shape))))]
    parts = [part for a, b in pairwise(channels) for part in (nn.Conv2d(a, b, 4, 2, 2), nn.LeakyReLU(_LEAK))]
    return nn.Sequential(*parts, nn.Flatten())


def linear_after(body: nn.Module, shape: tuple[int, ...], outputs: int) -> nn.Linear:
    """A linear layer that fits behind a network over records of this shape."""
    with torch.no_grad():
        return nn.Linear(body(torch.zeros(1, *shape)).shape[1], outputs)


def units(shape: tuple[int, ...]) -> int:
    """Units of a hidden layer before or behind records of this shape."""
    return max(_FEWEST_UNITS, min(_HIDDEN, _WEIGHTS // math.prod(shape)))


def _doublings(shape: tuple[int, ...]) -> int:
    return max(1, math.ceil(math.log2(max(shape[1:]) / _SEED_SIDE)))


class _Crop(nn.Module):
    """Cuts off what the doubling of sides added."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., : self.shape[1], : self.shape[2]]
