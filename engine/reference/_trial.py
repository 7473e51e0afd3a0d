"""Which way of training is fastest, measured."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ensembles import Part
from ..errors import MidguardError
from ..recipe import Recipe
from ..target import Records
from ._entry import remembered
from ._work import PLAIN_WAY, Work, steps_of

#: Another way is taken where it was measured at least so many times as fast.
_FASTER = 1.1
#: Comparing the ways may cost at most this share of all steps, and, above a second, this smaller one.
_SHARE, _SMALL_SHARE, _SECONDS = 0.05, 0.02, 1.0
#: Models that are trained together in a comparison, and steps of each, at most.
_MODELS, _STEPS = 8, 64


@dataclass(frozen=True, slots=True)
class Choice:
    """A way of training. Attributes: speeds in steps a second, by way, empty where they were not compared."""

    way: str
    speeds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trial:
    """A short comparison of the ways, on a slice of the records, in the time of this process.

    Attributes:
        work: What is asked for.
        missing: Numbers of the models that are to be trained.
        steps: Of all of them together.
    """

    work: Work
    missing: Sequence[int]
    steps: int

    def choice(self) -> Choice:
        """The fastest way, as it was remembered or is measured now; the plain one where little is to be done."""
        name = self.work.speeds_name()
        speeds = remembered(self.work.store, name)
        if not set(speeds) >= set(self.work.ways):
            speeds = self._speeds()
            if speeds:
                self.work.store.put(name, json.dumps(speeds).encode())
        return _fastest({way: speeds[way] for way in self.work.ways if way in speeds})

    def speed(self) -> float:
        """Steps a second of the plain way, from the fewest that tell it."""
        return self._measured(PLAIN_WAY, 1, 2)

    def _speeds(self) -> dict[str, float]:
        """Steps a second of each way; empty where there is but one, or comparing would cost too much."""
        # Everything is run twice, to warm up and to measure.
        most = int(_SHARE * self.steps / (2 * len(self.work.ways)))
        if len(self.work.ways) < 2 or most < 2:
            return {}
        second = max(_SMALL_SHARE * self.steps, _SECONDS * self.speed())
        each = min(most, int(second / (2 * len(self.work.ways))))
        if each < 2:
            return {}
        models = min(_MODELS, each)
        steps = min(_STEPS, each // models)
        return {way: self._measured(way, models, steps) for way in self.work.ways}

    def _measured(self, way: str, models: int, steps: int) -> float:
        """Steps a second of one way, after a warm-up; as good as 0 where it diverges."""
        recipe, parts = self._slice(models, steps)
        clock = time.process_time if self.work.device == "cpu" else time.perf_counter
        pool, done = Records(self.work.pool.x, self.work.pool.y), models * steps_of(recipe, len(parts[0].records))
        try:
            self.work.ways[way].train(recipe, pool, parts, lambda share: None)
            start = clock()
            self.work.ways[way].train(recipe, pool, parts, lambda share: None)
        except MidguardError:
            return 1e-9
        return done / max(clock() - start, 1e-9)

    def _slice(self, models: int, steps: int) -> tuple[Recipe, list[Part]]:
        """A recipe and parts of so many models and about so many steps each."""
        chosen = [self.work.parts[self.missing[i % len(self.missing)]] for i in range(models)]
        records = min(*self.work.sizes, steps * self.work.recipe.batch_size)
        batch = max(1, min(self.work.recipe.batch_size, records))
        epochs = max(1, round(steps * batch / max(1, records)))
        recipe = dataclasses.replace(self.work.recipe, epochs=epochs, batch_size=batch, defense=self._defense())
        return recipe, [Part(part.records[:records], part.seed) for part in chosen]

    def _defense(self) -> Any:
        """The defense, without the search for its noise: that is once a process, and would count for the ways."""
        defense: Any = self.work.recipe.defense
        if getattr(defense, "target_epsilon", None) is None:
            return defense
        return dataclasses.replace(defense, target_epsilon=None, noise_multiplier=1.0)


def _fastest(speeds: Mapping[str, float]) -> Choice:
    """The fastest way; the plain one unless another is clearly faster."""
    best = max(speeds, key=lambda way: speeds[way], default=PLAIN_WAY)
    faster = best != PLAIN_WAY and speeds[best] > _FASTER * speeds[PLAIN_WAY]
    return Choice(best if faster else PLAIN_WAY, speeds)
