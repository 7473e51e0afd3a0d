"""The gate closes: every way of not having measured something, with its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midguard.attacks.membership.loss import Loss
from midguard.engine.controls import Controls, Stage

from .conftest import Ended

Gate = Callable[..., Ended]
Writer = Callable[..., Path]

LOSS = "id: advantage, measure: membership.advantage, attacks: [membership.loss]"


def edit(path: Path, pattern: str, replacement: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, flags=re.MULTILINE | re.DOTALL)
    assert changed != text, f"{pattern} is not in {path}"
    path.write_text(changed)


def without_digest(folder: Path, part: str) -> None:
    """Take away the stated digest of a part of the data."""
    edit(folder / "model.yaml", rf"({part}:.*?)sha256: \"?[0-9a-f]{{64}}\"?", r"\1")


def status(ended: Ended, name: str = "advantage") -> dict[str, object]:
    found = {f["id"]: f for f in json.loads(ended.out)["findings"]}
    return dict(found[name])


def test_a_careless_model_fails_with_its_number(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.1"), careless / "model.pt", "--format", "json")
    found = status(ended)
    assert ended.code == 1
    assert found["status"] == "fail"
    assert 0.1 < found["low"] <= found["value"] <= found["high"]  # type: ignore[operator]
    assert found["attacks"][0]["controls"]["positive"]["ok"] is True  # type: ignore[index]
    assert found["attacks"][0]["controls"]["negative"]["ok"] is True  # type: ignore[index]


def test_a_limit_above_the_leak_passes(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended)["status"]) == (0, "pass")


def test_a_limit_inside_the_interval_is_inconclusive(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    model = careless / "model.pt"
    value = status(midguard("check", write_policy(f"{LOSS}, max: 0.1"), model, "--format", "json"))["value"]
    ended = midguard("check", write_policy(f"{LOSS}, max: {value + 0.01:.4f}"), model, "--format", "json")  # type: ignore[operator]
    found = status(ended)
    assert (ended.code, found["status"]) == (3, "inconclusive")
    assert found["recordsNeeded"] > found["records"]  # type: ignore[operator]


def test_a_misspelt_attack_is_bad_input(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    policy = write_policy("id: advantage, measure: membership.advantage, attacks: [membership.los], max: 0.1")
    ended = midguard("check", policy, careless / "model.pt")
    assert ended.code == 2
    assert "membership.loss" in ended.err
    assert "policy.yaml:9:" in ended.err


def test_an_attack_that_cannot_be_mounted_is_not_run(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    policy = write_policy(
        "id: distance, measure: inversion.distance, min: 0.1, at: {quantile: 0.5}, "
        "attacks: [inversion.knowledge_alignment, inversion.gradient]"
    )
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    found = status(ended, "distance")
    assert (ended.code, found["status"]) == (3, "not-run")
    assert "weights" in str(found["reason"])


def test_an_attack_that_raises_in_the_middle_is_an_error(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: Loss, target: object, candidates: object, seed: int, progress: Callable[[float], None]) -> None:
        progress(0.5)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Loss, "score", score)
    policy = write_policy("id: advantage, measure: membership.advantage, max: 0.99")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (ended.code, found["status"]) == (4, "error")
    assert "out of luck" in str(found["reason"])


def test_scores_that_are_all_nan_are_inconclusive(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Loss, "score", lambda self, target, candidates, seed, progress: np.full(len(candidates), np.nan)
    )
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.99"), careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (ended.code, found["status"], found["value"]) == (3, "inconclusive", None)


def test_one_nan_on_the_subject_alone_is_inconclusive(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Loss.score

    def score(self: Loss, target, candidates, seed, progress):  # type: ignore[no-untyped-def]
        scores = honest(self, target, candidates, seed, progress).copy()
        scores[0] = np.nan
        return scores

    monkeypatch.setattr(Loss, "score", score)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended)["status"]) == (3, "inconclusive")


def test_a_twin_in_which_no_leak_was_found_is_inconclusive(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(self: Controls) -> tuple[Stage, ...]:
        return self.membership_null()

    monkeypatch.setattr(Controls, "membership_twin", blind)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (ended.code, found["status"]) == (3, "inconclusive")
    assert "did not find the leak" in str(found["reason"])


def test_a_null_in_which_a_leak_is_found_is_inconclusive_even_for_a_failing_model(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Controls, "membership_null", Controls.membership_twin)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.1"), careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended)["status"]) == (3, "inconclusive")


@pytest.mark.parametrize("control", ["membership_twin", "membership_null"])
def test_a_control_that_crashes_never_passes(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    def crash(self: Controls) -> tuple[Stage, ...]:
        raise MemoryError("no room")

    monkeypatch.setattr(Controls, control, crash)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (ended.code, found["status"]) == (3, "inconclusive")
    assert "no room" in str(found["reason"])


def test_empty_requirements_are_bad_input(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    assert midguard("check", write_policy(), careless / "model.pt").code == 2


def test_members_that_are_nonmembers_are_bad_input(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    without_digest(careless, "nonmembers")
    edit(careless / "model.yaml", r"nonmembers\.npz", "members.npz")
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt")
    assert ended.code == 2
    assert "nonmembers" in ended.err


def test_a_swapped_model_is_bad_input(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    import torch

    model = careless / "model.pt"
    weights = torch.load(model, weights_only=True)
    torch.save({name: value * 0.5 for name, value in weights.items()}, model)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), model)
    assert ended.code == 2
    assert "model.yaml" in ended.err


def test_a_missing_ledger_leaves_a_proof_not_run(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    edit(careless / "model.yaml", r"\n  ledger:.*?(?=\n  \S|\Z)", "")
    policy = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 8.0")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended, "budget")["status"]) == (3, "not-run")


def test_a_claim_is_no_proof(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    edit(careless / "model.yaml", r"\n  ledger:.*?(?=\n  \S|\Z)", "\n  claims: {epsilon: 3.0, delta: 1.0e-6}")
    proved = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 8.0")
    assert midguard("check", proved, careless / "model.pt").code == 3
    declared = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5, basis: declared}, max: 8.0")
    ended = midguard("check", declared, careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended, "budget")["basis"]) == (0, "declared")


def test_training_without_a_mechanism_has_no_bound(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    policy = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 1000.0")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    found = status(ended, "budget")
    assert (ended.code, found["status"], found["value"], found["unbounded"]) == (1, "fail", None, True)


def test_a_claim_below_what_an_attack_shows_is_refuted(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    """The advantage requirement itself passes; the claim fails by itself, whatever the limits say."""
    edit(careless / "model.yaml", r"\Z", "\n  claims: {epsilon: 0.01, delta: 1.0e-5}\n")
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    found = status(ended, "claim-epsilon")
    assert (ended.code, status(ended)["status"], found["status"]) == (1, "pass", "fail")
    assert "refuted" in str(found["reason"])
    assert found["value"] > 0.01  # type: ignore[operator]


def test_a_claim_above_what_an_attack_shows_is_not_refuted(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    edit(careless / "model.yaml", r"\Z", "\n  claims: {epsilon: 30.0, delta: 1.0e-5}\n")
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    assert ended.code == 0
    assert "claim-epsilon" not in ended.out


@pytest.mark.parametrize("part", ["members", "nonmembers", "auxiliary"])
def test_missing_records_leave_a_requirement_not_run(
    careless: Path, write_policy: Writer, midguard: Gate, part: str
) -> None:
    edit(careless / "model.yaml", rf"\n    {part}:.*?(?=\n    \S|\n  \S)", "")
    if part == "members":
        edit(careless / "model.yaml", r"\n  ledger:.*?(?=\n  \S|\Z)", "")
    requirement = (
        "id: advantage, measure: inversion.distance, at: {quantile: 0.5}, min: 0.1"
        if part == "auxiliary"
        else f"{LOSS}, max: 0.55"
    )
    ended = midguard("check", write_policy(requirement), careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (ended.code, found["status"]) == (3, "not-run")
    assert part in str(found["reason"])


def test_the_same_seed_repeats_and_a_fresh_one_does_not(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    policy = write_policy(f"{LOSS}, max: 0.55")
    first = midguard("check", policy, careless / "model.pt", "--format", "json", "--seed", 7, "--store", "one")
    again = midguard("check", policy, careless / "model.pt", "--format", "json", "--seed", 7, "--store", "two")
    assert json.loads(first.out)["seed"] == "7"
    assert status(first) == status(again)
    fresh = midguard("check", policy, careless / "model.pt", "--format", "json", "--fresh", "--store", "one")
    assert json.loads(fresh.out)["seed"] != "7"


def test_a_changed_limit_is_judged_from_the_store(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second check runs no attack at all: the attack would raise if it were touched."""
    midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt")
    monkeypatch.setattr(Loss, "score", None)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.1"), careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended)["status"]) == (1, "fail")


@pytest.mark.parametrize("changed", ["parameters", "release", "data"])
def test_the_store_is_not_hit_by_other_work(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Whatever can change a result changes the key: the attack, which now raises, is run again."""
    distance = "id: distance, measure: inversion.distance, at: {{quantile: 0.5}}, min: 0.75, attacks: [{}]"
    plain = distance.format("inversion.knowledge_alignment")
    midguard("check", write_policy(plain), careless / "model.pt", "--seed", 5)
    from midguard.attacks.inversion.knowledge_alignment import KnowledgeAlignment

    monkeypatch.setattr(KnowledgeAlignment, "reconstruct_records", None)
    assert midguard("check", write_policy(plain), careless / "model.pt", "--seed", 5).code in {0, 1}
    requirement = plain
    if changed == "parameters":
        requirement = distance.format("{name: inversion.knowledge_alignment, epochs: 3}")
    elif changed == "release":
        edit(careless / "model.yaml", "exposes: probabilities", "exposes: label")
    else:
        without_digest(careless, "auxiliary")
        with np.load(careless / "auxiliary.npz") as held:
            np.savez(careless / "auxiliary.npz", x=held["x"][1:], y=held["y"][1:])
    assert midguard("check", write_policy(requirement), careless / "model.pt", "--seed", 5).code == 4


def test_a_damaged_entry_is_done_again(careless: Path, write_policy: Writer, midguard: Gate, tmp_path: Path) -> None:
    policy = write_policy(f"{LOSS}, max: 0.55")
    before = status(midguard("check", policy, careless / "model.pt", "--format", "json"))
    entries = [p for p in (tmp_path / ".midguard").rglob("*") if p.is_file() and p.stat().st_size > 2000]
    assert entries
    for entry in entries:
        content = bytearray(entry.read_bytes())
        content[len(content) // 2] ^= 1
        entry.write_bytes(content)
    assert status(midguard("check", policy, careless / "model.pt", "--format", "json")) == before


# --- what a model's owner might try


def replaced(folder: Path, part: str, x: np.ndarray, y: np.ndarray) -> None:
    """Put other records in the place of a part, without a stated digest."""
    without_digest(folder, part)
    np.savez(folder / f"{part}.npz", x=x, y=y)


def part(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / f"{name}.npz") as held:
        return held["x"].copy(), held["y"].copy()


def scaled(folder: Path, factor: float) -> None:
    """Scale the last layer's logits: the same model to whoever sees numbers."""
    import torch

    model = folder / "model.pt"
    weights = torch.load(model, weights_only=True)
    last = [name for name in weights if name.startswith("output")]
    assert last
    torch.save({name: value * factor if name in last else value for name, value in weights.items()}, model)
    edit(folder / "model.yaml", r"(model\.pt\n\s+sha256: )\"?[0-9a-f]{64}\"?", r"\g<1>" + digest(model))
    edit(folder / "model.yaml", r"\n  ledger:.*?(?=\n  \S|\Z)", "")


def digest(path: Path) -> str:
    import hashlib

    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'


@pytest.mark.parametrize("factor", [1e-20, 1e6])
def test_a_scale_of_the_logits_hides_nothing(
    careless: Path, write_policy: Writer, midguard: Gate, factor: float
) -> None:
    scaled(careless, factor)
    policy = write_policy(
        "id: distance, measure: inversion.distance, at: {quantile: 0.5}, min: 0.75, "
        "attacks: [inversion.knowledge_alignment]",
        "id: advantage, measure: membership.advantage, max: 0.2, "
        "attacks: [membership.loss, membership.modified_entropy]",
        access="weights",
    )
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (status(ended, "distance")["status"], found["status"]) == ("fail", "fail"), found["reason"]


def test_answers_that_are_no_numbers_are_right_about_nobody(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midguard.engine import run
    from midguard.engine.observation import NO_ANSWER, Predictions

    honest = run.predictions

    def some_missing(bench: run.Bench) -> Predictions:
        found = honest(bench)
        return Predictions(found.labels, np.where(np.arange(len(found.labels)) < 3, NO_ANSWER, found.predicted))

    monkeypatch.setattr("midguard.engine.check.predictions", some_missing)
    policy = write_policy("id: accuracy, measure: utility.accuracy, min: 0.1")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended, "accuracy")["status"]) == (3, "inconclusive")


def test_nonmembers_chosen_to_look_like_members_hide_nothing(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    """Keep the nonmembers that a model is surest of: the null, which saw nobody, is surer of them too."""
    import torch

    from midguard.engine.subject import load_module, load_subject

    x, y = part(careless, "nonmembers")
    with torch.no_grad():
        logits = load_module(load_subject(careless / "model.pt"))(torch.tensor(x))
    own = torch.log_softmax(logits, 1).numpy()[np.arange(len(y)), y]
    keep = np.argsort(-own)[: int(0.6 * len(y))]
    replaced(careless, "nonmembers", x[keep], y[keep])
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.3"), careless / "model.pt", "--format", "json")
    found = status(ended)
    assert (ended.code, found["status"]) == (3, "inconclusive")
    assert "told apart" in str(found["reason"])


def test_near_copies_of_members_are_no_nonmembers(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    x, y = part(careless, "members")
    x[:, 0, 0, 0] = np.abs(x[:, 0, 0, 0] - 0.01)
    replaced(careless, "nonmembers", x, y)
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.2"), careless / "model.pt")
    assert ended.code == 2
    assert "near copies" in ended.err


def test_a_record_that_stands_ten_times_counts_once(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    x, y = part(careless, "nonmembers")
    replaced(careless, "nonmembers", np.repeat(x[:60], 10, axis=0), np.repeat(y[:60], 10))
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", "--format", "json")
    members = json.loads(ended.out)["subject"]["data"]["members"]["records"]
    assert status(ended)["records"] == members + 60


def test_a_ledger_over_other_records_is_refused(careless: Path, write_policy: Writer, midguard: Gate) -> None:
    ledger = json.loads((careless / "ledger.json").read_text())
    ledger["records"] = 5
    (careless / "ledger.json").write_text(json.dumps(ledger))
    edit(careless / "model.yaml", r"ledger:.*?(?=\n  \S|\Z)", "ledger: ledger.json")
    policy = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 8.0")
    ended = midguard("check", policy, careless / "model.pt")
    assert ended.code == 2
    assert "5 records" in ended.err


def test_a_claim_is_not_refuted_by_records_that_differ_by_themselves(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    """Nonmembers under scrambled labels are told apart by any model, also by one that saw nobody."""
    x, y = part(careless, "nonmembers")
    replaced(careless, "nonmembers", x, (y + 1) % 10)
    edit(careless / "model.yaml", r"\Z", "\n  claims: {epsilon: 0.01, delta: 1.0e-5}\n")
    at = "id: advantage, measure: membership.tpr, at: {fpr: 0.01}, attacks: [membership.loss], max: 0.99"
    ended = midguard("check", write_policy(at), careless / "model.pt", "--format", "json")
    assert "claim-epsilon" not in ended.out
    assert ended.code == 3


@pytest.mark.parametrize("limit", [0.1, 0.55])
def test_a_null_that_crashes_shows_no_violation_either(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr(Controls, "membership_null", None)
    ended = midguard("check", write_policy(f"{LOSS}, max: {limit}"), careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended)["status"]) == (3, "inconclusive")


@pytest.mark.parametrize("wrong", ["nan", "architecture"])
def test_a_model_that_cannot_be_loaded_is_bad_input_before_anything_is_trained(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setattr(Controls, "membership_null", None)
    if wrong == "nan":
        scaled(careless, float("nan"))
    else:
        edit(careless / "model.yaml", r"hidden: \[128\]", "hidden: [64]")
    ended = midguard("check", write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt")
    assert ended.code == 2
    assert "training" not in ended.err


def test_a_measure_that_breaks_does_not_lose_a_violation_beside_it(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midguard.engine.measures.utility.accuracy import Accuracy

    monkeypatch.setattr(Accuracy, "measure", None)
    policy = write_policy(f"{LOSS}, max: 0.1", "id: accuracy, measure: utility.accuracy, min: 0.1")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert (ended.code, status(ended, "accuracy")["status"]) == (1, "error")


def test_everything_is_done_again_where_it_is_asked_for(
    careless: Path, write_policy: Writer, midguard: Gate, tmp_path: Path
) -> None:
    """An entry planted for the account is not believed by --fresh."""
    policy = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 8.0")
    assert midguard("check", policy, careless / "model.pt").code == 1
    import hashlib

    for entry in (p for p in (tmp_path / ".midguard").rglob("*") if p.is_file()):
        content = entry.read_bytes()[32:]
        if b'"proved"' in content:
            planted = content.replace(b"Infinity", b"0.5")
            entry.write_bytes(hashlib.sha256(planted).digest() + planted)
    assert midguard("check", policy, careless / "model.pt", "--fresh").code == 1


FACTORY = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden1 = torch.nn.Linear(64, 128)
        self.output = torch.nn.Linear(128, 10)

    def forward(self, x):
        return self.output(torch.relu(self.hidden1(x.flatten(1))))


def build():
    return Net()
"""


def test_outcomes_of_the_users_own_code_are_never_taken_from_the_store(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    source = careless / "mine_for_the_gate.py"
    source.write_text(FACTORY)
    edit(careless / "model.yaml", r"architecture:.*?(?=\n  \S)", 'factory: "mine_for_the_gate:build"')
    policy = write_policy(f"{LOSS}, max: 0.1")
    model = careless / "model.pt"
    assert midguard("check", policy, model).code == 2  # the user's code does not run unasked
    assert midguard("check", policy, model, "--trust-code", "--seed", 3).code == 1
    assert midguard("check", policy, model, "--seed", 3).code == 2  # nor is its outcome found in the store


def test_the_report_says_whether_the_interface_or_the_training_protects(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    """The careless model behind a label: what it shows of a record is kept back by the interface alone."""
    edit(careless / "model.yaml", "exposes: probabilities", "exposes: label")
    policy = write_policy(
        "id: distance, measure: inversion.distance, at: {quantile: 0.25}, min: 0.75, "
        "attacks: [inversion.knowledge_alignment]"
    )
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert ended.code == 0
    assert "the interface keeps it, not the training" in str(status(ended, "distance")["protection"])


def test_an_explanation_that_crashes_changes_no_verdict(
    careless: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midguard.engine.run import Bench

    edit(careless / "model.yaml", "exposes: probabilities", "exposes: label")
    monkeypatch.setattr(Bench, "target_in", lambda self, role: None if role == "open" else self.subject_target())
    policy = write_policy(
        "id: distance, measure: inversion.distance, at: {quantile: 0.25}, min: 0.75, "
        "attacks: [inversion.knowledge_alignment]"
    )
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    assert ended.code == 0
    assert "it is not known what protects" in str(status(ended, "distance")["protection"])


def test_a_forged_ledger_is_refuted_by_what_the_attacks_show(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    """Whoever writes his own ledger gets his own proof, and a failure beside it."""
    ledger = json.loads((careless / "ledger.json").read_text())
    event = {"kind": "sampled-gaussian", "sampling_probability": 0.1, "noise_multiplier": 50.0, "steps": 10}
    ledger["events"] = [event | {"clipping_norm": 1.0}]
    (careless / "ledger.json").write_text(json.dumps(ledger))
    edit(careless / "model.yaml", r"ledger:.*?(?=\n  \S|\Z)", "ledger: ledger.json")
    policy = write_policy("id: budget, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 8.0", f"{LOSS}, max: 0.55")
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    found = status(ended, "proof-epsilon")
    assert (ended.code, status(ended, "budget")["status"], found["status"]) == (1, "pass", "fail")
    assert "the proved ε is" in str(found["reason"])


def test_a_twin_is_of_the_subjects_own_network_whatever_the_recipe_says(careless: Path, write_policy: Writer) -> None:
    """A recipe of a network that learns nothing by heart would make every attack look blind, one that does, sighted."""
    from midguard.engine.architectures.mlp import Mlp
    from midguard.engine.check import prepare

    edit(careless / "recipe.yaml", r"hidden: \[128\]", "hidden: [3]")
    bench = prepare(write_policy(f"{LOSS}, max: 0.55"), careless / "model.pt", store=careless / "store")
    assert bench.controls.recipe.architecture == Mlp(hidden=(128,))


def test_people_whom_no_evaluator_knows_are_not_run_and_no_crash(
    careless: Path, write_policy: Writer, midguard: Gate
) -> None:
    """Auxiliary records and nonmembers of eight classes alone: nobody can judge the other two."""
    for name in ("nonmembers", "auxiliary"):
        x, y = part(careless, name)
        replaced(careless, name, x[y < 8], y[y < 8])
    policy = write_policy(
        "id: identity, measure: inversion.identification, max: 0.1, attacks: [{name: inversion.mi_face, alpha: 20}]",
        access="weights",
    )
    ended = midguard("check", policy, careless / "model.pt", "--format", "json")
    found = status(ended, "identity")
    assert (ended.code, found["status"]) == (3, "not-run")
    assert "evaluators" in str(found["reason"])
