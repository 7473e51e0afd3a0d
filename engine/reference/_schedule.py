"""What is trained together, and how: written down before, so that a killed run goes on in the same company."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._entry import remembered
from ._layout import Layout, layout
from ._trial import Choice, Trial
from ._work import PLAIN_WAY, Work, steps_of

if TYPE_CHECKING:
    from ._progress import Report

#: About how long it takes until a new process can train, in seconds.
_START = 2.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is trained together, and how.

    Attributes:
        way: The way of training.
        groups: Numbers of the models of each chunk.
        speeds: Steps a second by way, where they were compared.
        processes: 0 where nothing had to be trained.
    """

    way: str
    groups: tuple[tuple[int, ...], ...]
    speeds: Mapping[str, float]
    processes: int = 0

    def words(self, ways: set[str]) -> str:
        """How the models came to be. Args: the ways that they were trained by, mostly one."""
        known = " and ".join("one by one" if way == PLAIN_WAY else way.replace("_", " ") for way in sorted(ways))
        together = max(map(len, self.groups), default=1)
        parts = [known or "none"]
        if together > 1 and ways - {PLAIN_WAY}:
            parts.append(f"{together} at a time")
        if self.processes:
            parts.append(f"in {self.processes} process{'es' if self.processes > 1 else ''}")
        return "; ".join([", ".join(parts), *self._comparison()])

    def _comparison(self) -> list[str]:
        """What the comparison of the ways said."""
        if len(self.speeds) < 2:
            return []
        if self.way == PLAIN_WAY:
            return [f"measured the fastest of {len(self.speeds)} ways, or as fast"]
        return [f"measured {self.speeds[self.way] / self.speeds[PLAIN_WAY]:.1f} times as fast as one by one"]


def story(work: Work) -> Schedule:
    """How these models were trained, as far as it is remembered."""
    known = remembered(work.store, work.schedule_name())
    groups = tuple(map(tuple, known.get("groups", ())))
    return Schedule(known.get("way", PLAIN_WAY), groups, known.get("speeds", {}))


def schedule(work: Work, missing: Sequence[int], report: Report, workers: int | None) -> Schedule:
    """What is trained together: as it was remembered, and what is missing beside that in chunks of its own."""
    old = story(work)
    trial = Trial(work, missing, sum(steps_of(work.recipe, work.sizes[number]) for number in missing))
    if old.groups and old.way in work.ways:
        choice = Choice(old.way, old.speeds)
    else:
        report("measuring how reference models are trained fastest", 0.0)
        choice, old = trial.choice(), Schedule(PLAIN_WAY, (), {})
    plan = layout(work.ways[choice.way], work.recipe, max(work.sizes), len(missing), workers, work.device)
    new = _chunks(missing, old, plan.chunk)
    groups = (*old.groups, *new)
    if new:
        content = {"way": choice.way, "groups": groups, "speeds": dict(choice.speeds)}
        work.store.put(work.schedule_name(), json.dumps(content).encode())
    chunks = sum(not set(group).isdisjoint(missing) for group in groups)
    return Schedule(choice.way, groups, choice.speeds, _processes(plan, chunks, workers, trial, choice))


def _chunks(missing: Sequence[int], old: Schedule, size: int) -> list[tuple[int, ...]]:
    """Chunks of what is missing and not in any old one."""
    together = {number for group in old.groups for number in group}
    rest = [number for number in missing if number not in together]
    return [tuple(rest[at : at + size]) for at in range(0, len(rest), size)]


def _processes(plan: Layout, chunks: int, workers: int | None, trial: Trial, choice: Choice) -> int:
    """At most as laid out and one a chunk; but one where nobody asked for more and starting them would cost more."""
    processes = min(plan.processes, chunks)
    if workers is not None or processes <= 1:
        return processes
    speed = choice.speeds.get(choice.way) or trial.speed()
    return processes if _worth(trial.steps, speed, processes) else 1


def _worth(steps: int, speed: float, processes: int) -> bool:
    """Whether more processes win more time than it takes to start them. Args: speed in steps a second."""
    return steps / speed * (1 - 1 / processes) > _START
