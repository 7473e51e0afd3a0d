"""Training: from a recipe to a model, what happened to its records, and how it went."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .defenses import Mechanism, Setting
from .errors import InputError, MidguardError
from .folder import MODEL, check_folder, replaced, write_training
from .ledger import Event, NonPrivate
from .recipe import Augmentation, OptimizerChoice, Recipe, load_recipe
from .splits import deal
from .target import Records

if TYPE_CHECKING:
    import torch

#: Records that are nobody's, on which a defense probes the module.
_PROBES = 6
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Epoch:
    """How one epoch went.

    Attributes:
        number: Counted from 1.
        loss: Mean cross-entropy over the records it saw; NaN where it saw none.
        accuracy: Share of them that was classified right while training; likewise.
        epsilon: Upper bound on the privacy loss so far, at the defense's δ; `None` without a defense.
    """

    number: int
    loss: float
    accuracy: float
    epsilon: float | None


#: Called after each epoch with the epoch and the total number of epochs.
EpochProgress = Callable[[Epoch, int], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives.

    Attributes:
        module: In evaluation mode, parameters frozen, without any wrapper.
        events: What happened to the records.
        epochs: How it went, computed on the training records without noise: not to be published with a private model.
    """

    module: torch.nn.Module
    events: tuple[Event, ...]
    epochs: tuple[Epoch, ...]


def fit(recipe: Recipe, records: Records, seed: int, progress: EpochProgress | None = None) -> Trained:
    """Train on records in memory. The same seed gives the same weights, unless a defense adds noise.

    Args:
        recipe: How; its data and seed are not looked at.
        records: What is trained on.
        seed: Of initialisation, order, dropout and augmentation. Torch's global generator is left as it was.
        progress: Called after each epoch.

    Raises:
        InputError: What the recipe asks for would break its own guarantee, or does not fit the records.
        MidguardError: The loss or a weight became NaN or infinite.
    """
    check_fit(recipe, records)
    with seeded(seed):
        run = _Run.start(recipe, records)
        epochs = []
        for number in range(1, recipe.epochs + 1):
            epochs.append(run.epoch(number))
            if progress is not None:
                progress(epochs[-1], recipe.epochs)
        events = run.mechanism.finish()
    return Trained(run.module.eval().requires_grad_(False), events, tuple(epochs))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator starts from this seed, and is afterwards as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % _SEEDS)
        yield


def check_fit(recipe: Recipe, records: Records) -> None:
    """Refuse records that are not the task's.

    Raises:
        InputError: They are none, of another shape, with other classes, or not finite.
    """
    task = recipe.task
    if len(records) == 0:
        raise InputError.of("there are no records to train on", "name members, or give them a larger share")
    if records.x.shape[1:] != task.shape:
        raise InputError.of(f"the records have shape {list(records.x.shape[1:])}, the task expects {list(task.shape)}")
    if records.y.min() < 0 or records.y.max() >= task.classes:
        raise InputError.of(f"labels outside 0 to {task.classes - 1}", "number the classes from 0")
    if not np.isfinite(records.x).all():
        raise InputError.of("the records hold NaN or infinite values", "fill or drop them")


@dataclass(frozen=True, slots=True)
class _Run:
    """One training under way: the module, who steps it, and the records as tensors."""

    recipe: Recipe
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    mechanism: Mechanism
    x: torch.Tensor
    y: torch.Tensor

    @classmethod
    def start(cls, recipe: Recipe, records: Records) -> _Run:
        """Initialise the module from torch's generator, and let the defense take over."""
        import torch

        try:
            module = recipe.architecture.build(recipe.task.shape, recipe.task.classes).train()
        except ValueError as error:
            raise InputError.of(str(error), "choose another architecture") from error
        optimizer = optimizer_over([p for p in module.parameters() if p.requires_grad], recipe.optimizer)
        example = _example(recipe)
        setting = Setting(module, optimizer, example, len(records), recipe.batch_size, recipe.epochs)
        mechanism = recipe.defense.protect(setting) if recipe.defense is not None else _Plain(setting)
        x, y = torch.tensor(records.x, dtype=torch.float32), torch.tensor(records.y, dtype=torch.int64)
        return cls(recipe, module, optimizer, mechanism, x, y)

    def epoch(self, number: int) -> Epoch:
        """Train for one epoch.

        Raises:
            MidguardError: The loss of a plain training, or a weight, is not finite.
        """
        import torch

        rate = self.recipe.optimizer.lr * self.recipe.schedule.share(number, self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seen, right, loss = 0, 0, 0.0
        for index in self.mechanism.batches():
            x, y = _varied(self.x[index], self.recipe.augmentation, self.recipe.task.bounds), self.y[index]
            logits = self.mechanism.step(x, y)
            if len(y):
                seen += len(y)
                right += int((logits.argmax(dim=1) == y).sum())
                loss += float(torch.nn.functional.cross_entropy(logits, y, reduction="sum"))
        self._check_finite(number, loss)
        share = (loss / seen, right / seen) if seen else (math.nan, math.nan)
        return Epoch(number, *share, self.mechanism.epsilon())

    def _check_finite(self, number: int, loss: float) -> None:
        # A defense counts a record without a finite gradient as zero, so there the loss may be what it wants.
        broken = self.recipe.defense is None and not math.isfinite(loss)
        if broken or not all(bool(p.isfinite().all()) for p in self.module.parameters()):
            raise diverged("loss" if broken else "weights", number, self.recipe)


def diverged(what: str, number: int, recipe: Recipe) -> MidguardError:
    """What a training that ended in NaN says. Args: what became NaN, in which epoch."""
    return MidguardError(
        f"training diverged in epoch {number}: the {what} became NaN or infinite; "
        f"lower optimizer.lr (now {recipe.optimizer.lr:g}) or add warmup epochs"
    )


def optimizer_over(
    parameters: list[torch.nn.Parameter], choice: OptimizerChoice, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimiser over these parameters. Args: fused for one pass over memory, equal to rounding."""
    import torch

    if choice.name == "sgd":
        return torch.optim.SGD(
            parameters, choice.lr, choice.momentum, weight_decay=choice.weight_decay, fused=fused or None
        )
    kind = torch.optim.Adam if choice.name == "adam" else torch.optim.AdamW
    return kind(parameters, choice.lr, weight_decay=choice.weight_decay, fused=fused or None)


def _example(recipe: Recipe) -> torch.Tensor:
    """Records of the right shape and range that are nobody's; torch's generator is left as it was."""
    import torch

    low, high = recipe.task.bounds
    chance = np.random.default_rng(0).uniform(low, high, (_PROBES, *recipe.task.shape))
    return torch.tensor(chance, dtype=torch.float32)


class _Plain:
    """Training without a mechanism: every record once an epoch, in a fresh order."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def batches(self) -> Iterator[torch.Tensor]:
        """The records in random order, in batches; the last may be smaller."""
        import torch

        yield from torch.split(torch.randperm(self._setting.records), self._setting.batch_size)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One step down the mean cross-entropy of the batch."""
        import torch

        self._setting.optimizer.zero_grad(set_to_none=True)
        logits: torch.Tensor = self._setting.module(x)
        torch.nn.functional.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]
        self._setting.optimizer.step()
        return logits.detach()

    def epsilon(self) -> None:
        """Nothing bounds it."""
        return

    def state(self) -> None:
        """Nothing is kept between steps."""
        return

    def planned(self) -> tuple[Event, ...]:
        """The records are used as they are."""
        return (NonPrivate("trained without a mechanism"),)

    def finish(self) -> tuple[Event, ...]:
        """The records were used as they are."""
        for parameter in self._setting.module.parameters():
            parameter.grad = None
        return self.planned()


def _varied(
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


def train(recipe: Path, out: Path, progress: EpochProgress | None = None) -> Path:
    """Train from a recipe file into a folder, all of it or nothing; returns the model's path.

    The folder gets `model.pt`, `model.yaml`, `ledger.json`, the records, the recipe and the history of the training. It
    is written beside its place and moved there at the very end. One that an earlier training left is replaced.

    Raises:
        InputError: The recipe, its data or the folder is not acceptable.
        MidguardError: Training failed.
    """
    check_folder(out)
    chosen = load_recipe(recipe)
    if chosen.data is None:
        raise InputError.of(f"{recipe}: it names no data", "write spec.data")
    dealt = deal(chosen.data, chosen.task)
    trained = fit(chosen, dealt.members, chosen.seed, progress)
    with replaced(out) as folder:
        write_training(folder, chosen, dealt, trained)
    return out / MODEL
