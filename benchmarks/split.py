"""Split inference on MNIST: what Laplace noise on the activations keeps back, once and after 64 looks.

    python benchmarks/split.py ../shared/data/mnist.npz            # about 5 minutes on two quiet cores
    python benchmarks/split.py ../shared/data/mnist.npz --quick    # a fraction of the records: the table's shape alone

The file holds `x` (70000, 1, 28, 28) uint8 and `y`, the 60,000 training records first. The client has two convolutions
and a dense layer of 200 with tanh, the server the rest; both are trained together on 10,000 records with the noise that
the release adds (Titcombe et al. 2021, arXiv 2104.05743), in the last rows with half of the distance correlation of
records and activations in the loss (NoPeek, Vepakomma et al. 2020, arXiv 2008.09161). The adversary owns 5,000 of the
test records; 2,000 others are reconstructed by `inversion.split`. Accuracy is that of the server on noised activations.

`clean` is no attack: it is what the same decoder reaches on activations of the same model without noise. A public
evaluation of this defense gave its attack those, and found no use in the noise. It is computed here by a release
without noise, the only way there is. `ref.` is an earlier study on the same data.

Ends in 1 unless the error strictly increases with the noise, and 64 looks win back 80 % of it at b <= 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn

from midguard.attacks.inversion.split import Split
from midguard.engine.exposed import exposed_activations, noised_logits
from midguard.engine.subject import Task, make_target
from midguard.engine.target import Access, Exposure, Noise, NoiseKind, NoiseSource, Records, Release, Target

TASK = Task("classification", 10, (1, 28, 28), (0.0, 1.0))
LAYER, LOOKS = "cut", 64


@dataclass(frozen=True, slots=True)
class Setting:
    """What is added to the activations, and what weight their correlation with the record has in training."""

    b: float
    nopeek: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """What one setting came to: mean squared errors, and distance correlations with the record."""

    accuracy: float
    dcor_clean: float
    dcor_noised: float
    clean: float
    noised: float
    averaged: float

    @property
    def undone(self) -> float:
        """The share of the noise's cost that averaging wins back."""
        return (self.noised - self.averaged) / (self.noised - self.clean)


#: Of an earlier study.
REFERENCE = {
    Setting(0.0): Row(0.9545, 0.907, 0.907, 0.0255, 0.0255, 0.0255),
    Setting(0.1): Row(0.9460, 0.903, 0.902, 0.0253, 0.0262, 0.0253),
    Setting(0.5): Row(0.9350, 0.900, 0.884, 0.0263, 0.0351, 0.0265),
    Setting(1.0): Row(0.9120, 0.889, 0.804, 0.0278, 0.0453, 0.0287),
    Setting(2.0): Row(0.8485, 0.869, 0.642, 0.0317, 0.0581, 0.0347),
    Setting(5.0): Row(0.3700, 0.846, 0.475, 0.0396, 0.0764, 0.0523),
    Setting(0.0, 0.5): Row(0.9500, 0.777, 0.777, 0.0325, 0.0325, 0.0325),
    Setting(0.5, 0.5): Row(0.9335, 0.810, 0.797, 0.0315, 0.0422, 0.0318),
    Setting(1.0, 0.5): Row(0.9095, 0.844, 0.789, 0.0317, 0.0499, 0.0327),
}
#: Up to this noise averaging must win back this share of what the noise cost the adversary.
UP_TO, SHARE = 1.0, 0.8


@dataclass(frozen=True, slots=True)
class Parts:
    """Whose record is whose."""

    members: Records
    owned: Records
    victims: Records


def records(options: argparse.Namespace) -> Parts:
    with np.load(options.data) as file:
        x, y = file["x"].astype(np.float32) / 255, file["y"].astype(np.int64)
    members, owned, victims = (1000, 1000, 500) if options.quick else (10_000, 5000, 2000)
    parts = [slice(0, members), slice(60_000, 60_000 + owned), slice(65_000, 65_000 + victims)]
    return Parts(*(Records(x[part], y[part]) for part in parts))


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [
            ("conv1", nn.Conv2d(1, 8, 3, padding=1)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
            ("conv2", nn.Conv2d(8, 16, 3, padding=1)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
            ("flat", nn.Flatten()), ("dense", nn.Linear(16 * 49, 200)), ("cut", nn.Tanh()),
            ("hidden", nn.Linear(200, 64)), ("relu3", nn.ReLU()), ("output", nn.Linear(64, 10)),
        ]  # fmt: skip
        net = nn.Sequential()
        for name, part in parts:
            net.add_module(name, part)
    return net


def train(members: Records, setting: Setting, epochs: int, seed: int) -> nn.Sequential:
    """Both halves together, noise on what passes between them."""
    net, order, passed = network(seed), torch.Generator().manual_seed(seed), list[torch.Tensor]()
    x, y = torch.from_numpy(members.x), torch.from_numpy(members.y)
    noise = torch.distributions.Laplace(0.0, setting.b) if setting.b else None

    def noised(_: nn.Module, __: object, clean: torch.Tensor) -> torch.Tensor:
        passed[:] = [clean if noise is None else clean + noise.sample(clean.shape)]
        return passed[0]

    hook = net.get_submodule(LAYER).register_forward_hook(noised)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            for index in torch.randperm(len(x), generator=order).split(64):
                adam.zero_grad()
                loss = nn.functional.cross_entropy(net(x[index]), y[index])
                if setting.nopeek:
                    loss = loss + setting.nopeek * distance_correlation(x[index].flatten(1), passed[0])
                loss.backward()
                adam.step()
    hook.remove()
    return net.eval().requires_grad_(False)


def distance_correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """With true distances (Szekely et al. 2007); squared ones would measure something else."""

    def centred(v: torch.Tensor) -> torch.Tensor:
        # An exact 0 on the diagonal would have an infinite slope.
        d = ((v[:, None] - v[None]).square().sum(dim=2) + 1e-12).sqrt()
        return d - d.mean(dim=0) - d.mean(dim=1)[:, None] + d.mean()

    first, second = centred(a), centred(b)
    return ((first * second).mean() / (first.square().mean() * second.square().mean()).sqrt()).clamp_min(1e-12).sqrt()


def release(b: float) -> Release:
    return Release(Exposure.ACTIVATIONS, layer=LAYER, noise=Noise(NoiseKind.LAPLACE, b) if b else None)


def error(target: Target, victims: Records, looks: int, options: argparse.Namespace) -> float:
    attack = Split(repeats=looks, epochs=options.epochs, victims=len(victims))
    outputs = np.stack([target.observe(victims.x) for _ in range(looks if target.release.noisy else 1)])
    images = attack.reconstruct_records(target, outputs, options.seed, lambda _: None)
    return float(((images.astype(np.float64) - victims.x) ** 2).mean())


def row(setting: Setting, options: argparse.Namespace) -> Row:
    """Train, attack three times. The clean path is computed here alone."""
    torch.set_num_threads(1)
    at, b = records(options), setting.b
    net = train(at.members, setting, options.training, options.seed)

    def behind(noise: float) -> Target:
        return make_target(TASK, release(noise), Access.RELEASE, at.owned, lambda: net, noise_seed=options.seed)

    right = noised_logits(net, release(b), at.victims.x, NoiseSource(3)).argmax(axis=1) == at.victims.y
    clean = error(behind(0.0), at.victims, 1, options)
    once, often = (error(behind(b), at.victims, looks, options) if b else clean for looks in (1, LOOKS))
    some = at.victims.x[:500]
    seen = [exposed_activations(net, release(noise), some, NoiseSource(4)) for noise in (0.0, b)]
    sample = torch.from_numpy(some).flatten(1).double()
    correlations = [float(distance_correlation(sample, torch.from_numpy(z))) for z in seen]
    return Row(float(right.mean()), correlations[0], correlations[1], clean, once, often)


def line(setting: Setting, found: Row) -> str:
    known = REFERENCE[setting]
    pairs = [
        f"{getattr(found, name):.4f} ({getattr(known, name):.4f})"
        for name in ("accuracy", "clean", "noised", "averaged")
    ]
    pairs[1:1] = [f"{getattr(found, n):.3f} ({getattr(known, n):.3f})" for n in ("dcor_clean", "dcor_noised")]
    undone = f"{found.undone:5.0%} ({known.undone:4.0%})" if setting.b else ""
    return f"{setting.b:4.1f} {setting.nopeek:6.1f}  " + "  ".join(f"{pair:>15}" for pair in pairs) + f"  {undone:>12}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tenth of the records: the table's shape alone")
    parser.add_argument("--epochs", type=int, default=25, help="of the adversary's decoder, at most")
    parser.add_argument("--training", type=int, default=4, help="epochs of the split model")
    parser.add_argument("--only", type=float, nargs="+", help="these sizes of noise alone, without NoPeek")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # each row has one core for itself
    settings = [s for s in REFERENCE if options.only is None or (s.b in options.only and not s.nopeek)]
    at = records(options)
    means = np.stack([at.owned.x[at.owned.y == label].mean(axis=0) for label in range(10)])
    print(f"no model: global mean {((at.owned.x.mean(0) - at.victims.x) ** 2).mean():.4f} (ref. .0716), ", end="")
    print(f"class mean {((means[at.victims.y] - at.victims.x) ** 2).mean():.4f} (ref. .0557)\n")
    titles = ("accuracy (ref.)", "dCor(x, z)", "dCor(x, z~)", "clean", "noised", f"{LOOKS} looks")
    print("   b NoPeek  " + "  ".join(f"{title:>15}" for title in titles) + "  undone (ref.)", flush=True)
    found, start = dict[Setting, Row](), time.monotonic()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for setting, one in zip(settings, pool.map(row, settings, [options] * len(settings)), strict=True):
            found[setting] = one
            print(line(setting, one), flush=True)
    plain = [one for setting, one in found.items() if not setting.nopeek]
    rising = all(a.noised < b.noised for a, b in pairwise(plain))
    undone = all(one.undone >= SHARE for setting, one in found.items() if 0 < setting.b <= UP_TO)
    print(f"\n{'holds' if rising else 'DOES NOT HOLD'}: the error strictly increases with the noise")
    print(f"{'holds' if undone else 'DOES NOT HOLD'}: {LOOKS} looks win back {SHARE:.0%} of it at b <= {UP_TO:g}")
    print(f"{time.monotonic() - start:.0f} s")
    return 0 if rising and undone else 1


if __name__ == "__main__":
    sys.exit(main())
