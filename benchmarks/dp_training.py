"""What a step of DP-SGD costs over one of plain SGD: midguard's, and those of Opacus.

    python benchmarks/dp_training.py            # about 6 minutes on two quiet cores
    python benchmarks/dp_training.py --quick    # about 2 minutes, one thread alone

A step is everything from the positions of a batch's records to the weights after it: taking the records, forward,
backward, clipping, noise, the optimiser. All sides get the same positions of records in memory. midguard's noise is
from ChaCha20 in double precision on a fixed grid, Opacus' from torch's generator. All sides take turns in one process,
in short blocks, and a ratio is that of the best blocks: whoever else uses the machine slows down some blocks of every
side. Peak memory is that of a process of its own that takes a few steps, imports included, and in brackets what of it
is beyond them.

Ends in 1 where a limit is broken: on one thread over plain SGD (`LIMITS`), below every peer in every cell, and at the
largest batch no more than 1.3 times the memory of plain SGD.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

BATCHES = (64, 256, 1024)
SIDES = ("plain", "midguard", "hooks", "ghost", "functorch")
#: By network: what a step may cost over plain SGD's, one batch size after the other.
LIMITS = {"mlp": (1.8, 1.6, 1.55), "cnn": (1.6, 1.7, 1.95)}
MEMORY = 1.3
NOISE, NORM = 1.1, 1.0
#: Seconds that one block of steps should take, how many turns there are, and in how many of them the peers, which are
#: far away, take one.
BLOCK, TURNS, PEERS = 0.03, 60, 20
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is trained.

    Attributes:
        title: In the table.
        shape: Of one record.
        classes: How many.
    """

    title: str
    shape: tuple[int, ...]
    classes: int

    def build(self) -> Any:
        """The module, as anybody would write it."""
        from torch import nn

        if len(self.shape) == 1:
            return nn.Sequential(nn.Linear(self.shape[0], 128), nn.ReLU(), nn.Linear(128, self.classes))
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
            nn.Linear(32, self.classes),
        )


NETWORKS = {"mlp": Network("MLP 600-128-100", (600,), 100), "cnn": Network("MNIST CNN, 26,010", (1, 28, 28), 10)}


# One side's step


@dataclass(slots=True)
class Batches:
    """Batches of records in memory, one after the other.

    Attributes:
        x: `(n, *shape)`.
        y: `(n,)`.
        size: Records in each.
        number: How many were taken.
    """

    x: Any
    y: Any
    size: int
    number: int = 0
    order: Any = None

    def __post_init__(self) -> None:
        import torch

        self.order = torch.randperm(len(self.x)).split(self.size)

    def __call__(self) -> tuple[Any, Any]:
        """The next one."""
        index = self.order[self.number % len(self.order)]
        self.number += 1
        return self.x[index], self.y[index]


def plain(network: Network, take: Batches) -> Step:
    """Plain SGD, as anybody writes it."""
    import torch

    model, loss = network.build(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step() -> None:
        x, y = take()
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


def midguard(network: Network, take: Batches) -> Step:
    """DP-SGD as midguard trains; every record is in every sample, so that each step has as many."""
    import torch

    from midguard.engine.defenses import Setting
    from midguard.engine.defenses.dp_sgd import DpSgd

    model = network.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    setting = Setting(model, optimizer, torch.rand(6, *network.shape), take.size, take.size, epochs=1_000_000)
    run = DpSgd(noise_multiplier=NOISE, clipping_norm=NORM, delta=1e-9).protect(setting)
    samples = (sample for _ in count() for sample in run.batches())

    def step() -> None:
        next(samples)  # of as many records as are then taken
        run.step(*take())

    return step


def opacus(mode: str, network: Network, take: Batches) -> Step:
    """DP-SGD as its users write it, in one of Opacus' modes."""
    import torch
    from opacus import PrivacyEngine

    model, loss = network.build(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(take.x, take.y), batch_size=take.size)
    more = {"criterion": loss} if mode == "ghost" else {}
    model, optimizer, *between, _ = PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=NOISE,
        max_grad_norm=NORM,
        grad_sample_mode=mode,
        poisson_sampling=False,
        **more,
    )
    criterion = between[0] if mode == "ghost" else loss

    def step() -> None:
        x, y = take()
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    return step


def step_of(side: str, network: Network, batch: int) -> Step:
    """One side's step on a batch of random records."""
    import torch

    x, y = torch.rand(4 * batch, *network.shape), torch.randint(0, network.classes, (4 * batch,))
    take = Batches(x, y, batch)
    if side == "plain":
        return plain(network, take)
    return midguard(network, take) if side == "midguard" else opacus(side, network, take)


# A process of its own


def timed(step: Step, times: int) -> float:
    """Seconds a step over a block: of the processor's time for one thread, of the clock's for several."""
    import torch

    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(times):
        step()
    return (clock() - start) / times


def times(name: str, batch: int, turns: int) -> dict[str, float]:
    """Each side's milliseconds a step in its best block."""
    steps = {side: step_of(side, NETWORKS[name], batch) for side in SIDES}
    sizes = {}
    for side, step in steps.items():
        step()
        sizes[side] = max(1, int(BLOCK / min(timed(step, 1) for _ in range(3))))
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(turns):
        for side, step in steps.items():
            if turn % PEERS == 0 or side in ("plain", "midguard"):
                for _ in range(min(3, sizes[side])):
                    step()  # whatever the one before left in the cache is not its own
                found[side].append(timed(step, sizes[side]))
    return {side: 1e3 * min(own) for side, own in found.items()}


def memory(name: str, batch: int, side: str) -> dict[str, float]:
    """MiB at the peak of a few steps, and how many of them are beyond what the imports took."""
    import torch

    torch.set_num_threads(1)
    step_of(side, NETWORKS[name], 8)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = step_of(side, NETWORKS[name], batch)
    for _ in range(5):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": after / 1024, "own": (after - before) / 1024}


def apart(threads: int, *arguments: str) -> Any:
    """What this file says in a process of its own with so many threads."""
    clean = os.environ | dict.fromkeys(THREADS, str(threads))
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=clean, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


# The table


def compare(name: str, threads: int, batch: int, limit: float, turns: int) -> bool:
    """One line of the table of times. Returns: whether midguard is within its limit and below every peer."""
    found = apart(threads, "--times", name, str(batch), "--turns", str(turns))
    ratio = {side: found[side] / found["plain"] for side in SIDES}
    enough = ratio["midguard"] <= (limit if threads == 1 else float("inf"))
    enough = enough and all(ratio["midguard"] < ratio[side] for side in SIDES[2:])
    line = " ".join(f"{ratio[side]:9.2f}" for side in SIDES[1:])
    wanted = f"{limit:6.2f}" if threads == 1 else "      "
    print(f"{NETWORKS[name].title:18s} {threads:7d} {batch:6d} {found['plain']:9.2f} {line} {wanted}", end="")
    print("" if enough else "  TOO SLOW", flush=True)
    return enough


def weigh(name: str, batch: int, sides: tuple[str, ...]) -> bool:
    """One line of the table of memory. Returns: whether midguard is within its limit."""
    found = {side: apart(1, "--memory", name, str(batch), side) for side in sides}
    enough = bool(found["midguard"]["peak"] <= MEMORY * found["plain"]["peak"])
    enough = enough and all(found["midguard"]["peak"] < found[side]["peak"] for side in sides[2:])
    line = " ".join(f"{found[side]['peak']:6.0f} ({found[side]['own']:4.0f})" for side in sides)
    print(f"{NETWORKS[name].title:18s} {batch:6d} {line}{'' if enough else '  TOO MUCH'}", flush=True)
    return enough


def main() -> None:
    """Compare, or be one side of a comparison."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one thread alone, fewer turns")
    parser.add_argument("--turns", type=int, default=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--times", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.times:
        print(json.dumps(times(asked.times[0], int(asked.times[1]), asked.turns)))
        return
    if asked.memory:
        print(json.dumps(memory(asked.memory[0], int(asked.memory[1]), asked.memory[2])))
        return
    print("Step time over plain SGD's, with noise")
    print(f"{'':18s} {'threads':>7s} {'batch':>6s} {'plain ms':>9s} {' '.join(f'{s:>9s}' for s in SIDES[1:])}  limit")
    turns = TURNS // 2 if asked.quick else TURNS
    enough = [
        compare(name, threads, batch, LIMITS[name][i], turns)
        for threads in ((1,) if asked.quick else (1, 2))
        for name in NETWORKS
        for i, batch in enumerate(BATCHES)
    ]
    print("\nPeak memory in MiB, and in brackets what of it is beyond the imports; one thread")
    print(f"{'':18s} {'batch':>6s} {' '.join(f'{side:>13s}' for side in SIDES)}")
    enough += [weigh(name, BATCHES[-1], SIDES) for name in NETWORKS]
    load = os.getloadavg()[0]
    if load > 1.5 * (os.cpu_count() or 1):
        print(f"Others kept this machine busy (load {load:.1f}): times are not to be kept, ratios may be off.")
    sys.exit(0 if all(enough) else 1)


if __name__ == "__main__":
    main()
