"""Update-Leaks on MNIST: what the change of a model's answers tells of the records that an update learnt from.

    python benchmarks/update_leaks.py ../shared/data/mnist.npz            # about 5 minutes on two quiet cores
    python benchmarks/update_leaks.py ../shared/data/mnist.npz --quick

The file holds `x` (70000, 1, 28, 28) uint8 and `y`, the 60,000 training records first. The target's model has learnt
from 5,000 records; 500 fresh copies of it are then updated, each on records of its own from the next 15,000. The
adversary sees their answers on 100 probes before and after. He owns 20,000 other records: with half of them he trains a
model of his own, with the others he makes 2,000 updates of it, and he learns from those (Salem et al. 2020, arXiv
1904.01067). The control hands him each update's change for another update: what he still tells then is no leak.

Ends in 1 unless: labels of single records are told with an accuracy of .9; the distribution over ten has a smaller
Kullback-Leibler divergence than an even one; single records and sets of ten are reconstructed closer than the mean
image; with the changes shuffled labels are at chance (within three standard errors), the divergence is no better than
an even guess, and single records are no closer than the mean image and further than in truth; and all of it took less
than six minutes. Sets of ten are *not* asked to be closer than with the changes shuffled, and are not: ten different
pictures, matched, lie closer than ten mean images whatever the change says, and an update that is one small step tells
mostly of the record that the model knew least.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midguard.attacks.inversion._update_readers import Scale
from midguard.attacks.inversion.update_leaks import UpdateLeaks, _logits, _tensor, change_of
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.descent import fit
from midguard.engine.judges import matched
from midguard.engine.recipe import OptimizerChoice, Recipe, Schedule
from midguard.engine.subject import Task, make_target
from midguard.engine.target import Access, Exposure, Previous, Records, Release, Target, softmax
from midguard.engine.updates import UpdateSets, answers_after

TASK = Task("classification", 10, (1, 28, 28), (0.0, 1.0))
LEAST, MOST_SECONDS = 0.9, 360.0


@dataclass(frozen=True, slots=True)
class Found:
    """What was told of updates of one size, in truth and with the changes shuffled."""

    size: int
    labels: float
    divergence: float
    errors: NDArray[np.float64]

    @property
    def error(self) -> float:
        return float(self.errors.mean())

    @classmethod
    def of(cls, shares: NDArray[np.float64], images: NDArray[np.float32], truth: UpdateSets) -> Found:
        real = np.stack([np.bincount(y, minlength=10) / len(y) for y in truth.y])
        told = np.maximum(shares, 1e-12)
        divergence = np.where(real > 0, real * (np.log(np.maximum(real, 1e-12)) - np.log(told)), 0).sum(axis=1)
        flat = truth.x.reshape(*truth.x.shape[:2], -1)
        placed = np.stack([matched(i, x, len(x)) for i, x in zip(images, flat, strict=True)])
        right = float((shares.argmax(axis=1) == real.argmax(axis=1)).mean())
        return cls(truth.y.shape[1], right, float(divergence.mean()), ((placed - flat) ** 2).mean(axis=(1, 2)))


def apart(found: Found, shuffled: Found) -> float:
    """How many standard errors the change tells more than another update's."""
    gain = shuffled.errors - found.errors
    return float(gain.mean() / (gain.std() / len(gain) ** 0.5))


def even(truth: UpdateSets) -> float:
    """The divergence of the real shares from even ones."""
    shares = np.full((len(truth), 10), 0.1)
    return Found.of(shares, np.zeros((len(truth), truth.y.shape[1], 784), np.float32), truth).divergence


def drawn(pool: Records, size: int, count: int, rng: np.random.Generator) -> UpdateSets:
    index = np.stack([rng.choice(len(pool), size, replace=False) for _ in range(count)])
    return UpdateSets(pool.x[index], pool.y[index])


def target_of(module: object, owned: Records, size: int, recipe: Recipe) -> Target:
    """The model behind a release of probabilities, and its earlier self."""
    release = Release(Exposure.PROBABILITIES)
    made = make_target(TASK, release, Access.RELEASE, owned, lambda: module)  # type: ignore[arg-type,return-value]
    made.previous = Previous(size, replace(made), recipe)
    return made


def attack(
    target: Target, truth: UpdateSets, recipe: Recipe, options: argparse.Namespace
) -> tuple[Found, Found, float]:
    """What one attack tells of many updates. Returns: in truth, shuffled, seconds."""
    start = time.monotonic()
    adversary = UpdateLeaks(updates=options.updates)
    shadow = adversary.shadow(target, options.seed, lambda _: None)
    module = target._module()
    before = softmax(_logits(module, shadow.probes))
    after = answers_after(module, truth, recipe, shadow.probes, options.seed + 1)
    changes = np.stack([change_of(target, before, softmax(answers)) for answers in after])
    scale = Scale.of(_tensor(shadow.changes))
    read = scale.read(_tensor(changes))
    shares = adversary.labels(shadow, scale, options.seed, read)
    images = adversary.records(shadow, scale, options.seed, read, lambda _: None)
    other = np.roll(np.arange(len(truth)), 1)
    return Found.of(shares, images, truth), Found.of(shares[other], images[other], truth), time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer updates: the table's shape alone")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10], help="records of an update")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.updates, count = (500, 100) if options.quick else (2000, 500)
    begun = time.monotonic()
    with np.load(options.data) as file:
        x, y = file["x"].astype(np.float32) / 255, file["y"].astype(np.int64)
    members, pool = Records(x[:5000], y[:5000]), Records(x[5000:20_000], y[5000:20_000])
    owned = Records(x[20_000:40_000], y[20_000:40_000])
    trained = Recipe(
        Mlp((128,)), TASK, OptimizerChoice("sgd", lr=0.05, momentum=0.9), Schedule("constant"), epochs=10, batch_size=64
    )
    update = replace(trained, optimizer=OptimizerChoice("sgd", lr=0.01, momentum=0.9), epochs=1)
    module = fit(trained, members, options.seed).module.eval().requires_grad_(False)
    right = (_logits(module, pool.x).argmax(axis=1) == pool.y).mean()
    print(f"accuracy on records that it never saw {right:.4f}\n")
    print("records  told from      label (chance)   KL (even)       error (mean image)     s")
    checks: dict[str, bool] = {}
    for size in options.sizes:
        truth = drawn(pool, size, count, np.random.default_rng(options.seed))
        mean = float(((owned.x.mean(axis=0) - truth.x) ** 2).mean())
        found, shuffled, seconds = attack(target_of(module, owned, size, update), truth, update, options)
        for words, f in (("the change", found), ("another's", shuffled)):
            print(
                f"{size:7}  {words:12}   {f.labels:.3f}  (.100)    {f.divergence:6.3f} ({even(truth):.3f})    "
                f"{f.error:.4f} ({mean:.4f})  {seconds:8.0f}",
                flush=True,
            )
        chance, spread = 0.1 if size == 1 else found.labels, 3 * (0.09 / count) ** 0.5
        checks |= {
            f"{size}: divergence below an even guess": found.divergence < even(truth),
            f"{size}: closer than the mean image": found.error < mean,
            f"{size}: shuffled, no divergence below an even guess": shuffled.divergence >= even(truth),
        }
        print(
            f"         the change tells {apart(found, shuffled):.1f} standard errors more of the records than another's"
        )
        if size == 1:
            checks["1: closer than with the changes shuffled"] = apart(found, shuffled) > 4
            # Ten shuffled records lie closer than ten mean images do: different ones are matched to different ones.
            checks["1: shuffled, not closer than the mean image"] = shuffled.error >= mean
            checks["1: labels told"] = found.labels >= LEAST
            checks["1: shuffled, labels at chance"] = abs(shuffled.labels - chance) < spread + 0.02
    seconds = time.monotonic() - begun
    checks[f"all of it in {seconds:.0f} s"] = seconds < MOST_SECONDS
    print()
    for words, holds in checks.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {words}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
