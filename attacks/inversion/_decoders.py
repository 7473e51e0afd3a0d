"""Decoders from a model's answer back to the record, each with the error that it makes on records it was not fitted on.

Records are flat and scaled to [0, 1] in here. The closed forms leave out one record at a time, at no extra cost; the
network holds a share of the records out, and on those all decoders are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from ...engine.attack import Progress

Matrix = NDArray[np.float64]

#: Records that the kernel ridge is fitted on at most; its cost grows with their third power.
_KERNEL_RECORDS = 1500
#: Kernel widths (times the number of coordinates that vary) and ridges among which leave-one-out chooses.
_GAMMAS = (0.1, 0.3, 1.0, 3.0)
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
#: Epochs without a better validation error after which the network stops.
_PATIENCE = 8
#: Channels of the "conv" decoder, from its input on.
_CHANNELS = (64, 32, 16)


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers as the decoders read them.

    Attributes:
        features: `(n, d)`, each coordinate standardised on the adversary's own records, 0 where it does not vary there.
        predicted: `(n,)` int64, the class that each answer puts first.
    """

    features: Matrix
    predicted: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> Answers:
        """The answers at these positions."""
        return Answers(self.features[index], self.predicted[index])


@dataclass(frozen=True, slots=True)
class Decoder:
    """A fitted decoder.

    Attributes:
        decode: Answers to flat records, `(n, values)` in [0, 1].
        error: Mean squared error on the held-out records; infinite where it came to nothing.
    """

    decode: Callable[[Answers], Matrix]
    error: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """What decoders are fitted on: the adversary's own records, in an order drawn at random.

    Attributes:
        answers: The model's answers on them.
        records: `(n, values)`, flat, in [0, 1].
        held: How many, from the front, are held out to compare decoders on.
    """

    answers: Answers
    records: Matrix
    held: int


def class_means(lesson: Lesson) -> Decoder:
    """The mean record of the predicted class: all that a label alone can tell."""
    predicted, records = lesson.answers.predicted, lesson.records
    overall = records.mean(axis=0)
    classes, place = np.unique(predicted, return_inverse=True)
    counts = np.bincount(place)[:, None]
    sums = np.zeros((len(classes), records.shape[1]))
    np.add.at(sums, place, records)
    others = (sums[place] - records) / np.maximum(counts[place] - 1, 1)
    left_out = np.where(counts[place] > 1, others, overall)
    means = dict(zip(classes.tolist(), sums / counts, strict=True))

    def decode(answers: Answers) -> Matrix:
        return np.stack([means.get(label, overall) for label in answers.predicted.tolist()])

    return Decoder(decode, _error(left_out[: lesson.held], records[: lesson.held]))


def kernel_ridge(lesson: Lesson) -> Decoder:
    """Kernel ridge regression with a Gaussian kernel; leaving out one record at a time chooses its width and ridge."""
    x, y = lesson.answers.features[:_KERNEL_RECORDS], lesson.records[:_KERNEL_RECORDS]
    mean = y.mean(axis=0)
    varying = max(int((x.std(axis=0) > 0).sum()), 1)
    fits = (fit for gamma in _GAMMAS for fit in _ridges(x, y - mean, mean, gamma / varying))
    best = min(fits, key=lambda fit: _error(fit.left_out, y))

    def decode(answers: Answers) -> Matrix:
        return _unit(_kernel(answers.features, x, best.gamma) @ best.weights + mean)

    return Decoder(decode, _error(best.left_out[: lesson.held], y[: lesson.held]))


@dataclass(frozen=True, slots=True)
class _Ridge:
    """A kernel ridge: its width, its weights `(n, values)`, and each record as predicted from all the others."""

    gamma: float
    weights: Matrix
    left_out: Matrix


def _ridges(x: Matrix, centred: Matrix, mean: Matrix, gamma: float) -> Iterator[_Ridge]:
    """One fit for each ridge r; left out, record i is missed by weights_i / ((K + r)^-1)_ii (Rifkin & Lippert 2007)."""
    from scipy.linalg import eigh

    values, vectors = eigh(_kernel(x, x, gamma))
    projected = vectors.T @ centred
    for ridge in _RIDGES:
        inverse = 1.0 / (np.maximum(values, 0.0) + ridge)
        weights = vectors @ (inverse[:, None] * projected)
        residual = weights / (vectors**2 @ inverse)[:, None]
        yield _Ridge(gamma, weights, _unit(centred - residual + mean))


def _kernel(a: Matrix, b: Matrix, gamma: float) -> Matrix:
    from scipy.spatial.distance import cdist

    return np.asarray(np.exp(-gamma * cdist(a, b, "sqeuclidean")))


def _unit(records: Matrix) -> Matrix:
    return np.clip(records, 0.0, 1.0)


def _error(guess: Matrix, truth: Matrix) -> float:
    return float(((guess - truth) ** 2).mean())


# --- the network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Training:
    """How the network is trained: Adam on the mean squared error, the epoch best on the held-out records kept."""

    epochs: int
    batch: int
    lr: float
    weight_decay: float


def network(lesson: Lesson, net: torch.nn.Module, training: Training, seed: int, progress: Progress) -> Decoder:
    """A neural decoder, stopped once it no longer gets better on the held-out records."""
    import torch

    x, y = _tensor(lesson.answers.features), _tensor(lesson.records)
    held = lesson.held
    adam = torch.optim.Adam(net.parameters(), lr=training.lr, weight_decay=training.weight_decay)
    order = torch.Generator().manual_seed(seed)
    best, best_epoch, kept = math.inf, -1, _state(net)
    for epoch in range(training.epochs):
        shuffled = held + torch.randperm(len(x) - held, generator=order, device="cpu")
        _pass(net, adam, x, y, torch.split(shuffled.to(x.device), training.batch))
        error = _error(_run(net, x[:held]), lesson.records[:held])
        if error < best:
            best, best_epoch, kept = error, epoch, _state(net)
        progress((epoch + 1) / training.epochs)
        if epoch - best_epoch >= _PATIENCE:
            break
    net.load_state_dict(kept)
    return Decoder(lambda answers: _run(net, _tensor(answers.features)), best)


def _pass(
    net: torch.nn.Module, adam: torch.optim.Adam, x: torch.Tensor, y: torch.Tensor, batches: tuple[torch.Tensor, ...]
) -> None:
    """One epoch over these batches of positions."""
    import torch
    from torch.nn.functional import mse_loss

    net.train()
    for index in batches:
        adam.zero_grad()
        torch.autograd.backward(mse_loss(net(x[index]), y[index]))
        adam.step()


def _run(net: torch.nn.Module, x: torch.Tensor) -> Matrix:
    import torch

    net.eval()
    with torch.no_grad():
        return np.concatenate([net(part).cpu().double().numpy() for part in torch.split(x, 1024)])


def _state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def _tensor(values: Matrix) -> torch.Tensor:
    import torch

    return torch.as_tensor(values, dtype=torch.float32, device=torch.get_default_device())


def mlp(inputs: int, hidden: tuple[int, ...], values: int, seed: int) -> torch.nn.Module:
    """A fully connected decoder, `(n, inputs)` to `(n, values)`."""
    from torch import nn

    def build() -> nn.Module:
        widths = (inputs, *hidden)
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(widths)]
        return nn.Sequential(*(part for pair in layers for part in pair), nn.Linear(widths[-1], values), nn.Sigmoid())

    return _seeded(build, seed)


def conv(inputs: int, shape: tuple[int, ...], seed: int) -> torch.nn.Module:
    """A transposed-convolutional decoder to images, `(n, inputs)` to `(n, channels * height * width)`."""
    from torch import nn

    class Crop(nn.Module):
        """Cuts what the doubling of sides added, and flattens."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[..., : shape[1], : shape[2]].flatten(1)

    def build() -> nn.Module:
        first, second, third = _CHANNELS
        height, width = (math.ceil(side / 4) for side in shape[1:])
        return nn.Sequential(
            *(nn.Linear(inputs, first * height * width), nn.ReLU(), nn.Unflatten(1, (first, height, width))),
            *(nn.ConvTranspose2d(first, second, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(second, third, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(third, shape[0], 3, padding=1), nn.Sigmoid(), Crop()),
        )

    return _seeded(build, seed)


def _seeded(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """Draw the first weights from this seed and leave the global generator as it was."""
    import torch

    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = build()
    return net.to(torch.get_default_device())
