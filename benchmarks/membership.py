"""Membership attacks side by side, on the same subject and the same reference models.

    python benchmarks/membership.py --peers FOLDER
        scikit-learn digits, 20 % label noise, MLP(256), 16 references, 5 seeds; midguard beside PrivacyGuard, SACRO-ML
        and ART, which are installed into that folder (benchmarks/requirements.txt) unless they are there already.
    python benchmarks/membership.py --data mnist --references 1,2,4,8,16,60 --seeds 1 --store .midguard/benchmark
        What each attack makes of how many reference models, on 20,000 records. With --store a run that was broken off
        goes on where it was.

Every method gets the answers that the models were found to give, and no other; its seconds are what it takes to turn
them into scores, in CPU time. A method that could not run is listed with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midguard.engine import registry
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.recipe import OptimizerChoice, Recipe
from midguard.engine.reference import Trained, complementary, train_references
from midguard.engine.shift import shift_test
from midguard.engine.store import Store, key
from midguard.engine.subject import Task, content_digest, logits_of, make_target
from midguard.engine.target import Access, Exposure, Records, Reference, Release, Target
from midguard.engine.training import fit

HERE = Path(__file__).resolve().parent
#: Where the development data are; --folder says otherwise.
SHARED = HERE.parents[1] / "shared" / "data"
FPRS = (0.01, 0.001)
LOGITS = Release(Exposure.LOGITS)
OURS = "midguard"
#: What the peers call themselves, by what their packages are called.
PEERS = {
    "adversarial-robustness-toolbox": "ART",
    "privacyguard-platform": "PrivacyGuard",
    "sacroml": "SACRO-ML",
}

#: Our attacks, by what a row is called: the plugin and its parameters; whether it needs reference models.
ATTACKS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "loss threshold": ("membership.loss", {}, False),
    "quantile": ("membership.quantile", {}, False),
    "attack R": ("membership.attack_r", {}, True),
    "shadow": ("membership.shadow", {}, True),
    "RMIA offline": ("membership.rmia", {"online": False}, True),
    "RMIA online": ("membership.rmia", {"online": True}, True),
    "LiRA offline": ("membership.lira", {"online": False}, True),
    "LiRA online": ("membership.lira", {"online": True}, True),
    "BaVarIA": ("membership.bavaria", {}, True),
}


# What is attacked


@dataclass(frozen=True)
class Arena:
    """Records, which of them are members, and how a model is trained on them.

    Attributes:
        name: Of the data and the seed.
        pool: Members and nonmembers, in an order that says nothing.
        members: `(n,)` bool.
        auxiliary: Records beside the pool; `None` for none.
        recipe: How the subject and the references are trained.
    """

    name: str
    pool: Records
    members: NDArray[np.bool_]
    auxiliary: Records | None
    recipe: Recipe


def digits(seed: int, folder: Path) -> Arena:
    """scikit-learn's digits with every fifth label wrong, 898 members, 899 nonmembers.

    Adam at 1e-3 on batches of 200, as scikit-learn's MLPClassifier does it by default, for as many epochs as bring the
    accuracy on the members to .86, of which the labels that are right are .8: past the digits, into the noise.
    """
    from sklearn.datasets import load_digits

    data, rng = load_digits(), np.random.default_rng(seed)
    noisy = rng.random(len(data.target)) < 0.2
    y = np.where(noisy, (data.target + rng.integers(1, 10, len(noisy))) % 10, data.target)
    pool = records((data.images[:, None] / 16), y)
    task = Task("classification", 10, (1, 8, 8), (0.0, 1.0))
    recipe = Recipe(Mlp((256,)), task, OptimizerChoice("adam", 1e-3), epochs=280, batch_size=200)
    return Arena(f"digits-{seed}", pool, half(len(pool), rng), None, recipe)


def mnist(seed: int, folder: Path) -> Arena:
    """20,000 of MNIST's digits, half of them members, and 5,000 beside them. Dealt out at random: in their own order
    the first ten thousand and the next are by other writers, which the shift test sees."""
    with np.load(folder / "mnist.npz") as data:
        x, y = data["x"], data["y"]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    taken = [records(x[part].reshape(-1, 1, 28, 28) / 255, y[part]) for part in (order[:20_000], order[20_000:25_000])]
    task = Task("classification", 10, (1, 28, 28), (0.0, 1.0))
    recipe = Recipe(Cnn((16, 32)), task, OptimizerChoice("adam", 1e-3), epochs=6, batch_size=64)
    return Arena(f"mnist-{seed}", taken[0], half(20_000, rng), taken[1], recipe)


def location30(seed: int, folder: Path) -> Arena:
    """5,010 persons' places (Shokri et al. 2017), half of them members."""
    with np.load(folder / "location30.npz") as data:
        pool = records(data["x"], data["y"])
    rng = np.random.default_rng(seed)
    pool = pool.take(rng.permutation(len(pool)))
    task = Task("classification", 30, (446,), (0.0, 1.0))
    recipe = Recipe(Mlp((128,)), task, OptimizerChoice("adam", 1e-3), epochs=30, batch_size=64)
    return Arena(f"location30-{seed}", pool, half(len(pool), rng), None, recipe)


DATA = {"digits": digits, "mnist": mnist, "location30": location30}


def records(x: NDArray[Any], y: NDArray[Any]) -> Records:
    return Records(np.ascontiguousarray(x, dtype=np.float32), np.asarray(y, dtype=np.int64))


def half(n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    members = np.zeros(n, dtype=bool)
    members[rng.permutation(n)[: n // 2]] = True
    return members


# The models


@dataclass(frozen=True)
class Scene:
    """A subject, its reference models, and what they answer on the pool.

    Attributes:
        arena: The records.
        subject: The subject, one model that is not among the references.
        trained: The references.
        alone: CPU seconds that training one such model by itself took; NaN where it was not measured.
        answers: What models were found to answer beside the pool, by their names.
    """

    arena: Arena
    subject: Trained
    trained: Trained
    alone: float
    answers: dict[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    @property
    def logits(self) -> NDArray[np.float32]:
        return self.subject.models[0].logits

    def accuracy(self, of: NDArray[np.bool_]) -> float:
        return float((self.logits.argmax(axis=1) == self.arena.pool.y)[of].mean())

    def beside(self, model: Any) -> NDArray[np.float64]:
        """What a model answers on the records beside the pool, asked once."""
        if model.name not in self.answers:
            self.answers[model.name] = logits_of(model.module(), self.arena.auxiliary.x, self.arena.recipe.task.classes)
        return self.answers[model.name]

    def target(self, references: int) -> Target:
        """What an attack gets; every answer is known already."""
        arena = self.arena

        def answering(model: Any) -> Target:
            known = [(arena.pool.x, model.logits.astype(np.float64))]
            if arena.auxiliary is not None:
                known.append((arena.auxiliary.x, self.beside(model)))
            return make_target(arena.recipe.task, LOGITS, Access.RELEASE, arena.auxiliary, model.module, known)

        given = tuple(Reference(answering(model), model.inside) for model in self.trained.models[:references])
        return dataclasses.replace(answering(self.subject.models[0]), references=given)


def prepare(arena: Arena, count: int, store: Store, workers: int | None) -> Scene:
    """Train the subject and its references, or take them from the store."""
    subject = train_references(arena.recipe, arena.pool, arena.members[None], 1, store, progress, workers)
    masks = complementary(len(arena.pool), count, 2)
    trained = train_references(arena.recipe, arena.pool, masks, 3, store, progress, workers)
    alone = math.nan
    if trained.reused < count:
        started = time.process_time()
        fit(arena.recipe, arena.pool.take(np.flatnonzero(arena.members)), 1)
        alone = time.process_time() - started
    return Scene(arena, subject, trained, alone)


def progress(what: str, share: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{what} {share:4.0%} ", end="", file=sys.stderr, flush=True)


def describe(scene: Scene) -> str:
    arena, trained = scene.arena, scene.trained
    shift = shift_test(
        arena.pool.take(np.flatnonzero(arena.members)), arena.pool.take(np.flatnonzero(~arena.members)), 0
    )
    line = (
        f"{arena.name}: {arena.members.sum()} members, {(~arena.members).sum()} nonmembers (shift p = {shift.p:.2g}), "
        f"accuracy {scene.accuracy(arena.members):.3f} / {scene.accuracy(~arena.members):.3f}; {len(trained.models)} "
        f"references, {trained.reused} of them from the store"
    )
    if trained.reused:
        return line
    rest = f", the same one by one {scene.alone * len(trained.models):.1f} s of CPU time"
    return f"{line}, {trained.seconds:.1f} s ({trained.method}){rest}"


# The scores and what they are worth


@dataclass(frozen=True)
class Row:
    """One method on one subject.

    Attributes:
        by: Whose method.
        method: Its name.
        references: How many reference models it was given.
        figures: AUC, then TPR at each of FPRS; empty where it did not run.
        seconds: CPU time of scoring.
        failed: Why it did not run.
    """

    by: str
    method: str
    references: int
    figures: tuple[float, ...] = ()
    seconds: float = math.nan
    failed: str = ""


def worth(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[float, ...]:
    """AUC, ties counted half, and the share of members above the threshold that so many nonmembers exceed at most."""
    from scipy.stats import rankdata

    inside, outside = scores[members], np.sort(scores[~members])[::-1]
    m, n = len(inside), len(outside)
    auc = (rankdata(scores)[members].sum() - m * (m + 1) / 2) / (m * n)
    return float(auc), *(float((inside > outside[math.floor(fpr * n)]).mean()) for fpr in FPRS)


def ours(scene: Scene, count: int, store: Store) -> Iterator[Row]:
    """Every attack of ours with so many references; with none, those that need none."""
    for method, (name, parameters, needs) in ATTACKS.items():
        if needs is (count > 0):
            yield our_row(scene, count, store, method, name, parameters | ({"references": count} if needs else {}))


def our_row(scene: Scene, count: int, store: Store, method: str, name: str, parameters: dict[str, Any]) -> Row:
    arena = scene.arena
    entry = key(
        {"benchmark": "membership", "arena": arena.name, "pool": content_digest(arena.pool), "attack": name}
        | {"parameters": parameters, "models": [m.name for m in (*scene.subject.models, *scene.trained.models[:count])]}
    )
    kept = store.get(entry)
    if kept is not None:
        plain = json.loads(kept)
        return Row(OURS, method, count, tuple(plain["figures"]), plain["seconds"])
    try:
        attack, target = registry.load("attacks", name)(**parameters), scene.target(count)
        started = time.process_time()
        scores = attack.score(target, arena.pool, 0, lambda share: progress(method, share))
        seconds = time.process_time() - started
        if np.isnan(scores).any():
            raise ValueError(f"{np.isnan(scores).sum()} records without a score")
    except Exception as error:  # a method that fails is a row of the table
        return Row(OURS, method, count, failed=f"{type(error).__name__}: {error}")
    row = Row(OURS, method, count, worth(scores, arena.members), seconds)
    store.put(entry, json.dumps({"figures": row.figures, "seconds": seconds}).encode())
    return row


def theirs(scenes: list[Scene], count: int, python: Path, skip: str) -> Iterator[Row]:
    """Every method of the peers with so many references, run in their own environment."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{scene.arena.name}.npz" for scene in scenes]
        for scene, file in zip(scenes, files, strict=True):
            models = scene.trained.models[:count]
            np.savez(
                file, members=scene.arena.members, y=scene.arena.pool.y, subject=scene.logits.astype(np.float64),
                references=np.stack([model.logits for model in models]).astype(np.float64),
                inside=np.stack([model.inside for model in models]),
            )  # fmt: skip
        out = Path(folder) / "scores.npz"
        subprocess.run(
            [python, HERE / "_peers.py", skip, *files, out], check=True, stdout=subprocess.DEVNULL, cwd=folder
        )
        members = {scene.arena.name: scene.arena.members for scene in scenes}
        with np.load(out) as scores:
            for told in json.loads(Path(f"{out}.json").read_text()):
                by = f"{PEERS[told['package']]} {told.get('version', '')}".strip()
                if "failed" in told:
                    yield Row(by, told["method"], count, failed=told["failed"])
                    continue
                found = scores["|".join((told["package"], told["method"], told["case"]))]
                yield Row(by, told["method"], count, worth(found, members[told["case"]]), told["seconds"])


def environment(folder: Path) -> Path:
    """The Python of the peers' environment, made where it is missing. Raises: CalledProcessError."""
    wanted = hashlib.sha256((HERE / "requirements.txt").read_bytes()).hexdigest()
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing the peers into {folder}", file=sys.stderr)
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", HERE / "requirements.txt"], check=True)
    stamp.write_text(wanted)
    return python


# The table


def print_table(rows: list[Row]) -> None:
    """Mean and standard deviation over the seeds, one line for each method and number of references."""
    base = {n: mean(row.seconds for row in group) for (_, method, n), group in grouped(rows) if method == "LiRA online"}
    heads = ("AUC", *(f"TPR@{fpr:.1%}" for fpr in FPRS))
    print(f"{'':52} refs  " + " ".join(f"{head:14}" for head in heads) + "   CPU s  / LiRA")
    for (by, method, references), group in grouped(rows):
        name = f"{f'{by}: {method}':52} {references:4}  "
        ran = [row for row in group if not row.failed]
        if ran:
            cells = " ".join(cell([row.figures[i] for row in ran]) for i in range(len(heads)))
            took = mean(row.seconds for row in ran)
            ratio = f"{took / base[references]:8.1f}" if references in base else ""
            print(f"{name}{cells} {took:8.2f}{ratio}")
        for why in dict.fromkeys(row.failed for row in group if row.failed):
            print(f"{name}not run: {why}")


def cell(values: list[float]) -> str:
    """Mean and standard deviation, where there is one."""
    return f"{np.mean(values):6.4f} " + (f"± {np.std(values, ddof=1):.4f}" if len(values) > 1 else " " * 8)


def print_comparison(rows: list[Row]) -> None:
    """The best of ours against the best of the others, figure by figure, over the same seeds."""
    for i, figure in enumerate(("AUC", *(f"TPR at {fpr:.1%} FPR" for fpr in FPRS))):
        best = {}
        for (by, method, references), group in grouped(rows):
            if all(not row.failed for row in group):
                values = np.array([row.figures[i] for row in group])
                side = by == OURS
                if side not in best or values.mean() > best[side][0].mean():
                    best[side] = (values, f"{by} {method} ({references})")
        if len(best) < 2:
            return
        (mine, first), (other, second) = best[True], best[False]
        gap = mine - other
        doubt = f" ± {gap.std(ddof=1) / math.sqrt(len(gap)):.4f} s.e." if len(gap) > 1 else ""
        print(f"{figure}: {first} {mine.mean():.4f}, {second} {other.mean():.4f}: {gap.mean():+.4f}{doubt}")


def grouped(rows: list[Row]) -> Iterable[tuple[tuple[str, str, int], list[Row]]]:
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.by, row.method, row.references), []).append(row)
    return groups.items()


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


@contextmanager
def kept(folder: Path | None) -> Iterator[Store]:
    """The store there, or one that is thrown away."""
    if folder is not None:
        yield Store(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Store(Path(temporary))


def main() -> None:
    options = arguments()
    budgets = sorted(options.references)
    with kept(options.store) as store:
        scenes, rows = [], []
        for seed in range(options.seeds):
            arena = DATA[options.data](seed, options.folder)
            scene = prepare(arena, budgets[-1], store, options.workers)
            print(describe(scene), flush=True)
            scenes.append(scene)
            for count in (0, *budgets):
                rows += ours(scene, count, store)
        if options.peers is not None:
            rows += peers(scenes, budgets[-1], options.peers, options.skip)
        print()
        print_table(sorted(rows, key=lambda row: (row.by != OURS, row.references)))
        print()
        print_comparison(rows)


def peers(scenes: list[Scene], count: int, folder: Path, skip: str) -> list[Row]:
    """The peers' rows, or one that says why there are none."""
    try:
        return list(theirs(scenes, count, environment(folder.resolve()), skip))
    except (OSError, subprocess.SubprocessError) as error:
        return [Row("the peers", "all", count, failed=f"{type(error).__name__}: {error}")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts: Callable[[str], list[int]] = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--references", type=counts, default=[16], help="how many, as in 1,2,4,8,16,60")
    parser.add_argument("--seeds", type=int, default=5, help="subjects, each with records and references of its own")
    parser.add_argument("--store", type=Path, help="keep the models here, to go on from")
    parser.add_argument("--folder", type=Path, default=SHARED, help="where mnist.npz and location30.npz are")
    parser.add_argument("--workers", type=int, help="processes that train; one for each core if not said")
    parser.add_argument("--skip", default="", help="leave out the peers' methods with this word in their name")
    side = parser.add_mutually_exclusive_group(required=True)
    side.add_argument("--peers", type=Path, help="folder of the peers' environment; made where it is missing")
    side.add_argument("--without-peers", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
