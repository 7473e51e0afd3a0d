"""Descent: from records in memory to a trained module, step by step, with or without a mechanism."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .audit import Audit
from .checkpoints import Checkpoint, Unfinished
from .defenses import Mechanism, Setting, Witness
from .defenses.dp_sgd import DpSgd
from .epochs import Epoch, EpochProgress, Tally, Tell
from .errors import InputError, MidguardError
from .ledger import Event, NonPrivate, SampledGaussian
from .recipe import OptimizerChoice, Recipe
from .target import Records
from .transfer import freeze, take_weights, trained_parameters
from .variation import vary

if TYPE_CHECKING:
    import torch

#: Records that are nobody's, on which a defense probes the module.
_PROBES = 6
_SEEDS = 2**63


class DivergedError(MidguardError):
    """A training ended in NaN or infinity."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives.

    Attributes:
        module: In evaluation mode, parameters frozen, without any wrapper.
        events: What happened to the records.
        epochs: How it went, computed on the training records without noise: not to be published with a private model.
        told: What training did besides, a sentence each.
        resumed: How often it was interrupted and went on.
        keys: SHA-256 of the key of the noise, one for each time that it was begun or went on.
    """

    module: torch.nn.Module
    events: tuple[Event, ...]
    epochs: tuple[Epoch, ...]
    told: tuple[str, ...] = ()
    resumed: int = 0
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """What training on the private records starts from, where that is not chance alone.

    Attributes:
        weights: By name.
        chance: State of torch's generator; `None` to leave it.
        events: What that means for the private records.
        epochs: Those on public records.
        told: What was done, a sentence each.
    """

    weights: Mapping[str, torch.Tensor]
    chance: torch.Tensor | None
    events: tuple[Event, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    told: tuple[str, ...] = ()


def fit(
    recipe: Recipe,
    records: Records,
    seed: int,
    progress: EpochProgress | None = None,
    *,
    start: Start | None = None,
    tell: Tell | None = None,
    witness: Witness | None = None,
    kept: Unfinished | None = None,
) -> Trained:
    """Train on records in memory. The same seed gives the same weights, unless a defense adds noise.

    Args:
        recipe: How; its data and seed are not looked at.
        records: What is trained on.
        seed: Of initialisation, order, dropout and augmentation. Torch's global generator is left as it was.
        progress: Called after each epoch.
        start: What it starts from, as `prepare` gives it; needed where the recipe transfers or pre-trains.
        tell: Told what training does besides.
        witness: Who tests the mechanism while it works.
        kept: Where an unfinished training is kept, and found again.

    Raises:
        InputError: What the recipe asks for would break its own guarantee, or does not fit the records.
        MidguardError: The loss or a weight became NaN or infinite.
    """
    _check_records(recipe, records)
    if recipe.search is not None or (start is None and (recipe.initial or recipe.pretraining)):
        raise InputError.of("this recipe needs more than private records", "train it with midguard train")
    with seeded(seed):
        run = _Run.start(recipe, records, start, witness, kept)
        book = _Book(run, kept, start, tell)
        for number in range(book.finished + 1, recipe.epochs + 1):
            if run.exhausted:
                break
            book.close(run.epoch(number, book))
            if progress is not None:
                progress(book.epochs[-1], recipe.epochs)
        book.end()
        state, events = run.mechanism.state(), run.mechanism.finish()
    keys = () if state is None else state.keys
    module = run.module.eval().requires_grad_(False)
    before = (*(kept.abandoned if kept is not None else ()), *(start.events if start is not None else ()))
    return Trained(module, (*before, *events), tuple(book.epochs), tuple(book.told), book.resumed, keys)


def planned(recipe: Recipe, records: Records) -> tuple[Event, ...]:
    """What training would do to the records at most, without a step of it.

    Raises:
        InputError: The defense refuses so many records or such batches.
    """
    with seeded(0):
        module = _built(recipe)
    optimizer = optimizer_over(trained_parameters(module), recipe.optimizer)
    setting = Setting(module, optimizer, _example(recipe), len(records), recipe.batch_size, recipe.epochs)
    if isinstance(recipe.defense, DpSgd):
        return (recipe.defense.planned(setting),)
    return (recipe.defense.protect(setting) if recipe.defense is not None else _Plain(setting)).planned()


def untrained(recipe: Recipe, start: Start | None, seed: int) -> Trained:
    """The model as it stands before any private record."""
    with seeded(seed):
        module = _built(recipe)
        if start is not None:
            module.load_state_dict(dict(start.weights), strict=True)
    epochs, told = ((), ()) if start is None else (start.epochs, start.told)
    return Trained(module.eval().requires_grad_(False), (), epochs, told)


def prepare(
    recipe: Recipe, public: Records | None, seed: int, progress: EpochProgress | None = None, tell: Tell | None = None
) -> Start | None:
    """What training on the private records starts from: given weights, then pre-training on public records.

    Args:
        recipe: How.
        public: Records for the pre-training; `None` where there is none.
        seed: Of everything that is left to chance.
        progress: Called after each epoch.
        tell: Told what is done.

    Returns: `None` where it starts from chance.

    Raises:
        InputError: The given weights are not this architecture's, or there are no public records.
        MidguardError: Pre-training diverged.
    """
    if recipe.initial is None and recipe.pretraining is None:
        return None
    with seeded(seed):
        module = _built(recipe)
        transferred = _transferred(recipe, module)
        say(transferred, tell)
        epochs = _pretrained(recipe, module, public, progress)
        seen = 0 if public is None else len(public)
        pretrained = f"pre-trained on {seen:,} public records in {len(epochs)} epochs" if epochs else ""
        say(pretrained, tell)
        return Start(
            weights={name: tensor.detach().clone() for name, tensor in module.state_dict().items()},
            chance=_chance(),
            events=recipe.initial.events() if recipe.initial is not None else (),
            epochs=epochs,
            told=tuple(filter(None, (transferred, pretrained))),
        )


def _transferred(recipe: Recipe, module: torch.nn.Module) -> str:
    """Put the given weights into the module, and say so; nothing where none are given."""
    initial = recipe.initial
    if initial is None:
        return ""
    digest = take_weights(module, initial)
    whose = f"public: {initial.statement}" if initial.public else "not said to be public"
    afresh = f", afresh: {', '.join(initial.fresh)}" if initial.fresh else ""
    return f"started from {initial.file.name} (sha256 {digest}), {whose}{afresh}"


def _pretrained(
    recipe: Recipe, module: torch.nn.Module, public: Records | None, progress: EpochProgress | None
) -> tuple[Epoch, ...]:
    """Train a module on the public records, without a mechanism."""
    how = recipe.pretraining
    if how is None:
        return ()
    if public is None:
        raise InputError.of("there are no public records to pre-train on", "name them in data.public")
    plain = dataclasses.replace(
        recipe, optimizer=how.optimizer, schedule=how.schedule, epochs=how.epochs, batch_size=how.batch_size,
        defense=None, initial=None, pretraining=None, freeze=(), search=None, data=None,
    )  # fmt: skip
    _check_records(plain, public)
    run = _Run.over(plain, module, public)
    epochs = []
    for number in range(1, how.epochs + 1):
        epochs.append(dataclasses.replace(run.epoch(number, _Book(run)), public=True))
        if progress is not None:
            progress(epochs[-1], how.epochs)
    run.mechanism.finish()
    return tuple(epochs)


def say(sentence: str, tell: Tell | None) -> None:
    """Tell a sentence to whoever listens; an empty one to nobody."""
    if sentence and tell is not None:
        tell(sentence)


def _chance() -> torch.Tensor:
    """State of torch's global generator."""
    import torch

    return torch.get_rng_state().clone()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator starts from this seed, and is afterwards as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed % _SEEDS)
        yield


def check_fit(recipe: Recipe, records: Records) -> None:
    """Refuse records that are not the task's, and a recipe that needs more than records and chance.

    Raises:
        InputError: They are none, of another shape, with other classes, or not finite; or training would not start
            from scratch.
    """
    _check_records(recipe, records)
    if not recipe.from_scratch:
        raise InputError.of(
            "the recipe transfers, pre-trains, freezes or searches, so that its models cannot be trained from scratch",
            "train it with midguard train",
        )


def _check_records(recipe: Recipe, records: Records) -> None:
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


def _built(recipe: Recipe) -> torch.nn.Module:
    """The module in training mode, initialised from torch's generator."""
    try:
        return recipe.architecture.build(recipe.task.shape, recipe.task.classes).train()
    except ValueError as error:
        raise InputError.of(str(error), "choose another architecture") from error


@dataclass(frozen=True, slots=True)
class _Run:
    """One training under way: the module, who steps it, and the records as tensors.

    Attributes:
        frozen: Which part of the module is trained, in words; empty where all of it is.
    """

    recipe: Recipe
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    mechanism: Mechanism
    x: torch.Tensor
    y: torch.Tensor
    frozen: str = ""

    @classmethod
    def start(
        cls, recipe: Recipe, records: Records, start: Start | None, witness: Witness | None, kept: Unfinished | None
    ) -> _Run:
        """Begin where `start` ended, or go on where an unfinished training was kept; else from torch's generator."""
        import torch

        module = _built(recipe)
        begun = kept.checkpoint if kept is not None else None
        source = begun or start
        if source is not None:
            module.load_state_dict(dict(source.weights), strict=True)
            if source.chance is not None:
                torch.set_rng_state(source.chance)
        return cls.over(recipe, module, records, witness, kept)

    @classmethod
    def over(
        cls,
        recipe: Recipe,
        module: torch.nn.Module,
        records: Records,
        witness: Witness | None = None,
        kept: Unfinished | None = None,
    ) -> _Run:
        """Let the defense take over a module."""
        import torch

        frozen = str(freeze(module, recipe.freeze)) if recipe.freeze else ""
        optimizer = optimizer_over(trained_parameters(module), recipe.optimizer)
        if kept is not None and kept.checkpoint is not None:
            optimizer.load_state_dict(dict(kept.checkpoint.optimizer))
        setting = Setting(
            module, optimizer, _example(recipe), len(records), recipe.batch_size, recipe.epochs, witness=witness
        )
        resumed = kept.state if kept is not None else None
        if isinstance(witness, Audit):
            witness.begins(setting)
        mechanism = recipe.defense.protect(setting, resumed) if recipe.defense is not None else _Plain(setting)
        if isinstance(witness, Audit):
            mechanism = witness.watch(mechanism)
        if kept is not None:
            kept.starts(mechanism.planned())
        x, y = torch.tensor(records.x, dtype=torch.float32), torch.tensor(records.y, dtype=torch.int64)
        return cls(recipe, module, optimizer, mechanism, x, y, frozen)

    @property
    def exhausted(self) -> bool:
        """Whether every step that the mechanism may take is taken."""
        state = self.mechanism.state()
        planned = sum(event.steps for event in self.mechanism.planned() if isinstance(event, SampledGaussian))
        return state is not None and planned > 0 and state.steps >= planned

    def epoch(self, number: int, book: _Book) -> Epoch:
        """Train for one epoch, or for the rest of one that was interrupted.

        Raises:
            MidguardError: The loss of a plain training, or a weight, is not finite.
        """
        import torch

        rate = self.recipe.optimizer.lr * self.recipe.schedule.share(number, self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for index in self.mechanism.batches():
            x, y = vary(self.x[index], self.recipe.augmentation, self.recipe.task.bounds), self.y[index]
            book.announce()
            logits = self.mechanism.step(x, y)
            right, loss = 0, 0.0
            if len(y):
                right = int((logits.argmax(dim=1) == y).sum())
                loss = float(torch.nn.functional.cross_entropy(logits, y, reduction="sum"))
            book.note(len(y), right, loss)
        self._check_finite(number, book.tally.loss)
        return book.tally.epoch(number, self.mechanism.epsilon())

    def _check_finite(self, number: int, loss: float) -> None:
        # A defense counts a record without a finite gradient as zero, so there the loss may be what it wants.
        broken = self.recipe.defense is None and not math.isfinite(loss)
        if broken or not all(bool(p.isfinite().all()) for p in self.module.parameters()):
            raise diverged("loss" if broken else "weights", number, self.recipe)


class _Book:
    """What was told and seen of a training so far; keeps an unfinished one up to date where there is one to keep.

    Args:
        run: The training.
        kept: Where it is kept; `None` for nowhere.
        start: What it started from.
        tell: Told every new sentence.
    """

    def __init__(
        self, run: _Run, kept: Unfinished | None = None, start: Start | None = None, tell: Tell | None = None
    ) -> None:
        self._run, self._kept, self._tell = run, kept, tell
        begun = kept.checkpoint if kept is not None else None
        self.epochs = list(begun.epochs if begun else start.epochs if start else ())
        self.told = list(begun.told if begun else start.told if start else ())
        self.tally = begun.tally if begun else Tally()
        self.resumed = kept.resumed if kept is not None else 0
        state = run.mechanism.state()
        self._step = 0 if state is None else state.steps
        self._written = begun is not None
        if begun is None:
            self._say(run.frozen)
        else:
            self._say(self._went_on(begun))

    @property
    def finished(self) -> int:
        """Epochs on the private records that are over."""
        return sum(not epoch.public for epoch in self.epochs)

    def _went_on(self, begun: Checkpoint) -> str:
        if self._kept is None or self._kept.resumed == 0:
            return ""  # no step had been announced
        if begun.mechanism is None:
            return f"went on after epoch {self.finished}"
        lost = f"; {self._kept.lost} more count as spent, whose outcome was lost" if self._kept.lost else ""
        return f"went on after step {begun.mechanism.steps}{lost}"

    def _say(self, sentence: str) -> None:
        if sentence:
            self.told.append(sentence)
            say(sentence, self._tell)

    def announce(self) -> None:
        """A step is going to be taken."""
        if self._kept is None:
            return
        if not self._written:
            self._keep()  # before the first step: whoever goes on needs somewhere to go on from
        self._kept.announce(self._step)

    def note(self, seen: int, right: int, loss: float) -> None:
        """A step was taken."""
        self._step += 1
        self.tally = self.tally.plus(seen, right, loss)
        if self._kept is not None and self._run.mechanism.state() is not None and self._kept.due():
            self._keep()

    def close(self, epoch: Epoch) -> None:
        """An epoch is over."""
        self.epochs.append(epoch)
        self.tally = Tally()
        if self._kept is not None and self._kept.due():
            self._keep()

    def end(self) -> None:
        """The training is over."""
        self.tally = Tally()
        if self._run.exhausted and self.finished < self._run.recipe.epochs:
            of = f"epoch {self.finished} of {self._run.recipe.epochs}"
            self._say(f"ended after step {self._step}, in {of}: the next would exceed the limit on ε")
        if self._kept is not None:
            self._keep()

    def _keep(self) -> None:
        if self._kept is None:
            return
        run, self._written = self._run, True
        self._kept.keep(
            Checkpoint(
                weights=run.module.state_dict(),
                optimizer=run.optimizer.state_dict(),
                chance=_chance(),
                mechanism=run.mechanism.state(),
                epochs=tuple(self.epochs),
                tally=self.tally,
                told=tuple(self.told),
            )
        )


def diverged(what: str, number: int, recipe: Recipe) -> MidguardError:
    """What a training that ended in NaN says. Args: what became NaN, in which epoch."""
    return DivergedError(
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
