"""Training: from a recipe's file to a folder with a model, what happened to its records, and how it went."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .audit import Audit, Planned
from .budget import RESERVATION, Charge, open_budget
from .checkpoints import Identity, Unfinished, unfinished
from .defenses.dp_sgd import DpSgd
from .descent import DivergedError, Start, Trained, fit, planned, prepare, say, untrained
from .epochs import EpochProgress, Tell
from .errors import AccountingError, InputError, MidguardError
from .folder import LEDGER, MODEL, check_folder, replaced, write_training
from .ledger import Event, SampledGaussian, read_ledger
from .recipe import Recipe, load_recipe
from .search import Candidate, Search, cost, noise_of_search
from .splits import Dealt, deal
from .subject import content_digest, logits_of
from .target import Records
from .transfer import refuse_own_data

if TYPE_CHECKING:
    from .budget._store import Budget

#: Of the public records, the share that scores a search where the rest is trained on.
_SCORED = 0.2


def train(
    recipe: Path,
    out: Path,
    progress: EpochProgress | None = None,
    *,
    tell: Tell | None = None,
    fresh: bool = False,
    budget: str | None = None,
    dataset: str = "",
    audit: bool = False,
) -> Path:
    """Train from a recipe file into a folder, all of it or nothing; returns the model's path.

    The folder gets `model.pt`, `model.yaml`, `ledger.json`, the records, the recipe and the history of the training. It
    is written beside its place and moved there at the very end. One that an earlier training left is replaced. A
    training that is interrupted goes on where it was when it is called again.

    Args:
        recipe: The recipe's file.
        out: The folder.
        progress: Called after each epoch.
        tell: Told what training does besides.
        fresh: Whether an unfinished training is started over; what it spent stays in the ledger.
        budget: The store of all releases on the data, a SQLite file or a SQLAlchemy URL: all that the training may do
            is reserved there before its first step, and settled before the model is released.
        dataset: Name under which data sets that share records count together in it.
        audit: Whether evidence tests watch. The model then carries their canaries, and a training that is interrupted
            cannot go on.

    Raises:
        InputError: The recipe, its data or the folder is not acceptable, or the budget's store is broken or cannot be
            read and written.
        MidguardError: Training failed.
    """
    check_folder(out)
    charged = None if budget is None else open_budget(budget)
    chosen = load_recipe(recipe)
    if chosen.data is None:
        raise InputError.of(f"{recipe}: it names no data", "write spec.data")
    dealt = deal(chosen.data, chosen.task)
    watching = _audit(chosen, dealt) if audit else None
    with unfinished(out, _identity(chosen, dealt, watching), chosen.text, fresh) as kept:
        kept.charge = _charge(kept, charged, dataset, out)
        say(kept.given_up, tell)
        trained = _trained(chosen, dealt, kept, progress, tell, watching)
        with replaced(out) as folder:
            write_training(folder, chosen, dealt, trained, watching)
            if kept.charge is not None:
                kept.charge.settle(read_ledger(folder / LEDGER))
        kept.remove()
    return out / MODEL


def _charge(kept: Unfinished, budget: Budget | None, dataset: str, out: Path) -> Charge | None:
    """What the training is charged to; one that was reserved for goes on with its budget alone.

    Raises:
        InputError: It was reserved for in a budget that is not named: it would stay reserved for ever.
    """
    if budget is not None:
        return Charge(budget, dataset, kept.folder)
    if (kept.folder / RESERVATION).exists():
        raise InputError.of(
            f"{out}: the unfinished training was reserved for in a budget", "name the same store with --budget"
        )
    return None


def _audit(recipe: Recipe, dealt: Dealt) -> Audit:
    """Every evidence test, planned before anything is trained.

    Raises:
        InputError: The recipe gives nothing to hold evidence against.
    """
    if not isinstance(recipe.defense, DpSgd) or recipe.search is not None:
        what = "searches among settings" if recipe.search is not None else "names no defense whose steps can be tested"
        raise InputError.of(f"an audit watches one private training, and this recipe {what}", "leave --audit out")
    task = recipe.task
    return Audit.plan(Planned(task.shape, task.classes, task.bounds, len(dealt.members), b""), recipe.defense.delta)


def _identity(recipe: Recipe, dealt: Dealt, audit: Audit | None) -> Identity:
    """Which training it is: the recipe, the records, and everything else that it reads."""
    data = content_digest(dealt.members)
    given = [] if dealt.public is None else [content_digest(dealt.public)]
    if audit is not None:
        given.append(f"audit {audit.id}")  # another process does not know its canaries
    if recipe.initial is not None:
        refuse_own_data(recipe.initial, data)
        given.append(hashlib.sha256(recipe.initial.file.read_bytes()).hexdigest())
    text = hashlib.sha256(recipe.text.encode("utf-8")).hexdigest()
    return Identity(text, data, len(dealt.members), " ".join(given), dealt.largest_group)


def _trained(
    recipe: Recipe,
    dealt: Dealt,
    kept: Unfinished,
    progress: EpochProgress | None,
    tell: Tell | None,
    audit: Audit | None,
) -> Trained:
    """Prepare, then train on the private records, once or in a search."""
    pretrained, scored = _public(recipe, dealt.public)
    try:
        begun = kept.checkpoint is not None
        start = prepare(recipe, pretrained, recipe.seed, progress, tell) if not begun else _again(recipe)
        kept.before = () if start is None else start.events
        if recipe.search is not None and scored is not None:
            trained = _searched(recipe, dealt.members, scored, start, tell, kept)
            return dataclasses.replace(trained, events=(*kept.abandoned, *trained.events))
        records = dealt.members if audit is None else audit.with_canaries(dealt.members)
        return fit(recipe, records, recipe.seed, progress, start=start, tell=tell, witness=audit, kept=kept)
    except DivergedError:
        if recipe.defense is None and not kept.abandoned:
            kept.remove()  # it would diverge again
        raise


def _again(recipe: Recipe) -> Start | None:
    """What an unfinished training started from, whose checkpoint holds everything but what it means."""
    if recipe.initial is None and recipe.pretraining is None:
        return None
    events = recipe.initial.events() if recipe.initial is not None else ()
    return Start(weights={}, chance=None, events=events)


def _public(recipe: Recipe, public: Records | None) -> tuple[Records | None, Records | None]:
    """Public records to pre-train on, and others to score a search on; the same part for the same recipe."""
    if public is None or recipe.pretraining is None or recipe.search is None:
        return public, public
    order = np.random.default_rng(recipe.seed).permutation(len(public))
    cut = max(1, round(_SCORED * len(public)))
    return public.take(order[cut:]), public.take(order[:cut])


@dataclasses.dataclass(frozen=True, slots=True)
class _Best:
    """The best run so far. Attributes: its accuracy on the public records that score."""

    score: float
    candidate: Candidate
    trained: Trained


def _searched(
    recipe: Recipe, records: Records, scored: Records, start: Start | None, tell: Tell | None, kept: Unfinished
) -> Trained:
    """The best of the search's runs, and what all of them cost together. Of the others nothing is written or told.

    A search that is interrupted begins again with another number of runs: of the first attempt nothing ever came out.
    """
    search, defense = recipe.search, recipe.defense
    if search is None or not isinstance(defense, DpSgd):
        raise AssertionError("the recipe saw to it")
    once = _once(recipe, search, defense, records)
    say(f"searching among {len(search.candidates)} settings; how many are tried is nobody's to know", tell)
    kept.starts(search.events(_event(once, None, records)))
    best = _best(search, once, records, scored, start)
    events = search.events(_event(once, best, records))
    _check_target(defense, events)
    found = untrained(once, start, recipe.seed) if best is None else best.trained
    told = _outcome(best)
    say(told, tell)
    # One run's ε is not what the search cost, so none is told for its epochs.
    epochs = tuple(dataclasses.replace(epoch, epsilon=None) for epoch in found.epochs)
    before = () if start is None else start.events
    return Trained(found.module, (*before, *events), epochs, (*found.told, told), keys=found.keys)


def _once(recipe: Recipe, search: Search, defense: DpSgd, records: Records) -> Recipe:
    """One run of a search, with as much noise as was asked for, or as keeps all of it within the target."""
    noise = defense.noise_multiplier
    once = dataclasses.replace(recipe, search=None, data=None)
    if noise is None:

        def run(noise: float) -> SampledGaussian:
            return _only(planned(_noised(once, defense, noise), records))

        noise = noise_of_search(search, run, defense.target_epsilon or 0.0, defense.delta)
    return _noised(once, defense, noise)


def _noised(once: Recipe, defense: DpSgd, noise: float) -> Recipe:
    """The recipe with this much noise, whatever it aimed at."""
    return dataclasses.replace(once, defense=dataclasses.replace(defense, target_epsilon=None, noise_multiplier=noise))


def _only(events: tuple[Event, ...]) -> SampledGaussian:
    """The one mechanism of a run."""
    (event,) = events
    if not isinstance(event, SampledGaussian):
        raise InputError.of("a search pays for sampled Gaussians alone", "use defense: {name: dp_sgd}")
    return event


def _best(search: Search, once: Recipe, records: Records, scored: Records, start: Start | None) -> _Best | None:
    """The run with the best score; `None` where none was drawn.

    Raises:
        MidguardError: Every run diverged.
    """
    best, tried = None, False
    for candidate in search.plan():
        tried = True
        try:
            trained = fit(_set(once, candidate), records, once.seed, start=start)
        except DivergedError:
            continue
        score = float((logits_of(trained.module, scored.x, once.task.classes).argmax(axis=1) == scored.y).mean())
        if best is None or score > best.score:
            best = _Best(score, candidate, trained)
    if tried and best is None:
        raise MidguardError(
            "every setting that the search tried diverged; what the runs did to the records is spent: try smaller "
            "learning_rates"
        )
    return best


def _set(once: Recipe, candidate: Candidate) -> Recipe:
    """The recipe with a candidate's setting."""
    optimizer, defense = once.optimizer, once.defense
    if candidate.learning_rate is not None:
        optimizer = dataclasses.replace(optimizer, lr=candidate.learning_rate)
    if candidate.clipping_norm is not None and isinstance(defense, DpSgd):
        defense = dataclasses.replace(defense, clipping_norm=candidate.clipping_norm)
    return dataclasses.replace(once, optimizer=optimizer, defense=defense)


def _event(once: Recipe, best: _Best | None, records: Records) -> SampledGaussian:
    """What one run did to the records at most."""
    chosen = once if best is None else _set(once, best.candidate)
    return _only(planned(chosen, records))


def _check_target(defense: DpSgd, events: tuple[Event, ...]) -> None:
    """The number of record is within what was asked for."""
    if defense.target_epsilon is None:
        return
    spent = cost(events, defense.delta)
    if not spent <= defense.target_epsilon:
        raise AccountingError(f"the search cost ε = {spent:g}, more than the {defense.target_epsilon:g} asked for")


def _outcome(best: _Best | None) -> str:
    """What the search found, in words."""
    if best is None:
        return "the number of runs that was drawn is 0: the model is as it started"
    return f"the best of the settings tried, by accuracy {best.score:.1%} on public records: {best.candidate}"
