"""The five controls of every inversion: rows beside the attack, and what closes the gate."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from midguard.engine import registry
from midguard.engine.check import check, prepare
from midguard.engine.observation import Goal, Reconstruction
from midguard.engine.plan import ControlRun, Outcome
from midguard.engine.run import run_job
from midguard.engine.target import Release
from midguard.engine.verdict import Status, judge_attacked

#: Small parameters for every attack; one that is not named here runs with its own.
SMALL: dict[str, str] = {
    "inversion.black_box": "size: 16, population: 8, generations: 8, restarts: 1, draws: 60",
    "inversion.boundary": "size: 16, draws: 100, points: 8, iterations: 8, patience: 4",
    "inversion.gmi": "steps: 20, restarts: 1, iterations: 15, critic_steps: 1",
    "inversion.gradient": "steps: 100, restarts: 2, transforms: 10",
    "inversion.knowledge_alignment": "hidden: [64], epochs: 5",
    "inversion.latent": "size: 16, steps: 30, restarts: 1, transforms: 5",
    "inversion.map": "size: 16, steps: 30",
    "inversion.mi_face": "alpha: 30",
    "inversion.split": "epochs: 5, steps: 20, victims: 100",
    "inversion.gradient_leakage": "victims: 40",
    "inversion.plg_mi": "steps: 10, restarts: 1, transforms: 3, size: 8, width: 8, iterations: 10, critic_steps: 1",
}
SEED = 20_261_128


def named(*names: str) -> str:
    return "[" + ", ".join(f"{{name: {name}, {SMALL[name]}}}" if name in SMALL else name for name in names) + "]"


def attacks_of(goal: Goal, watching: bool = False) -> list[str]:
    """Every registered inversion attack of a goal that reads answers, or that listens."""
    threats = {n: registry.load("attacks", n).threat for n in registry.names("attacks") if n.startswith("inversion.")}  # type: ignore[attr-defined]
    return [name for name, threat in threats.items() if threat.goal is goal and bool(threat.watches) is watching]


def describe(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The folder's description, changed; digests and what belongs to other weights are taken out."""
    file = folder / "model.yaml"
    document = yaml.safe_load(file.read_text())
    spec = document["spec"]
    for part in (spec["model"], *spec["data"].values()):
        part.pop("sha256", None)
    spec.pop("ledger", None)
    change(spec)
    file.write_text(yaml.safe_dump(document))
    return folder / "model.pt"


def with_weights(
    folder: Path, change: Callable[[torch.Tensor, torch.Generator], torch.Tensor], release: str = "probabilities"
) -> Path:
    """The folder's model with other weights."""
    model, generator = folder / "model.pt", torch.Generator().manual_seed(1)
    state = torch.load(model, weights_only=True)
    torch.save({name: change(tensor, generator) for name, tensor in state.items()}, model)
    return describe(folder, lambda spec: spec.update(release={"exposes": release}))


def constant(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """No weight: what is answered depends on the biases alone."""
    return torch.zeros_like(tensor) if tensor.dim() > 1 else torch.randn(tensor.shape, generator=generator)


def random_weights(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=generator)


def untrained(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    bound = 1 / tensor.shape[-1] ** 0.5
    return bound * (2 * torch.rand(tensor.shape, generator=generator) - 1)


# --- where there is nothing to find


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(constant, marks=pytest.mark.calibrate),
        pytest.param(random_weights, marks=pytest.mark.calibrate),
        untrained,
    ],
    ids=["constant", "random", "untrained"],
)
def test_no_class_attack_finds_anything_where_no_class_was_learnt(
    careless: Path, write_policy: Callable[..., Path], change: Callable[..., torch.Tensor]
) -> None:
    names = attacks_of(Goal.CLASS)
    assert len(names) >= 8
    policy = write_policy(
        f"id: far, measure: inversion.distance, at: {{quantile: 0.5}}, min: 0.97, attacks: {named(*names)}",
        f"id: nobody, measure: inversion.identification, max: 0.3, attacks: {named(*names)}",
        access="weights",
    )
    checked = check(policy, with_weights(careless, change), store=careless / "store", seed=SEED)
    for finding in checked.verdict.findings:
        assert finding.status is not Status.FAIL
        assert {attack.name for attack in finding.attacks} == set(names)
    far, nobody = checked.verdict.findings
    for attack in far.attacks:
        assert attack.measurement is not None, attack.reason
        assert attack.measurement.value >= 0.97, attack.name
    for attack in nobody.attacks:
        assert attack.measurement is not None, attack.reason
        # Ten classes, one in ten by chance: five of them in 16 of 10,000 attacks; one that sees classes names nine.
        assert attack.measurement.value <= 0.4, attack.name


@pytest.mark.parametrize("release", ["probabilities", "label"])
def test_no_record_attack_finds_anything_in_answers_that_ignore_the_record(
    careless: Path, write_policy: Callable[..., Path], release: str
) -> None:
    names = attacks_of(Goal.RECORD)
    policy = write_policy(f"id: far, measure: inversion.distance, min: 0.97, attacks: {named(*names)}")
    checked = check(policy, with_weights(careless, constant, release=release), store=careless / "store", seed=SEED)
    (finding,) = checked.verdict.findings
    assert finding.status is not Status.FAIL
    for attack in finding.attacks:
        assert attack.measurement is not None
        assert attack.measurement.value >= 0.97


def test_ten_numbers_computed_of_a_record_tell_of_it_whatever_computed_them(
    careless: Path, write_policy: Callable[..., Path]
) -> None:
    """An untrained network's scores are ten random looks at the record: more than its class. Its labels are none."""
    names = attacks_of(Goal.RECORD)
    policy = write_policy(f"id: far, measure: inversion.distance, min: 0.97, attacks: {named(*names)}")

    def distance(release: str) -> float:
        folder = careless.parent / release
        folder.mkdir()
        for file in careless.iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        model = with_weights(folder, untrained, release=release)
        finding = check(policy, model, store=folder / "store", seed=SEED).verdict.findings[0]
        return min(a.measurement.value for a in finding.attacks if a.measurement)

    assert distance("logits") < 0.9
    assert distance("label") >= 0.97


# --- where everything is to be found


def leaking(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a dense network whose answer is the record itself: 64 values in, 64 scores out."""
    state = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    first, last = [name for name in state if name.endswith("weight")]
    state[first][:64] = torch.eye(64)
    state[last][:, :64] = torch.eye(64)
    return state


def test_every_record_attack_finds_a_head_that_leaks_its_input(
    careless: Path, write_policy: Callable[..., Path], tmp_path: Path
) -> None:
    """An autoencoder's head: 64 'classes' whose scores are the 64 pixels."""
    from midguard.engine.architectures.mlp import Mlp

    torch.save(leaking(Mlp((128,)).build((1, 8, 8), 64)), careless / "model.pt")

    def leak(spec: dict[str, Any]) -> None:
        spec["task"]["classes"], spec["release"] = 64, {"exposes": "logits"}
        del spec["training"]

    describe(careless, leak)
    names = attacks_of(Goal.RECORD)
    policy = write_policy(f"id: far, measure: inversion.distance, min: 0.5, attacks: {named(*names)}")
    checked = check(policy, careless / "model.pt", store=careless / "store", seed=SEED)
    (finding,) = checked.verdict.findings
    for attack in finding.attacks:
        assert attack.measurement is not None, attack.reason
        assert attack.measurement.value < 0.1, attack.name
        assert attack.measurement.high < 0.5
    assert finding.status is Status.FAIL


@pytest.mark.parametrize("name", attacks_of(Goal.RECORD, watching=True))
def test_every_listener_finds_a_layer_that_leaks_its_input(
    careless: Path, write_policy: Callable[..., Path], name: str
) -> None:
    layer = {"exposes": "activations", "layer": "flatten"}
    release = {"inversion.split": layer, "inversion.gradient_leakage": {"exposes": "gradients"}}[name]
    describe(careless, lambda spec: spec.update(release=release))
    policy = write_policy(f"id: far, measure: inversion.distance, min: 0.5, attacks: {named(name)}", access="weights")
    finding = check(policy, careless / "model.pt", store=careless / "store", seed=SEED).verdict.findings[0]
    (attack,) = finding.attacks
    assert attack.measurement is not None, attack.reason
    assert attack.measurement.value < 0.1


# --- the rows


@pytest.fixture(scope="module")
def checked(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One class attack and one record attack on the careless model, with pictures and without."""
    folder = tmp_path_factory.mktemp("controls")
    record, classes = named("inversion.knowledge_alignment"), "[inversion.gradient]"
    policy = folder / "policy.yaml"
    policy.write_text(
        "apiVersion: midguard.dev/v1\nkind: PrivacyPolicy\n"
        'metadata: {name: test, version: "1", owner: privacy-office@example.org}\n'
        "spec:\n  adversary: {access: weights}\n  confidence: 0.95\n  requirements:\n"
        "    - {id: far, severity: high, measure: inversion.distance, at: {quantile: 0.25}, min: 0.75, "
        f"attacks: {record}}}\n"
        f"    - {{id: nobody, severity: high, measure: inversion.identification, max: 0.2, attacks: {classes}}}\n"
    )

    def run(shown: bool) -> Any:
        return check(policy, trained / "model.pt", store=folder / "store", seed=SEED, show_reconstructions=shown)

    return run(False), run(True)


def rows_of(evidence: Any, name: str) -> dict[str, Any]:
    (attack,) = [a for a in evidence["attacks"] if a["name"] == name]
    return {row["name"]: row for row in attack["inversion"]["rows"]}


def test_a_class_attack_stands_beside_all_its_controls(checked: Any) -> None:
    rows = rows_of(checked[0].evidence, "inversion.gradient")
    assert {"this model", "leaky twin", "null", "untrained", "without the class", "nonmembers"} <= set(rows)
    assert {"global mean", "class mean", "another record of the class", "nearest auxiliary record"} <= set(rows)
    assert all(row["mse"] is not None for row in rows.values()), rows
    # One record in five of this data bears a wrong label, and the evaluators learnt from such.
    assert rows["this model"]["identified"] >= 0.4
    assert rows["untrained"]["identified"] <= 0.3
    assert rows["without the class"]["identified"] <= 0.3
    assert rows["class mean of the members"]["identified"] > 0.8  # the oracle: the evaluators can recognise
    assert rows["this model"]["rank1"] >= 0.4
    assert rows["nearest auxiliary record"]["mse"] < rows["another record of the class"]["mse"]


def test_a_record_attack_stands_beside_all_its_controls(checked: Any) -> None:
    rows = rows_of(checked[0].evidence, "inversion.knowledge_alignment")
    assert {"this model", "leaky twin", "null", "untrained", "nonmembers", "label-only floor"} <= set(rows)
    assert rows["this model"]["mse"] < rows["label-only floor"]["mse"]
    assert rows["label-only floor"]["mse"] == pytest.approx(rows["class mean"]["mse"], rel=0.1)
    assert rows["nonmembers"]["mse"] == pytest.approx(rows["this model"]["mse"], rel=0.2)
    assert rows["null"]["mse"] > rows["class mean"]["mse"]


def test_evaluators_are_calibrated_on_models_that_never_saw_the_class(checked: Any) -> None:
    (attack,) = [a for a in checked[0].evidence["attacks"] if a["name"] == "inversion.gradient"]
    evaluators = attack["inversion"]["evaluators"]
    assert len(evaluators) == 3
    assert all(0.65 < e["accuracy"] <= 1 and 0 <= e["falsePositives"] <= 0.4 for e in evaluators)
    seen = next(o.observation for o in checked[0].outcomes.values() if o.job.name == "inversion.gradient")
    assert len(seen.false_votes) == 2 * len(seen.votes)  # shuffled labels, and without the class


def test_the_floor_and_the_worst_are_in_the_evidence(checked: Any) -> None:
    distances = {entry["attack"]: entry for entry in checked[0].evidence["figures"]["distances"]}
    record = distances["inversion.knowledge_alignment"]
    assert record["floor"] > 0
    assert [w["target"] for w in record["worst"]] == list(
        range(1, 1 + len(record["worst"]))
    )  # ranks, no record's number
    assert [w["distance"] for w in record["worst"]] == sorted(w["distance"] for w in record["worst"])
    assert distances["inversion.gradient"]["floor"] is None
    assert len(distances["inversion.gradient"]["worst"]) == 1  # a twentieth of ten


def test_pictures_are_in_the_evidence_only_where_they_are_asked_for(checked: Any) -> None:
    hidden, shown = (c.evidence["figures"]["gallery"] for c in checked)
    assert (hidden["shown"], shown["shown"]) == (False, True)
    tiles = [tile for wall in hidden["attacks"] for tile in wall["tiles"]]
    assert len(tiles) == 10 + 20
    assert all(tile["pictures"] is None for tile in tiles)
    assert "iVBOR" not in json.dumps(checked[0].evidence)  # how every PNG begins, in base64


def test_a_picture_is_the_record_pixel_by_pixel(checked: Any) -> None:
    bench = prepare_again(checked[0])
    wall = next(w for w in checked[1].evidence["figures"]["gallery"]["attacks"] if w["goal"] == Goal.RECORD)
    outcome = next(o for o in checked[1].outcomes.values() if o.job.name == wall["attack"])
    closest = int(np.argmin(outcome.observation.mse))
    picture = Image.open(io.BytesIO(base64.b64decode(wall["tiles"][0]["pictures"]["target"])))
    times = picture.size[0] // 8
    pixels = np.asarray(picture)[::times, ::times] / 255
    victim = bench.victims(outcome.job.targets).x[closest, 0]
    np.testing.assert_allclose(pixels, victim, atol=1 / 255)
    assert picture.mode == "L"


def prepare_again(seen: Any) -> Any:
    return prepare(seen.policy.file, seen.subject.model.path, store=seen.policy.file.parent / "store", seed=SEED)


# --- what closes the gate


def judged(outcome: Outcome, seen: Any) -> Any:
    (assignment,) = [a for a in seen.plan.assignments if outcome.job.identity in a.jobs]
    return judge_attacked(assignment, {outcome.job.identity: outcome})


@pytest.mark.parametrize("row", ["untrained", "without the class"])
def test_a_class_attack_that_finds_what_was_never_learnt_decides_nothing(checked: Any, row: str) -> None:
    outcome = next(o for o in checked[0].outcomes.values() if o.job.name == "inversion.gradient")
    seen = outcome.observation
    assert isinstance(seen, Reconstruction)
    votes = np.ones_like(seen.votes)  # everybody is recognised where nobody was learnt
    found = dataclasses.replace(seen, votes=votes, false_votes=np.zeros_like(seen.false_votes))
    broken = dataclasses.replace(outcome, rows={**outcome.rows, row: ControlRun(found, "planted")})
    finding = judged(broken, checked[0])
    assert finding.status is Status.INCONCLUSIVE
    assert "finds a leak where there is none (planted)" in finding.reason


@pytest.mark.parametrize("row", ["untrained", "without the class"])
def test_a_class_attack_whose_control_stopped_or_was_never_there_decides_nothing(checked: Any, row: str) -> None:
    outcome = next(o for o in checked[0].outcomes.values() if o.job.name == "inversion.gradient")
    stopped = {**outcome.rows, row: ControlRun(None, "it stopped")}
    missing = {name: run for name, run in outcome.rows.items() if name != row}
    for rows, reason in ((stopped, "it stopped"), (missing, "it did not run")):
        finding = judged(dataclasses.replace(outcome, rows=rows), checked[0])
        assert finding.status is Status.INCONCLUSIVE
        assert reason in finding.reason


def test_an_untrained_model_does_not_close_the_gate_of_a_record_attack(checked: Any) -> None:
    outcome = next(o for o in checked[0].outcomes.values() if o.job.name == "inversion.knowledge_alignment")
    assert judged(outcome, checked[0]).status is Status.FAIL


def test_nonmembers_that_are_missing_are_said_to_be(careless: Path, write_policy: Callable[..., Path]) -> None:
    attack = named("inversion.knowledge_alignment")
    policy = write_policy(f"id: far, measure: inversion.distance, min: 0.5, attacks: {attack}")
    describe(careless, lambda spec: spec["data"].pop("nonmembers"))
    bench = prepare(policy, careless / "model.pt", store=careless / "store", seed=SEED)
    outcome = run_job(bench, bench.plan.jobs[0])
    assert outcome.observation is not None
    assert outcome.rows["nonmembers"].observation is None
    assert "spec.data.nonmembers" in outcome.rows["nonmembers"].reason


def test_an_open_release_is_attacked_on_the_subject(careless: Path, write_policy: Callable[..., Path]) -> None:
    """Not on the twin: what the interface protects is said of this model."""
    from midguard.engine.inverting import OPENED, _class_targets

    policy = write_policy(f"id: far, measure: inversion.distance, min: 0.5, attacks: {named('inversion.black_box')}")
    bench = prepare(policy, careless / "model.pt", store=careless / "store", seed=SEED)
    bench.subject = dataclasses.replace(bench.subject, release=Release(bench.subject.release.exposes, top=2))
    ((target, _),) = _class_targets(bench, OPENED)
    assert target.release.top is None
    x = bench.records.members.x[:5]
    logits = torch.softmax(bench.module(torch.from_numpy(x)), dim=1).detach().numpy()
    np.testing.assert_allclose(target.query(x), logits, atol=1e-5)


@pytest.mark.parametrize("found", [(1, 1, 8, 8), (9, 1, 8, 8), (11, 1, 8, 8), (10, 8, 8)])
def test_pictures_that_are_not_one_for_each_target_are_refused(found: tuple[int, ...]) -> None:
    """One picture would stand for every class by broadcasting, and show nothing of any."""
    from midguard.engine.errors import AttackError
    from midguard.engine.inverting import _whole

    with pytest.raises(AttackError, match="expected reconstructions of shape"):
        _whole(np.zeros(found, np.float32), (10, 1, 8, 8))
    assert _whole(np.zeros((10, 1, 8, 8), np.float32), (10, 1, 8, 8)).shape == (10, 1, 8, 8)
