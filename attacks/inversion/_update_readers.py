"""What is learnt from changes of a model's answers: labels, their shares, records. Imports torch.

A change is the answers before an update less those after it, flattened. Records are flat and in [0, 1] in here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress

#: Share of the shadow updates on which training is stopped.
_HELD = 0.1
#: Epochs without a better held-out loss after which it stops.
_PATIENCE = 8
_LEAK = 0.01


@dataclass(frozen=True, slots=True)
class Shadow:
    """Updates of the adversary's own.

    Attributes:
        probes: `(p, *shape)`, on which both snapshots are asked.
        changes: `(u, d)`, as `change_of` gives them: the log-probabilities before less those after.
        records: `(u, m, values)`, what each update learnt from, in [0, 1].
        y: `(u, m)`, their classes.
        classes: How many classes there are.
    """

    probes: NDArray[float32]
    changes: NDArray[float64]
    records: NDArray[float32]
    y: NDArray[int64]
    classes: int

    @property
    def size(self) -> int:
        """How many records an update learns from."""
        return int(self.y.shape[1])


@dataclass(frozen=True, slots=True)
class Course:
    """How a reader is trained: Adam, weight decay 1e-5.

    Attributes:
        epochs: Most passes over the shadow updates.
        batch: Updates a step.
        lr: Learning rate.
        seed: Of first weights, dropout and order.
    """

    epochs: int
    batch: int
    lr: float
    seed: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Reads a change as its direction and the logarithm of its length, by what they are over the shadow updates.

    A record that the model is sure of changes its answers little, and in a direction that tells as much as any other's.
    One scale serves all coordinates: each by itself would blow up those that hardly change in the shadow model and do
    in the target.

    Attributes:
        mean: `(d,)`, the mean direction.
        length: Mean of the logarithm of a change's length, and its standard deviation.
    """

    mean: torch.Tensor
    length: tuple[float, float]

    @classmethod
    def of(cls, changes: torch.Tensor) -> Scale:
        """Args: changes `(u, d)`."""
        logs = _log_length(changes)
        return cls(_direction(changes).mean(dim=0), (float(logs.mean()), max(float(logs.std()), 1e-6)))

    def read(self, changes: torch.Tensor) -> torch.Tensor:
        """Args: changes `(u, d)`. Returns: `(u, d + 1)`, float32."""
        logs = (_log_length(changes) - self.length[0]) / self.length[1]
        return torch.cat([_direction(changes) - self.mean, logs[:, None]], dim=1).float()


def _direction(changes: torch.Tensor) -> torch.Tensor:
    """Of length root d, so that a coordinate is about 1; no change has none."""
    found: torch.Tensor = functional.normalize(changes, dim=1, eps=1e-300) * changes.shape[1] ** 0.5
    return found


def _log_length(changes: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.linalg.vector_norm(changes, dim=1).clamp_min(1e-30).log()
    return found


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def kl_divergence(log_q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats, the mean over updates and the sum over classes (not over both, as `KLDivLoss()` does)."""
    return functional.kl_div(log_q, p, reduction="batchmean")


def label_reader(inputs: int, classes: int) -> nn.Sequential:
    """One record's label from a change (SBBFZ20): log-probabilities."""
    return nn.Sequential(
        *(nn.Linear(inputs, 128), nn.LeakyReLU(_LEAK), nn.Dropout(0.2)),
        *(nn.Linear(128, 64), nn.LeakyReLU(_LEAK), nn.Dropout(0.4)),
        *(nn.Linear(64, classes), nn.LogSoftmax(dim=1)),
    )


def share_reader(inputs: int, classes: int) -> nn.Sequential:
    """The share of each class in an update from a change: log-shares."""
    return nn.Sequential(
        *(nn.Linear(inputs, 256), nn.LeakyReLU(_LEAK), nn.Dropout(0.5)),
        *(nn.Linear(256, 128), nn.LeakyReLU(_LEAK), nn.Dropout(0.5)),
        *(nn.Linear(128, classes), nn.LogSoftmax(dim=1)),
    )


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: Loss, course: Course, progress: Progress) -> float:
    """Train a reader, keep the epoch that is best on held-out updates. Returns: its loss there.

    Args:
        net: From `(b, d)` to what the loss takes.
        x: `(u, d)`.
        y: `(u, ...)`.
        loss: Of an answer and its truth.
        course: How.
        progress: Told the share of the epochs that are done.
    """
    held = max(1, round(_HELD * len(x)))
    order = torch.Generator(device="cpu").manual_seed(course.seed)
    adam = torch.optim.Adam(net.parameters(), lr=course.lr, weight_decay=1e-5)
    best, best_epoch, kept = math.inf, -1, _state(net)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(course.seed)  # dropout draws from it
        for epoch in range(course.epochs):
            net.train()
            for index in torch.split(
                (held + torch.randperm(len(x) - held, generator=order)).to(x.device), course.batch
            ):
                adam.zero_grad()
                torch.autograd.backward(loss(net(x[index]), y[index]))
                adam.step()
            net.eval()
            with torch.no_grad():
                error = float(loss(net(x[:held]), y[:held]))
            if error < best:
                best, best_epoch, kept = error, epoch, _state(net)
            progress((epoch + 1) / course.epochs)
            if epoch - best_epoch >= _PATIENCE:
                break
    net.load_state_dict(kept)
    net.eval().requires_grad_(False)
    return best


def _state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


# --- one record ------------------------------------------------------------------------------------------------------


def autoencoder(values: int, code: int) -> tuple[nn.Sequential, nn.Sequential]:
    """An encoder to a code and the decoder from it."""
    encoder = nn.Sequential(nn.Linear(values, 256), nn.ReLU(), nn.Linear(256, code))
    decoder = nn.Sequential(nn.Linear(code, 256), nn.ReLU(), nn.Linear(256, values), nn.Sigmoid())
    return encoder, decoder


def record_reader(inputs: int, code: int) -> nn.Sequential:
    """From a change to the code that the autoencoder's decoder draws."""
    return nn.Sequential(
        *(nn.Linear(inputs, 256), nn.LeakyReLU(_LEAK), nn.Dropout(0.2)),
        *(nn.Linear(256, 128), nn.LeakyReLU(_LEAK), nn.Linear(128, code)),
    )


# --- several records: a conditional GAN that is trained on the best of many ------------------------------------------


class Generator(nn.Module):
    """Draws records from noise and a change (CBM-GAN): `(b, k, noise)` and `(b, d)` to `(b, k, values)`.

    A tenth of the encoder is dropped out and not half of it as in the paper: on thousands of updates instead of tens of
    thousands the rest has to carry what the change tells.
    """

    def __init__(self, inputs: int, values: int, noise: int, code: int, width: int) -> None:
        super().__init__()
        self.noise = noise
        self.encoder = nn.Sequential(
            *(nn.Linear(inputs, 256), nn.LeakyReLU(_LEAK), nn.Linear(256, 128), nn.LeakyReLU(_LEAK)),
            *(nn.Dropout(0.1), nn.Linear(128, code), nn.Tanh()),
        )
        self.body = nn.Sequential(
            *(nn.Linear(noise + code, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)),
            *(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, values), nn.Sigmoid()),
        )

    def forward(self, z: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        code = self.encoder(change)[:, None].expand(-1, z.shape[1], -1)
        drawn: torch.Tensor = self.body(torch.cat([z, code], dim=2))
        return drawn


def acquaint(generator: Generator, x: torch.Tensor, records: torch.Tensor, course: Course, progress: Progress) -> None:
    """Teach a generator's encoder what a change tells at all: the mean record of its update.

    Drawing the best of many hardly moves an encoder that knows nothing, since noise alone explains the records nearly
    as well: trained together from the start, the generator draws what is usual and leaves the change aside.

    Args:
        generator: Its encoder is trained, with its dropout.
        x: `(u, d)`.
        records: `(u, m, values)`.
        course: How.
        progress: Told the share of the work that is done.
    """
    code = next(m.out_features for m in reversed(list(generator.encoder)) if isinstance(m, nn.Linear))
    head = nn.Linear(code, records.shape[2]).to(x.device)
    train(nn.Sequential(generator.encoder, head), x, records.mean(dim=1), functional.mse_loss, course, progress)
    generator.encoder.requires_grad_(True)


def discriminator(values: int) -> nn.Sequential:
    """From a record to the logit of its being real: unbounded, or its sigmoid could not come near 0 or 1."""
    return nn.Sequential(
        *(nn.Linear(values, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 512), nn.LeakyReLU(0.2)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)),
    )


def best_of_many(real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Every real record's squared distance to the nearest that was drawn, per value, averaged (SBBFZ20, eq. 4).

    Args:
        real: `(b, m, values)`.
        drawn: `(b, k, values)`.
    """
    distance: torch.Tensor = torch.cdist(real, drawn).square() / real.shape[2]
    return distance.min(dim=2).values.mean()


@dataclass(frozen=True, slots=True)
class Play:
    """How generator and discriminator are trained: Adam, beta (.5, .999).

    Attributes:
        epochs: Passes over the shadow updates.
        batch: Updates a step.
        lr: Learning rate of both.
        draws: Records that are drawn for each real one; the discriminator sees as many as are real.
        realism: Weight of the discriminator's word beside the best of many.
        seed: Of noise, dropout and order.
    """

    epochs: int
    batch: int
    lr: float
    draws: int
    realism: float
    seed: int


def play(
    generator: Generator, critic: nn.Module, x: torch.Tensor, records: torch.Tensor, how: Play, progress: Progress
) -> None:
    """Train both. Args: x `(u, d)`, records `(u, m, values)`."""
    order = torch.Generator(device="cpu").manual_seed(how.seed)
    noise = torch.Generator(device=x.device).manual_seed(how.seed)
    first, second = (torch.optim.Adam(net.parameters(), lr=how.lr, betas=(0.5, 0.999)) for net in (generator, critic))
    generator.train()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(how.seed)
        for epoch in range(how.epochs):
            for index in torch.split(torch.randperm(len(x), generator=order).to(x.device), how.batch):
                _round(generator, critic, first, second, x[index], records[index], how, noise)
            progress((epoch + 1) / how.epochs)
    generator.eval().requires_grad_(False)


def _round(
    generator: Generator,
    critic: nn.Module,
    first: torch.optim.Optimizer,
    second: torch.optim.Optimizer,
    change: torch.Tensor,
    real: torch.Tensor,
    how: Play,
    noise: torch.Generator,
) -> None:
    """One step of the discriminator and one of the generator."""
    sets, records = real.shape[:2]
    z = torch.randn((sets, how.draws * records, generator.noise), generator=noise, device=real.device)
    drawn = generator(z, change)
    shown = drawn[:, :records]
    said = [critic(part.flatten(0, 1)) for part in (real, shown.detach())]
    judged = sum(
        functional.binary_cross_entropy_with_logits(answer, torch.full_like(answer, truth))
        for answer, truth in zip(said, (1.0, 0.0), strict=True)
    )
    _step(second, judged)  # type: ignore[arg-type]
    fooled = critic(shown.flatten(0, 1))
    wish = functional.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled))
    _step(first, best_of_many(real, drawn) + how.realism * wish)


def _step(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    torch.autograd.backward(loss, inputs=[p for group in optimiser.param_groups for p in group["params"]])
    optimiser.step()
