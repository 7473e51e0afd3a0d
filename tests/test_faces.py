"""The gate on photographs of people: a model gives its training faces away, and the distance alone would not tell.

Forty people of the ORL faces, ten photographs each, 56 x 46: seven train a softmax regression, one is the adversary's,
two are held out. Everything is seeded, so that nothing here alarms by chance: where a null is held against 0, another
seed would leave it in fewer than 5 of 100 runs, the policy's own error.
"""

from __future__ import annotations

import html
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from midguard.attacks.inversion.gradient import Gradient
from midguard.attacks.inversion.mi_face import MIFace
from midguard.engine.attack import ClassInversion
from midguard.engine.check import Checked, check
from midguard.engine.judges import nearest_identity
from midguard.engine.subject import load_module, load_records, load_subject, make_target
from midguard.engine.target import Access, Records, Target
from midguard.engine.training import train
from midguard.reports.bundle import Bundle, write_bundle

from .conftest import Ended

ORL = Path(__file__).parents[2] / "shared" / "data" / "orl_faces.npz"
PEOPLE = np.arange(40)
SEED = 7

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: faces, version: "1"}
spec:
  architecture: {name: linear}
  task: {kind: classification, classes: 40, input: [1, 56, 46], range: [0, 1]}
  data:
    members: {file: members.npz}
    nonmembers: {file: nonmembers.npz}
    auxiliary: {file: auxiliary.npz}
  optimizer: {name: sgd, lr: 0.05, momentum: 0.9}
  epochs: 100
  batch_size: 32
  seed: 3
  release: {exposes: probabilities}
"""

POLICY = """
apiVersion: midguard.dev/v1
kind: PrivacyPolicy
metadata: {name: faces, version: "1", owner: privacy-office@example.org}
spec:
  adversary: {access: weights}
  requirements:
    - {id: recognised, measure: inversion.identification, severity: critical, max: 0.10, attacks: [inversion.gradient]}
    - id: plainly
      measure: inversion.identification
      severity: critical
      max: 0.10
      attacks: [{name: inversion.mi_face, alpha: 1000}]
    - id: distance
      measure: inversion.distance
      at: {metric: mse, quantile: 0.5}
      severity: high
      min: 0.75
      attacks: [inversion.gradient]
"""

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not ORL.exists(), reason="needs ../shared/data/orl_faces.npz, which is not beside this folder"),
]


@dataclass(frozen=True)
class Faces:
    """What one check of the face model left.

    Attributes:
        folder: With `policy.yaml` and the store of raw outcomes, `store`.
        model: The model file.
        checked: What the check came to.
        bundle: The reports.
        seconds: Of the check alone.
        peak: Most memory this process has held, bytes.
    """

    folder: Path
    model: Path
    checked: Checked
    bundle: Bundle
    seconds: float
    peak: int

    def finding(self, name: str) -> dict[str, Any]:
        return next(f for f in self.evidence["findings"] if f["id"] == name)

    def figure(self, attack: str) -> dict[str, Any]:
        return next(f for f in self.evidence["figures"]["distances"] if f["attack"] == attack)

    @property
    def evidence(self) -> dict[str, Any]:
        return dict(self.checked.evidence)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """Train, check and report, once for this file."""
    folder = tmp_path_factory.mktemp("faces")
    write_photographs(folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "policy.yaml").write_text(POLICY)
    model = train(folder / "recipe.yaml", folder / "model")
    start = time.perf_counter()
    checked = check(folder / "policy.yaml", model, seed=SEED, store=folder / "store")
    seconds = time.perf_counter() - start
    bundle = write_bundle(checked.evidence, folder / "out", None)
    return Faces(folder, model, checked, bundle, seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def write_photographs(folder: Path) -> None:
    """Deal out each person's photographs: seven, one and two."""
    with np.load(ORL) as stored:
        x = stored["x"].reshape(400, 1, 56, 2, 46, 2).mean(axis=(3, 5)).astype(np.float32) / 255
        y = stored["y"].astype(np.int64)
    turn = np.arange(400) % 10
    for name, kept in {"members": turn < 7, "auxiliary": turn == 7, "nonmembers": turn > 7}.items():
        assert np.array_equal(np.unique(y[kept]), PEOPLE)
        np.savez(folder / f"{name}.npz", x=x[kept], y=y[kept])


def photographs(faces: Faces, name: str) -> Records:
    with np.load(faces.folder / f"{name}.npz") as stored:
        return Records(stored["x"], stored["y"])


@pytest.fixture(scope="module")
def victim(faces: Faces) -> Target:
    """The trained model as an adversary holds it who has the file."""
    subject = load_subject(faces.model)
    module = load_module(subject)
    return make_target(subject.task, subject.release, Access.WEIGHTS, load_records(subject).auxiliary, lambda: module)


def nearest_squared_error(guess: NDArray[np.float32], members: Records) -> NDArray[np.float64]:
    """How far each person's guess is from the nearest of that person's training photographs, by definition."""
    return np.array(
        [np.min([np.mean((g.astype(float) - m) ** 2) for m in members.x[members.y == p]]) for p, g in enumerate(guess)]
    )


def drawn(attack: ClassInversion, victim: Target) -> NDArray[np.float32]:
    return attack.reconstruct_classes(victim, PEOPLE, SEED, lambda share: None)


def test_the_strong_attack_finds_the_people_that_the_classic_one_misses(faces: Faces, victim: Target) -> None:
    members = photographs(faces, "members")
    start = time.perf_counter()
    classic, strong = drawn(MIFace(), victim), drawn(Gradient(), victim)
    seconds = time.perf_counter() - start
    both, most = f"both attacks on the subject {seconds:.1f} s", f"{faces.peak / 2**20:.0f} MiB at most"
    print(f"\n{both}, the whole check {faces.seconds:.1f} s, {most}")  # noqa: T201 - shown by pytest -s, held by no test
    sure = [victim.module()(torch.as_tensor(x)).softmax(1).diagonal().min() for x in (classic, strong)]
    assert min(sure) > 0.98  # the model's own word tells the two apart in nothing
    assert (nearest_identity(classic, members) == PEOPLE).mean() < 0.30
    assert (nearest_identity(strong, members) == PEOPLE).mean() >= 0.70


@pytest.mark.parametrize(("name", "attack"), [("recognised", "inversion.gradient"), ("plainly", "inversion.mi_face")])
def test_recognised_people_are_a_failure_with_both_controls_in_order(faces: Faces, name: str, attack: str) -> None:
    found = faces.finding(name)
    (by,) = found["attacks"]
    assert (found["status"], found["by"], by["name"]) == ("fail", attack, attack)
    assert found["low"] > 0.5
    assert found["records"] == 40
    assert by["controls"]["positive"]["ok"] is True
    assert by["controls"]["positive"]["low"] > 0.5
    assert by["controls"]["negative"]["ok"] is True
    assert by["controls"]["negative"]["low"] <= 0 <= by["controls"]["negative"]["high"]
    shares = {d["name"]: d["value"] for d in found["details"]}
    assert shares["identified"] >= 0.70
    assert shares["identified where nothing can be"] < 0.20  # chance is 1 in 40: 8 of 40 under 1 in 100,000
    accuracy = [value for key, value in shares.items() if key.startswith("accuracy of evaluator")]
    assert len(accuracy) == 3
    assert min(accuracy) > 0.6


def test_the_distance_calls_the_same_attack_worse_than_a_guess(faces: Faces) -> None:
    found, figure = faces.finding("distance"), faces.figure("inversion.gradient")
    attack, guess = np.array(figure["attack_distance"]), np.array(figure["baseline_distance"])
    assert (figure["goal"], figure["metric"]) == ("class-representative", "mse")
    assert figure["targets"] == PEOPLE.tolist()
    assert found["value"] == pytest.approx(np.median(attack) / np.median(guess), rel=1e-4)
    assert 1 < found["low"] <= found["value"] <= found["high"]
    details = {d["name"]: d["value"] for d in found["details"]}
    assert details["attack's mse distance"] == pytest.approx(np.median(attack), rel=1e-4)
    guesses = {name: value for name, value in details.items() if name.startswith("mse distance without the model, ")}
    assert min(guesses.values()) == pytest.approx(np.median(guess), rel=1e-4)
    # The report itself says that the picture which identifies is further away than the mean face is.
    assert details["attack's mse distance"] > guesses["mse distance without the model, global mean"]
    html = (faces.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "mse distance without the model, global mean" in html


def test_the_guess_is_the_adversarys_photograph_and_the_mean_face_beats_the_attack_too(faces: Faces) -> None:
    """Both held by their definition against the figure's numbers."""
    members, owned = photographs(faces, "members"), photographs(faces, "auxiliary")
    figure = faces.figure("inversion.gradient")
    assert figure["baseline"] == "class mean"  # of one photograph each
    own = nearest_squared_error(owned.x[np.argsort(owned.y)], members)
    assert figure["baseline_distance"] == pytest.approx(own, rel=1e-4)
    mean_face = nearest_squared_error(np.repeat(owned.x.mean(axis=0, keepdims=True), 40, axis=0), members)
    assert np.mean(mean_face) == pytest.approx(0.0175, abs=0.002)  # 0.0175 is that of all 400 photographs
    assert np.mean(figure["attack_distance"]) > np.mean(mean_face)
    assert np.median(figure["attack_distance"]) > np.median(mean_face)


def test_a_distance_that_misses_the_twins_faces_acquits_nobody(faces: Faces) -> None:
    """19 times the limit, and yet no pass: the distance did not see the leak in a model that was made to leak."""
    found = faces.finding("distance")
    (by,) = found["attacks"]
    assert found["low"] > found["limit"]
    assert found["status"] == "inconclusive"
    assert by["controls"]["positive"]["ok"] is False
    assert by["controls"]["positive"]["low"] > 1
    assert by["controls"]["negative"]["ok"] is True
    assert "did not find the leak planted for it" in found["reason"]


def test_the_report_shows_both_numbers_and_whose_they_are(faces: Faces) -> None:
    by_name = {file.name: file for file in faces.bundle.files}
    text = html.unescape(by_name["report.html"].read_text())
    kept = json.loads(by_name["evidence.json"].read_text())
    assert by_name["report.pdf"].read_bytes().startswith(b"%PDF-")
    assert (kept["verdict"], kept["exitCode"]) == ("fail", 1)
    assert kept["findings"] == json.loads(json.dumps(faces.evidence["findings"]))
    for detail in faces.finding("distance")["details"]:
        assert f"{detail['name']} {detail['value']:.3g}" in text
    value = faces.finding("distance")["value"]
    assert f'<data value="{value!r}">{value:.1f}</data> ×' in text
    assert "baseline: class mean" in text
    assert "MISSES the leak" in text


def test_the_command_line_says_the_same(faces: Faces, midguard: Callable[..., Ended]) -> None:
    policy, store = faces.folder / "policy.yaml", faces.folder / "store"
    planned = midguard("plan", policy, faces.model, "--seed", SEED, "--store", store)
    assert planned.code == 0
    assert "2 jobs, 2 of them in the store" in planned.out
    ended = midguard("check", policy, faces.model, "--seed", SEED, "--store", store, "--format", "json")
    assert ended.code == 1
    assert json.loads(ended.out)["findings"] == json.loads(json.dumps(faces.evidence["findings"]))
