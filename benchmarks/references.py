"""How fast reference models are trained, against the same models one after another as they are mostly trained.

    python benchmarks/references.py            # about 8 minutes on two quiet cores
    python benchmarks/references.py --quick    # about 3 minutes; starting processes weighs more in it

Both sides run on the whole machine, each in a process of its own, with the threads that they take by themselves, and
are timed by the wall clock. midguard's time is that of the whole call: measuring the ways, starting processes, writing
the models down. The plain loop's is that of its steps alone; it is timed before and after, and the faster one counts.
Ends in 1 where a case is too slow, and in 2 where others keep the machine busy: then nothing was measured.

The 26,010 parameters are the network of Opacus' MNIST example. The ratios depend on the processor: where eager's own
two threads share a convolution well, as on the two cores that this was last run on, the convolutional cases reach 1.5
to 1.8 and MLPs at batch 100 1.9, and the benchmark ends in 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

#: What would keep either side from the threads that it takes by itself.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: Steps of the plain loop that are not counted.
WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Case:
    """Models to be trained.

    Attributes:
        title: In the table.
        shape: Of one record.
        classes: How many.
        records: In the pool; each model gets half of them.
        models: How many.
        epochs: Of each.
        batch: Records a step.
        private: Whether by DP-SGD.
        deep: Of images: whether by the two wide convolutions of 3×3 instead of the network of Opacus' MNIST example.
        least: How many times as fast as the plain loop it must be.
    """

    title: str
    shape: tuple[int, ...]
    classes: int
    records: int
    models: int
    epochs: int
    batch: int
    private: bool
    least: float
    deep: bool = False

    def pool(self) -> tuple[Any, Any]:
        """Random records, binary or grey, under random labels. Returns: x `(n, *shape)` float32, y `(n,)` int64."""
        rng = np.random.default_rng(0)
        x = rng.random((self.records, *self.shape), dtype=np.float32)
        return (x if len(self.shape) == 3 else np.round(x)), rng.integers(0, self.classes, self.records)


CASES = {
    "mlp32": Case("64 MLPs 446-128-30, batch 32", (446,), 30, 5010, 64, 20, 32, False, 3.0),
    "mlp100": Case("64 MLPs 446-128-30, batch 100", (446,), 30, 5010, 64, 40, 100, False, 2.5),
    "cnn32": Case("16 CNNs 28×28 (16, 32), batch 32", (1, 28, 28), 10, 4000, 16, 20, 32, False, 3.0, deep=True),
    "cnn64": Case("16 CNNs 28×28 (16, 32), batch 64", (1, 28, 28), 10, 4000, 16, 20, 64, False, 3.0, deep=True),
    "small32": Case("16 CNNs 28×28 of 26,010, batch 32", (1, 28, 28), 10, 4000, 16, 20, 32, False, 3.0),
    "small64": Case("16 CNNs 28×28 of 26,010, batch 64", (1, 28, 28), 10, 4000, 16, 20, 64, False, 3.0),
    "dp": Case("64 DP-SGD MLPs 446-128-30, batch 64", (446,), 30, 5010, 64, 10, 64, True, 8.0),
}


# One side, in a process of its own


def plain(case: Case, seconds: float) -> dict[str, Any]:
    """The same models one after another, until the time is over."""
    import torch

    x, y = (torch.from_numpy(part) for part in case.pool())
    train = private_steps if case.private else plain_steps
    done, start = -WARM_UP, time.perf_counter()
    for number in count():
        torch.manual_seed(number)
        half = torch.randperm(len(x))[: len(x) // 2]
        for _ in train(case, network(case), x[half], y[half]):
            done += 1
            if done == 0:
                start = time.perf_counter()
            spent = time.perf_counter() - start
            if done > 0 and spent > seconds:
                return {"rate": done / spent, "method": f"{torch.get_num_threads()} threads", "peak": peak(0)}
    raise AssertionError("there is always one more model")


def network(case: Case) -> Any:
    """The network, as anybody would write it."""
    from torch import nn

    if len(case.shape) == 1:
        return nn.Sequential(nn.Linear(case.shape[0], 128), nn.ReLU(), nn.Linear(128, case.classes))
    if case.deep:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 64),
            nn.ReLU(),
            nn.Linear(64, case.classes),
        )
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.ReLU(),
        nn.Linear(32, case.classes),
    )


def plain_steps(case: Case, model: Any, x: Any, y: Any) -> Any:
    """Train one model; yields after each step."""
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()
    for _ in range(case.epochs):
        for index in torch.randperm(len(x)).split(case.batch):
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
            yield


def private_steps(case: Case, model: Any, x: Any, y: Any) -> Any:
    """Train one model by DP-SGD with Opacus' hooks; yields after each step."""
    import warnings

    import torch
    from opacus import PrivacyEngine

    warnings.simplefilter("ignore")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=case.batch)
    model, optimizer, loader = PrivacyEngine().make_private(
        module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0
    )
    loss = torch.nn.CrossEntropyLoss()
    for _ in range(case.epochs):
        for records, labels in loader:
            optimizer.zero_grad()
            loss(model(records), labels).backward()
            optimizer.step()
            yield


def midguard(case: Case) -> dict[str, Any]:
    """All of the models by midguard."""
    from joblib.externals.loky import get_reusable_executor

    from midguard.engine.architectures.cnn import Cnn
    from midguard.engine.architectures.mlp import Mlp
    from midguard.engine.architectures.mnist_cnn import MnistCnn
    from midguard.engine.defenses.dp_sgd import DpSgd
    from midguard.engine.recipe import OptimizerChoice, Recipe
    from midguard.engine.reference import complementary, train_references
    from midguard.engine.store import Store
    from midguard.engine.subject import Task
    from midguard.engine.target import Records

    convolutional = Cnn((16, 32), (64,)) if case.deep else MnistCnn()
    recipe = Recipe(
        Mlp((128,)) if len(case.shape) == 1 else convolutional,
        Task("classification", case.classes, case.shape, (0.0, 1.0)),
        OptimizerChoice("sgd", 0.05, 0.0 if case.private else 0.9),
        epochs=case.epochs,
        batch_size=case.batch,
        defense=DpSgd(noise_multiplier=1.0) if case.private else None,
    )
    pool, masks = Records(*case.pool()), complementary(case.records, case.models, 0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trained = train_references(recipe, pool, masks, 0, Store(Path(folder)), lambda *_: None)
        seconds = time.perf_counter() - start
    steps = case.models * case.epochs * -(-(case.records // 2) // case.batch)
    get_reusable_executor().shutdown(wait=True)
    found = re.search(r"in (\d+) processes", trained.method)
    memory = peak(int(found[1]) if found else 0)
    return {"rate": steps / seconds, "method": trained.method, "peak": memory, "seconds": seconds}


def peak(children: int) -> int:
    """Most memory that this process and so many children of it had at a time, in MiB, shared pages counted twice."""
    own, theirs = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return int((own + children * theirs) / 1024)


# Both sides


def run(side: str, name: str, quick: bool) -> dict[str, Any]:
    """One side of one case."""
    clean = {key: value for key, value in os.environ.items() if key not in THREADS}
    command = [sys.executable, __file__, "--side", side, "--case", name, *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=clean, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(name: str, quick: bool) -> bool:
    """Both sides of one case, as lines of the table. Returns: whether it is fast enough."""
    case = CASES[name]
    before, fast, after = (run(side, name, quick) for side in ("plain", "midguard", "plain"))
    slow = max(before, after, key=lambda found: found["rate"])
    ratio = fast["rate"] / slow["rate"]
    rates = f"{slow['rate']:9,.0f} {fast['rate']:9,.0f} {ratio:7.2f} {case.least:6.1f}"
    print(
        f"{case.title:37s} {rates} {slow['peak']:7,d} {fast['peak']:7,d}  {'' if ratio >= case.least else 'TOO SLOW'}"
    )
    print(f"    {fast['method']} ({fast['seconds']:.0f} s); plain: {slow['method']}", flush=True)
    return ratio >= case.least


def main() -> None:
    """Compare, or be one side of a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the epochs")
    parser.add_argument("--case", choices=CASES, help="this one alone")
    parser.add_argument("--least", nargs=len(CASES), type=float, help="ratios below which it fails, one a case")
    parser.add_argument("--side", choices=("plain", "midguard"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    for name, case in CASES.items():
        least = asked.least[list(CASES).index(name)] if asked.least else case.least
        epochs = max(1, case.epochs // 4) if asked.quick else case.epochs
        CASES[name] = replace(case, least=least, epochs=epochs)
    if asked.side:
        case = CASES[asked.case]
        print(json.dumps(plain(case, 3.0 if asked.quick else 10.0) if asked.side == "plain" else midguard(case)))
        return
    load = os.getloadavg()[0]
    busy = load > 0.5 * (os.cpu_count() or 1)
    print(f"{'':37s} {'plain':>9s} {'midguard':>9s}                {'MiB':>7s} {'MiB':>7s}")
    print(f"{'':37s} {'steps/s':>9s} {'steps/s':>9s} {'ratio':>7s} {'least':>6s} {'plain':>7s} {'midg.':>7s}")
    enough = [compare(name, asked.quick) for name in ([asked.case] if asked.case else CASES)]
    if busy:
        print(f"Others kept this machine busy (load {load:.1f} on {os.cpu_count()} cores): these ratios say nothing.")
    sys.exit(2 if busy else 0 if all(enough) else 1)


if __name__ == "__main__":
    main()
