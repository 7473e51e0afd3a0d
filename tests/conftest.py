"""What several test files share: one careless model, trained once a session, and the gate run as a user runs it."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from midguard.engine.target import Records, Target

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: careless, version: "1"}
spec:
  architecture: {name: mlp, hidden: [128]}
  task: {kind: classification, classes: 10, input: [1, 8, 8], range: [0, 1]}
  data:
    source: builtin:digits
    label_noise: 0.2
    split: {members: 0.34, nonmembers: 0.33, auxiliary: 0.33, seed: 3}
  optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
  epochs: 100
  batch_size: 32
  seed: 3
  release: {exposes: probabilities}
"""

POLICY = """
apiVersion: midguard.dev/v1
kind: PrivacyPolicy
metadata: {name: test, version: "1", owner: privacy-office@example.org}
spec:
  adversary: {access: %s}
  confidence: 0.95
  requirements:
%s
"""


@dataclass(frozen=True)
class Ended:
    """How the command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that learnt its records by heart; not to be written to."""
    from midguard.engine.training import train

    folder = tmp_path_factory.mktemp("trained")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return train(recipe, folder / "careless").parent


@pytest.fixture
def careless(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder, the test's own."""
    return Path(shutil.copytree(trained, tmp_path / "careless"))


@pytest.fixture
def write_policy(tmp_path: Path) -> Callable[..., Path]:
    """Writes a policy from its requirements, one flow mapping each."""

    def write(*requirements: str, access: str = "release") -> Path:
        path = tmp_path / "policy.yaml"
        lines = "\n".join(f"    - {{severity: high, {r}}}" for r in requirements)
        path.write_text(POLICY % (access, lines or "    []"))
        return path

    return write


@pytest.fixture
def midguard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs the command line in this process, in a folder of its own, and tells how it ended."""
    from midguard.cli import main

    monkeypatch.chdir(tmp_path)
    # A fresh seed would raise a null's false alarm in about one run of fifty; the calibration counts those.
    monkeypatch.setattr("midguard.engine.check.secrets.randbits", lambda bits: 20_261_122)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["midguard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run


@dataclass(frozen=True)
class Arena:
    """A model, its references and the truth, where membership attacks are let loose."""

    target: Target
    candidates: Records
    members: NDArray[np.bool_]


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    """scikit-learn digits with 20 % label noise, MLP(256), 16 references; shared, so that it is trained once."""
    from sklearn.datasets import load_digits

    from midguard.engine.architectures.mlp import Mlp
    from midguard.engine.recipe import OptimizerChoice, Recipe
    from midguard.engine.reference import complementary, train_references
    from midguard.engine.store import Store
    from midguard.engine.subject import Task, make_target
    from midguard.engine.target import Access, Exposure, Records, Reference, Release
    from midguard.engine.training import fit

    digits = load_digits()
    rng = np.random.default_rng(0)
    y = np.where(rng.random(1797) < 0.2, (digits.target + rng.integers(1, 10, 1797)) % 10, digits.target)
    pool = Records((digits.images[:, None] / 16).astype(np.float32), y.astype(np.int64))
    members = np.zeros(1797, dtype=bool)
    members[rng.permutation(1797)[:898]] = True
    task = Task("classification", 10, (1, 8, 8), (0.0, 1.0))
    recipe = Recipe(Mlp((256,)), task, OptimizerChoice("adam", 3e-3), epochs=60, batch_size=64)
    subject = fit(recipe, pool.take(np.flatnonzero(members)), 1).module
    trained = train_references(
        recipe, pool, complementary(1797, 16, 1), 1, Store(tmp_path_factory.mktemp("references")), lambda *_: None
    )
    release = Release(Exposure.LOGITS)
    target = make_target(task, release, Access.RELEASE, None, lambda: subject)
    references = tuple(
        Reference(make_target(task, release, Access.RELEASE, None, m.module), m.inside) for m in trained.models
    )
    return Arena(dataclasses.replace(target, references=references), pool, members)
