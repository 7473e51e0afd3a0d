"""How close a record is reconstructed from an answer on it, behind every output defense, beside the published table.

    python benchmarks/inversion_records.py ../shared/data/mnist.npz            # about 12 minutes on two quiet cores
    python benchmarks/inversion_records.py ../shared/data/mnist.npz --quick    # a fraction of the records

The file holds `x` (70000, 1, 28, 28) uint8 and `y`, the 60,000 training records first. Members are the first 8,000,
nonmembers the next 8,000, the adversary owns the 10,000 test records. Every row trains its own decoder on what that
release exposes (Yang et al. 2019, arXiv 1902.08552), except where it says "not adapted": there the decoder has learnt
from clean probabilities and meets noised ones. `reference` is what an earlier study measured on the same split of the
same data with another network.

Ends in 1 unless: all probabilities < the three largest < the label alone, which is no better than the class mean;
members and nonmembers are reconstructed alike; noise looks strong to an adversary who does not adapt and is not to one
who does; averaging 32 answers undoes part of gaussian noise of .003 and of .01: over the victims, what 32 answers take
off the error of one is above nothing by three standard errors; 32 answers at .01 tell what one tells at .01 / sqrt(32),
within .001 (noise of .1 drowns what the small probabilities carry even so, and is printed alone); and no deterministic
defense is below all probabilities or above the label alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midguard.attacks.inversion.knowledge_alignment import KnowledgeAlignment
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.descent import fit
from midguard.engine.judges import Evaluators, fit_evaluators
from midguard.engine.recipe import OptimizerChoice, Recipe, Schedule
from midguard.engine.subject import Task, logits_of, make_target
from midguard.engine.target import Access, Exposure, Noise, NoiseKind, Records, Release, Target

TASK = Task("classification", 10, (1, 28, 28), (0.0, 1.0))
P, KIND = Exposure.PROBABILITIES, NoiseKind
#: Members and nonmembers may differ by this share of the distance, and the label by this from the class mean.
ALIKE, CLOSE = 0.05, 0.05
#: What a deterministic defense may be better than nothing, or worse than the label, by chance of the training.
CHANCE = 0.002
#: What the same variance of noise may make apart, drawn at once or averaged.
SAME = 0.001


def noise(kind: NoiseKind, scale: float) -> Release:
    return Release(P, noise=Noise(kind, scale))


@dataclass(frozen=True, slots=True)
class Row:
    """A release, and how it is attacked; `reference` is the mean squared error of the earlier study on members."""

    name: str
    release: Release
    reference: float | None = None
    decoder: str = "mlp"
    repeats: int = 1
    learnt: Release | None = None
    deterministic: bool = False


ALL, TOP3, LABEL = "all probabilities", "top 3", "label alone"
NAIVE, ADAPTED = "U(0, .1), not adapted", "U(0, .1)"
LOOKS = 32
ONCE, OFTEN = "gaussian {}, one answer", "gaussian {}, 32 answers"
SCALES = (0.003, 0.01)
QUIET = "gaussian .01 / sqrt(32), one answer"
ROWS = (
    Row(ALL, Release(P), 0.0323, deterministic=True),
    Row("all probabilities, conv decoder", Release(P), 0.0384, decoder="conv"),
    Row("logits", Release(Exposure.LOGITS), deterministic=True),
    Row("top 5", Release(P, top=5), 0.0438, deterministic=True),
    Row(TOP3, Release(P, top=3), 0.0474, deterministic=True),
    Row("top 1", Release(P, top=1), 0.0539, deterministic=True),
    Row("3 decimals", Release(P, decimals=3), 0.0484, deterministic=True),
    Row("2 decimals", Release(P, decimals=2), 0.0510, deterministic=True),
    Row("1 decimal", Release(P, decimals=1), 0.0531, deterministic=True),
    Row(LABEL, Release(Exposure.LABEL), 0.0539, deterministic=True),
    Row("U(0, .01)", noise(KIND.UNIFORM, 0.01), 0.0521),
    Row(ADAPTED, noise(KIND.UNIFORM, 0.1), 0.0541),
    Row(NAIVE, noise(KIND.UNIFORM, 0.1), 0.0839, learnt=Release(P)),
    Row("U(0, .1), 32 answers", noise(KIND.UNIFORM, 0.1), repeats=32),
    Row("gaussian .1", noise(KIND.GAUSSIAN, 0.1)),
    Row("gaussian .1, 32 answers", noise(KIND.GAUSSIAN, 0.1), repeats=32),
    *(Row(ONCE.format(scale), noise(KIND.GAUSSIAN, scale)) for scale in SCALES),
    *(Row(OFTEN.format(scale), noise(KIND.GAUSSIAN, scale), repeats=LOOKS) for scale in SCALES),
    Row(QUIET, noise(KIND.GAUSSIAN, SCALES[-1] / LOOKS**0.5)),
    Row("U(0, .1) keyed by the record", Release(P, noise=Noise(KIND.UNIFORM, 0.1, "record")), repeats=32),
)


@dataclass(frozen=True, slots=True)
class Arena:
    """The model and everybody's records."""

    target: Target
    members: Records
    nonmembers: Records
    evaluators: Evaluators

    def behind(self, release: Release) -> Target:
        return dataclasses.replace(
            self.target, release=release, queries=0, noise=dataclasses.replace(self.target.noise, draws=0)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What one row came to.

    Attributes:
        errors: `(m,)`, mean squared error of each member's reconstruction.
        nonmembers: Mean of the nonmembers' errors.
        recognised: Share of the members' reconstructions in which most evaluators see their class.
    """

    errors: NDArray[np.float64]
    nonmembers: float
    recognised: float

    @property
    def members(self) -> float:
        return float(self.errors.mean())


def each(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    squared: NDArray[np.float64] = (a.astype(np.float64) - b) ** 2
    return squared.reshape(len(squared), -1).mean(axis=1)


def mse(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(each(a, b).mean())


def undone(found: dict[str, Found], scale: float) -> tuple[float, float]:
    """The share of the noise's effect that averaging takes back, and how many standard errors it is above nothing."""
    once, often = found[ONCE.format(scale)], found[OFTEN.format(scale)]
    gain = once.errors - often.errors
    share = float(gain.mean()) / (once.members - found[ALL].members)
    return share, float(gain.mean() / (gain.std(ddof=1) / len(gain) ** 0.5))


def arena(path: Path, options: argparse.Namespace) -> Arena:
    with np.load(path) as file:
        x, y = file["x"].astype(np.float32) / 255, file["y"].astype(np.int64)
    size, owned = (2000, 2000) if options.quick else (8000, 10_000)
    members, others = (Records(x[i : i + size], y[i : i + size]) for i in (0, 8000))
    auxiliary = Records(x[60_000 : 60_000 + owned], y[60_000 : 60_000 + owned])
    recipe = Recipe(Cnn(), TASK, OptimizerChoice("adam", lr=1e-3), Schedule("constant"), epochs=4, batch_size=64)
    module = fit(recipe, members, options.seed).module
    for name, records in (("members", members), ("nonmembers", others)):
        right = (logits_of(module, records.x, 10).argmax(axis=1) == records.y).mean()
        print(f"accuracy on {name} {right:.4f}")
    target = make_target(TASK, Release(P), Access.RELEASE, auxiliary, lambda: module, noise_seed=options.seed)
    evaluators = fit_evaluators(
        Records(others.x[options.victims :], others.y[options.victims :]), TASK.bounds, options.seed
    )
    count = options.victims
    return Arena(target, members.take(np.arange(count)), others.take(np.arange(count)), evaluators)


def attack(row: Row, at: Arena, options: argparse.Namespace) -> Found:
    """Reconstruct members and nonmembers with one decoder."""
    victims, shown = np.concatenate([at.members.x, at.nonmembers.x]), at.behind(row.release)
    adversary = KnowledgeAlignment(decoder=row.decoder, epochs=options.epochs, repeats=row.repeats)  # type: ignore[arg-type]
    outputs = np.stack([shown.query(victims) for _ in range(row.repeats if shown.noisy else 1)])
    learner = at.behind(row.learnt or row.release)
    images = adversary.reconstruct_records(learner, outputs, options.seed, lambda _: None)
    half, labels = len(at.members), np.concatenate([at.members.y, at.nonmembers.y])
    votes = at.evaluators.identify(images) == labels[:, None]
    recognised = float((votes.sum(axis=1) > votes.shape[1] / 2)[:half].mean())
    return Found(each(images[:half], at.members.x), mse(images[half:], at.nonmembers.x), recognised)


def verdicts(found: dict[str, Found], class_mean: float, other_mean: float) -> dict[str, bool]:
    """Whether what is said above holds.

    Args:
        found: By row.
        class_mean: How far the members are from the mean of the adversary's records of their class.
        other_mean: Likewise of the nonmembers, some of whom are harder to draw than members for everybody.
    """
    error = {name: f.members for name, f in found.items()}
    exact = [row.name for row in ROWS if row.deterministic and row.name != "logits"]
    noise_gain = error[NAIVE] - error[ALL], error[ADAPTED] - error[ALL]
    back = {scale: undone(found, scale) for scale in SCALES}
    several, quiet = error[OFTEN.format(SCALES[-1])], error[QUIET]
    return {
        "all < top 3 < label": error[ALL] < error[TOP3] < error[LABEL],
        f"label within {CLOSE:.0%} of the class mean": abs(error[LABEL] / class_mean - 1) < CLOSE,
        "members like nonmembers, everywhere, over their class means": all(
            abs(f.members / f.nonmembers * other_mean / class_mean - 1) < ALIKE for f in found.values()
        ),
        f"not adapting overstates the noise {noise_gain[0] / noise_gain[1]:.1f} times": noise_gain[0]
        > 1.5 * noise_gain[1],
        "not adapted looks worse than no model at all": error[NAIVE] > class_mean,
        **{
            f"averaging 32 answers undoes {share:.1%} of gaussian {scale}, {errors:.1f} standard errors": errors > 3
            for scale, (share, errors) in back.items()
        },
        f"32 answers tell what one with their variance does: {several:.4f}, {quiet:.4f}": abs(several - quiet) < SAME,
        "defenses lie between all and label": all(
            error[ALL] - CHANCE <= error[name] <= error[LABEL] + CHANCE for name in exact
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="2,000 records of each kind: the table's shape alone")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--victims", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    at = arena(options.data, options)
    owned, y = at.target.auxiliary, at.members.y
    assert owned is not None
    means = np.stack([owned.x[owned.y == label].mean(axis=0) for label in range(10)])
    class_mean, other_mean = mse(means[y], at.members.x), mse(means[at.nonmembers.y], at.nonmembers.x)
    print(f"no model: global mean {mse(owned.x.mean(axis=0)[None], at.members.x):.4f} (reference .0674), ", end="")
    print(f"class mean {class_mean:.4f} (reference .0535)\n")
    print(f"{'release':34} {'reference':>9} {'members':>8} {'others':>8} {'over class mean':>15} {'recognised':>10}  s")
    found: dict[str, Found] = {}
    for row in ROWS:
        start = time.monotonic()
        found[row.name] = f = attack(row, at, options)
        reference = "" if row.reference is None else f"{row.reference:.4f}"
        print(
            f"{row.name:34} {reference:>9} {f.members:8.4f} {f.nonmembers:8.4f} {f.members / class_mean:15.3f} "
            f"{f.recognised:10.3f} {time.monotonic() - start:4.0f}",
            flush=True,
        )
    checks = verdicts(found, class_mean, other_mean)
    print()
    for words, holds in checks.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {words}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
