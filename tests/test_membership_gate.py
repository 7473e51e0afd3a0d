"""The gate on models whose leak is known, with every attack that their release and recipe allow."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Ended

Gate = Callable[..., Ended]
Writer = Callable[..., Path]

#: A record is a point; the class is hard to tell from it, and next to impossible in `NOISY` of the classes.
CLASSES, WIDTH = 10, 30

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {{name: points, version: "1"}}
spec:
  architecture: {{name: mlp, hidden: [{hidden}]}}
  task: {{kind: classification, classes: 10, input: [30], range: [-10, 10]}}
  data:
    members: {{file: members.npz}}
    nonmembers: {{file: nonmembers.npz}}
    auxiliary: {{file: auxiliary.npz}}
  optimizer: {{name: adam, lr: {lr}}}
  epochs: {epochs}
  batch_size: 64
  seed: 1
  release: {{exposes: probabilities}}
"""


def points(n: int, rng: np.random.Generator, noisy: tuple[int, ...] = (), shift: float = 0.0) -> dict[str, Any]:
    """Records of four classes around four corners; in a noisy class x says nothing of the record's own target."""
    y = rng.integers(0, CLASSES, n)
    x = rng.normal(size=(n, WIDTH)).astype(np.float32)
    x[np.arange(n), y] += 5.0
    # A record of a noisy class looks like one of another: only by heart can the model know it.
    for label in noisy:
        where = np.flatnonzero(y == label)
        x[where, label] -= 5.0
        x[where, rng.choice([c for c in range(CLASSES) if c not in noisy], len(where))] += 5.0
    x[:, WIDTH - 1] += shift
    return {"x": x, "y": y.astype(np.int64)}


def lay_out(folder: Path, n: int = 600, hidden: int = 64, lr: float = 0.003, epochs: int = 60, **kind: Any) -> Path:
    """A model trained on such records, in a folder of its own."""
    from midguard.engine.training import train

    rng, shift = np.random.default_rng(5), kind.pop("shift", 0.0)
    folder.mkdir()
    for name in ("members", "nonmembers", "auxiliary"):
        moved = shift if name == "nonmembers" else 0.0
        np.savez(folder / f"{name}.npz", **points(n, rng, shift=moved, **kind))
    (folder / "recipe.yaml").write_text(RECIPE.format(hidden=hidden, lr=lr, epochs=epochs))
    return train(folder / "recipe.yaml", folder / "model")


def findings(ended: Ended) -> dict[str, Any]:
    return {finding["id"]: finding for finding in json.loads(ended.out)["findings"]}


ADVANTAGE = "id: advantage, measure: membership.advantage"
EXPOSED = "id: exposed, measure: membership.exposed_records, at: {precision: 0.9}"


def test_a_memoriser_fails(tmp_path: Path, write_policy: Writer, midguard: Gate) -> None:
    model = lay_out(tmp_path / "memoriser", noisy=tuple(range(1, CLASSES)), epochs=150)
    policy = write_policy(f"{ADVANTAGE}, max: 0.3", f"{EXPOSED}, max: 0.2")
    ended = midguard("check", policy, model, "--format", "json")
    found = findings(ended)
    assert ended.code == 1
    assert {name: finding["status"] for name, finding in found.items()} == {"advantage": "fail", "exposed": "fail"}


@pytest.mark.parametrize("kind", ["constant", "random"])
def test_a_model_that_never_saw_its_records_passes(
    tmp_path: Path, write_policy: Writer, midguard: Gate, kind: str
) -> None:
    model = lay_out(tmp_path / "nothing", epochs=20)
    weights = torch.load(model, weights_only=True)
    torch.manual_seed(1)
    for value in weights.values():
        value.copy_(torch.zeros_like(value) if kind == "constant" else torch.randn_like(value) * 0.1)
    torch.save(weights, model)
    description = model.parent / "model.yaml"
    text = re.sub(r'\n +sha256: "?[0-9a-f]{64}"?(?=\n +architecture)', "", description.read_text())
    text = re.sub(r"\n  ledger:.*", "\n", text, flags=re.DOTALL)
    description.write_text(text)
    ended = midguard("check", write_policy(f"{ADVANTAGE}, max: 0.3"), model, "--format", "json")
    assert ended.code != 2, ended.err
    assert findings(ended)["advantage"]["status"] == "pass", ended.err + ended.out[:2000]
    assert ended.code == 0


def test_a_model_with_one_overfit_class_fails_where_the_average_hides_it(
    tmp_path: Path, write_policy: Writer, midguard: Gate
) -> None:
    model = lay_out(tmp_path / "one", n=1200, noisy=(3,), epochs=100)
    policy = write_policy(
        f"{ADVANTAGE}, max: 0.45",
        f"{EXPOSED}, max: 0.05",
        "id: group, measure: membership.worst_group, at: {by: class}, max: 0.45",
    )
    ended = midguard("check", policy, model, "--format", "json")
    found = findings(ended)
    assert ended.code == 1
    assert found["exposed"]["status"] == "fail"
    assert found["group"]["status"] == "fail"
    assert found["advantage"]["status"] == "pass"


def test_shifted_nonmembers_are_inconclusive_and_say_what_tells_them(
    tmp_path: Path, write_policy: Writer, midguard: Gate
) -> None:
    model = lay_out(tmp_path / "shifted", noisy=tuple(range(1, CLASSES)), epochs=150, shift=1.0)
    ended = midguard("check", write_policy(f"{ADVANTAGE}, max: 0.3"), model, "--format", "json")
    found = findings(ended)["advantage"]
    assert (ended.code, found["status"]) == (3, "inconclusive"), found["reason"]
    assert "shift" in found["reason"]
    assert f"column {WIDTH - 1}" in found["reason"]


def test_without_a_recipe_the_rest_runs_and_the_report_says_what_a_recipe_would_add(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    description = careless / "model.yaml"
    description.write_text(re.sub(r"\n  training:[^\n]*(\n    [^\n]*)*", "", description.read_text()))
    ended = midguard("check", write_policy(f"{ADVANTAGE}, max: 0.2"), careless / "model.pt", "--format", "json")
    evidence = json.loads(ended.out)
    attacks = {a["name"]: a["status"] for a in evidence["findings"][0]["attacks"]}
    assert attacks["membership.loss"] == "ran"
    assert attacks["membership.lira"] == "not-run"
    assert "membership.lira" in evidence["references"]["adds"]
    assert "recipe" in evidence["references"]["missing"]


def test_a_recipe_of_another_network_makes_no_references(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    recipe = careless / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("hidden: [128]", "hidden: [64]"))
    named = write_policy(f"{ADVANTAGE}, attacks: [membership.lira], max: 0.2")
    ended = midguard("check", named, careless / "model.pt", "--format", "json")
    found = findings(ended)["advantage"]
    assert (ended.code, found["status"]) == (3, "not-run")
    assert "another network" in found["reason"]


def test_a_second_check_trains_nothing_and_says_the_same(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = write_policy(f"{ADVANTAGE}, attacks: [{{name: membership.lira, references: 4}}], max: 0.2")
    first = midguard("check", policy, careless / "model.pt", "--format", "json")
    monkeypatch.setattr("midguard.engine.run.train_references", None)
    monkeypatch.setattr("midguard.engine.controls.train_references", None)
    again = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert (first.code, again.code) == (1, 1)
    assert findings(first) == findings(again)
    assert json.loads(first.out)["references"] == json.loads(again.out)["references"]


def test_an_attack_that_stops_with_fewer_references_is_an_error(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midguard.attacks.membership.lira import Lira

    honest = Lira.score

    def score(self: Lira, target: Any, *rest: Any) -> Any:
        if len(target.references) == 1:
            raise RuntimeError("too few")
        return honest(self, target, *rest)

    monkeypatch.setattr(Lira, "score", score)
    policy = write_policy(f"{ADVANTAGE}, attacks: [{{name: membership.lira, references: 4}}], max: 0.2")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert (ended.code, findings(ended)["advantage"]["status"]) == (4, "error")
    assert "too few" in findings(ended)["advantage"]["reason"]


def test_references_that_cannot_be_trained_leave_nothing_shown_and_are_tried_once(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(*arguments: Any) -> None:
        tried.append(arguments)
        raise RuntimeError("no room for references")

    monkeypatch.setattr("midguard.engine.run.train_references", fail)
    policy = write_policy(f"{ADVANTAGE}, attacks: [membership.loss, membership.rmia], max: 0.99")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert ended.code in {3, 4}
    assert findings(ended)["advantage"]["status"] in {"inconclusive", "error"}
    assert "no room for references" in findings(ended)["advantage"]["reason"]
    assert len(tried) == 1


def test_more_references_train_only_the_new_ones(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for count in (4, 8):
        policy = write_policy(f"{ADVANTAGE}, attacks: [{{name: membership.lira, references: {count}}}], max: 0.2")
        ended = midguard("check", policy, careless / "model.pt", "--format", "json")
        told.append(json.loads(ended.out)["references"])
    assert [story["count"] for story in told] == [4, 8]
    assert [story["reused"] for story in told] == [0, 4]


def visits(people: int, each: int) -> dict[str, Any]:
    """Several records of everybody, all with the label that this person drew: known by heart together or not at all."""
    rng = np.random.default_rng(11)
    who = np.repeat(np.arange(people), each)
    corners, labels = rng.normal(size=(people, WIDTH)).astype(np.float32) * 3, rng.integers(0, CLASSES, people)
    x = corners[who] + rng.normal(size=(len(who), WIDTH)).astype(np.float32) * 0.3
    return {"x": np.clip(x, -10, 10), "y": labels[who].astype(np.int64), "person": who}


def test_a_persons_records_are_dealt_and_resampled_together(tmp_path: Path, write_policy: Writer) -> None:
    from midguard.engine.check import check
    from midguard.engine.measures.membership.advantage import Advantage
    from midguard.engine.observation import Membership
    from midguard.engine.training import train

    folder = tmp_path / "people"
    folder.mkdir()
    np.savez(folder / "visits.npz", **visits(160, 8))
    recipe = RECIPE.format(hidden=64, lr=0.003, epochs=3)
    start, end = recipe.index("    members:"), recipe.index("  optimizer")
    source = "    source: {file: visits.npz}\n    split: {members: 0.5, nonmembers: 0.5, auxiliary: 0.0}\n"
    (folder / "recipe.yaml").write_text(recipe[:start] + source + recipe[end:])
    model = train(folder / "recipe.yaml", folder / "model")
    with np.load(model.parent / "members.npz") as ours, np.load(model.parent / "nonmembers.npz") as others:
        assert not set(ours["person"]) & set(others["person"])
    policy = write_policy(f"{ADVANTAGE}, attacks: [membership.loss], max: 0.99")
    found = check(policy, model, store=tmp_path / "store", seed=1)
    (outcome,) = found.outcomes.values()
    for seen in (outcome.observation, outcome.positive.observation, outcome.negative.observation):
        assert isinstance(seen, Membership)
        assert seen.persons is not None
        assert len(np.unique(seen.persons)) <= 160
        together = Advantage().measure(seen, 0.05)
        apart = Advantage().measure(dataclasses.replace(seen, persons=None), 0.05)
        assert together.high - together.low > 1.1 * (apart.high - apart.low)


def test_a_recipe_that_is_not_how_the_model_was_trained_shows_nothing(
    tmp_path: Path, write_policy: Writer, midguard: Gate
) -> None:
    model = lay_out(tmp_path / "memoriser", noisy=tuple(range(1, CLASSES)), epochs=150)
    recipe = model.parent / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 150", "epochs: 1").replace("lr: 0.003", "lr: 0.00001"))
    risk = "id: risk, measure: membership.record_risk"
    ended = midguard("check", write_policy(f"{ADVANTAGE}, max: 0.99", f"{risk}, max: 0.99"), model, "--format", "json")
    found = findings(ended)
    assert ended.code == 3
    assert (found["advantage"]["status"], found["risk"]["status"]) == ("inconclusive", "not-run")
    assert "the recipe that it was trained by" in found["advantage"]["reason"]


def test_a_rounded_release_is_attacked_by_its_labels_too_and_the_twin_stands_behind_it(
    tmp_path: Path, write_policy: Writer
) -> None:
    from midguard.engine.check import prepare
    from midguard.engine.target import Exposure, Release

    model = lay_out(tmp_path / "rounded", n=300, epochs=2)
    description = model.parent / "model.yaml"
    text = description.read_text()
    policy = write_policy(f"{ADVANTAGE}, max: 0.3")
    assert "membership.boundary" not in {job.name for job in prepare(policy, model).plan.jobs}
    description.write_text(text.replace("{exposes: probabilities}", "{exposes: probabilities, decimals: 1}"))
    bench = prepare(policy, model, store=tmp_path / "store", seed=1)
    assert "membership.boundary" in {job.name for job in bench.plan.jobs}
    (twin,) = bench.membership_twin
    assert twin.release == Release(Exposure.PROBABILITIES, decimals=1)


def test_references_see_all_of_a_person_or_nothing(tmp_path: Path, write_policy: Writer) -> None:
    from midguard.engine.check import prepare

    model = lay_out(tmp_path / "people", n=300, epochs=1)
    for part in ("members", "nonmembers"):
        path = model.parent / f"{part}.npz"
        with np.load(path) as stored:
            np.savez(path, x=stored["x"], y=stored["y"], person=np.arange(300) // 3 + 1000 * (part == "members"))
    description = model.parent / "model.yaml"
    text = re.sub(
        r'(members:\n      file: members.npz)\n      sha256: "?[0-9a-f]{64}"?', r"\1", description.read_text()
    )
    text = re.sub(r'file: (non)?members.npz, sha256: "?[0-9a-f]{64}"?', r"file: \1members.npz", text)
    text = re.sub(r'((?:non)?members:\n      file: (?:non)?members.npz)\n      sha256: "?[0-9a-f]{64}"?', r"\1", text)
    description.write_text(re.sub(r"\n  ledger:.*", "\n", text, flags=re.DOTALL))
    lira = "attacks: [{name: membership.lira, references: 2}]"
    bench = prepare(write_policy(f"{ADVANTAGE}, {lira}, max: 0.3"), model, store=tmp_path / "store", seed=1)
    assert bench.pool.persons is not None
    for reference in bench.trained.models:
        for person in np.unique(bench.pool.persons):
            assert len(set(reference.inside[bench.pool.persons == person])) == 1
        assert 0.4 < reference.inside.mean() < 0.6


def test_the_file_of_risks_counts_rows_as_the_owners_file_does(
    tmp_path: Path, write_policy: Writer, midguard: Gate
) -> None:
    import csv

    model = lay_out(tmp_path / "twice", n=200, hidden=16, epochs=2)
    path, description = model.parent / "nonmembers.npz", model.parent / "model.yaml"
    with np.load(path) as stored:
        x, y = (np.concatenate([stored[name][:1], stored[name]]) for name in ("x", "y"))
    np.savez(path, x=x, y=y)
    text = re.sub(r'nonmembers.npz, sha256: "?[0-9a-f]{64}"?', "nonmembers.npz", description.read_text())
    text = re.sub(r'nonmembers.npz\n +sha256: "?[0-9a-f]{64}"?', "nonmembers.npz", text)
    description.write_text(text)
    policy = write_policy(f"{ADVANTAGE}, attacks: [membership.loss], max: 0.9")
    ended = midguard("check", policy, model, "--records", tmp_path / "risks.csv")
    assert ended.code != 2, ended.err
    with (tmp_path / "risks.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "nonmember"]
    assert [int(row["class"]) for row in rows] == [int(y[int(row["row"])]) for row in rows]
    assert [int(row["row"]) for row in rows] == [0, *range(2, 201)]
