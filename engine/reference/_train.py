"""Reference models, from the store or trained."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import MidguardError
from ._chunk import Chunk, one_thread
from ._model import ReferenceModel, Trained
from ._processes import here, in_processes
from ._progress import Clock, Report
from ._schedule import Schedule, schedule, story
from ._work import Work

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

    from ..recipe import Recipe
    from ..store import Store
    from ..target import Records


def train_references(
    recipe: Recipe,
    pool: Records,
    inside: NDArray[bool_],
    seed: int,
    store: Store,
    report: Report,
    workers: int | None = None,
) -> Trained:
    """Train one model for each mask, or take it from the store.

    An outer `joblib.parallel_config` decides where the processes run; on other machines they must reach the store's
    folder under the same path.

    Args:
        recipe: How; its data, seed and release are not looked at.
        pool: What the masks are over.
        inside: `(k, n)`, one row a model.
        seed: What each model's own seed is derived from, with its number.
        store: Where finished models are kept; they are personal data.
        report: Told how far the work is; it may be called from another thread, but never twice at once.
        workers: How many processes; `None` for one a core, or none but this one where that is faster.

    Raises:
        InputError: The recipe does not fit the records.
        MidguardError: A training diverged, or a process died.
    """
    if inside.ndim != 2 or inside.shape[1] != len(pool):
        raise ValueError(f"expected masks of shape (k, {len(pool)}), found {inside.shape}")
    start = time.monotonic()
    work = Work.of(recipe, pool, inside, seed, store)
    before = work.found()
    missing = [number for number in range(len(inside)) if number not in before]
    how = _train(work, missing, report, workers) if missing else story(work)
    everything = before | (work.found(missing) if missing else {})
    lost = [number for number in missing if number not in everything]
    if lost:
        raise MidguardError(
            f"{len(lost)} reference models were trained but are not in {store.folder}: the processes that train must "
            "reach this folder"
        )
    found = [everything[number] for number in range(len(inside))]
    models = tuple(
        ReferenceModel(recipe, mask, entry.logits, store, entry.name) for mask, entry in zip(inside, found, strict=True)
    )
    seconds = time.monotonic() - start if missing else 0.0
    return Trained(models, how.words({entry.way for entry in found}), len(before), seconds, how.speeds)


def _train(work: Work, missing: Sequence[int], report: Report, workers: int | None) -> Schedule:
    """Train what is missing; it is in the store afterwards."""
    with _explained(), one_thread():
        plan = schedule(work, missing, report, workers)
        groups = [group for group in plan.groups if not set(group).isdisjoint(missing)]
        chunks = [_chunk(work, group, plan.way) for group in groups]
        clock = Clock(report, len(work.parts), len(missing), tuple(len(chunk.parts) for chunk in chunks))
        if plan.processes == 1:
            here(chunks, work.pool, clock)
        else:
            in_processes(chunks, work.pool, clock, plan.processes)
    return plan


def _chunk(work: Work, group: Sequence[int], way: str) -> Chunk:
    parts, names = tuple(work.parts[i] for i in group), tuple(work.name(i, way) for i in group)
    return Chunk(work.recipe, way, parts, names, work.store, work.device)


@contextmanager
def _explained() -> Iterator[None]:
    """Whatever goes wrong while training, as an error that says what to do."""
    from concurrent.futures.process import BrokenProcessPool

    try:
        yield
    except MidguardError:
        raise
    except BrokenProcessPool as error:
        raise MidguardError(
            "a process that trained reference models was killed, mostly because memory ran out: free some, or train in "
            "fewer processes; finished models are kept, the next run goes on from there"
        ) from error
    except Exception as error:
        raise MidguardError(f"training reference models failed: {type(error).__name__}: {error}") from error
