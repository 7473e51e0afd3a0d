"""The audit from `train --audit` to the verdict: what it leaves and binds, and that none of it can be left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from midguard.engine import bounds, registry
from midguard.engine.audit import Audit, Found, Observer, Planned, audit_json, read_audit
from midguard.engine.errors import InputError, MidguardError, NotMeasurable
from midguard.engine.folder import audited
from midguard.engine.ledger import (
    Account,
    AuditBound,
    AuditResult,
    EvidenceResult,
    Ledger,
    NonPrivate,
    Planted,
    SampledGaussian,
    read_ledger,
)
from midguard.engine.measures.privacy.epsilon import Epsilon
from midguard.reports.html import render_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: watched, version: "1"}
spec:
  architecture: {name: mlp, hidden: [32]}
  task: {kind: classification, classes: 10, input: [1, 8, 8], range: [0, 1]}
  data:
    source: builtin:digits
    split: {members: 0.5, nonmembers: 0.4, auxiliary: 0.1, seed: 3}
  optimizer: {name: sgd, lr: 0.5}
  epochs: 6
  batch_size: 64
  seed: 3
  defense: {name: dp_sgd, noise_multiplier: 1.2, delta: 1.0e-4}
  release: {exposes: probabilities}
"""
PROOF = "id: dp, title: dp, measure: privacy.epsilon, at: {delta: 1.0e-4}, max: 8"
AUDITED = "id: dp, title: dp, measure: privacy.epsilon, at: {delta: 1.0e-4, evidence: audited}, max: 8"


#: Instead of the 0.001 that a test may spend: what is broken here has p = 0, and what is right may not flicker.
SELDOM = 1e-4


@pytest.fixture(scope="module", autouse=True)
def still() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("midguard.engine.audit.LEVEL", SELDOM)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model whose training was audited; not to be written to."""
    from midguard.engine.training import train

    folder = tmp_path_factory.mktemp("audited")
    (folder / "recipe.yaml").write_text(RECIPE)
    return train(folder / "recipe.yaml", folder / "model", audit=True).parent


@pytest.fixture
def watched(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder, the test's own."""
    return Path(shutil.copytree(made, tmp_path / "watched"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The audit with a change, and its digest written anew, as somebody would who means to deceive."""
    path, subject = folder / "audit.json", folder / "model.yaml"
    before, document = sha256(path), json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    subject.write_text(subject.read_text().replace(before, sha256(path)))


def refute(name: str) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> None:
        test = next(test for test in document["tests"] if test["name"] == name)
        test.update(refuted=True, p=0.0, statistic=-237.0, detail="the noise has 0.25 times the variance")

    return change


# What training leaves


def test_the_audit_is_bound_to_model_and_ledger_and_counts_what_it_planted(made: Path) -> None:
    document = json.loads((made / "audit.json").read_text())
    assert document["model"] == sha256(made / "model.pt")
    assert document["ledger"] == sha256(made / "ledger.json")
    result, ledger = audited(made), read_ledger(made / "ledger.json")
    assert result is not None
    assert {test.name for test in result.tests} == set(registry.names("audits"))
    assert (result.delta, result.level) == (1e-4, SELDOM)
    members = np.load(made / "members.npz")
    # Canaries that could have been in are counted, and the sampler went over those that were.
    assert len(members["y"]) == 899
    assert result.planted.records == 449
    assert ledger.records == 899 + 449
    (event,) = ledger.events
    assert isinstance(event, SampledGaussian)
    assert event.sampling_probability == pytest.approx(64 / (899 + result.planted.records_in))
    assert result.planted.gradients == (64 * 32 + 32 + 32 * 10 + 10) // 10
    assert result.planted.probes == 3


def test_nothing_that_is_left_says_which_canary_was_in(made: Path) -> None:
    """No list is as long as the canaries are many, none lies among the records, of a key only its hash is left."""
    document = json.loads((made / "audit.json").read_text())
    assert set(document) == {"$schema", "model", "ledger", "written_by", "delta", "level", "planted", "tests"}
    for test in document["tests"]:
        assert set(test) == {"name", "refuted", "conclusive", "statistic", "p", "detail", "bounds", "key"}
        assert all(isinstance(test[name], str | float | int | bool | None) for name in test if name != "bounds")
        assert re.fullmatch("[0-9a-f]{64}", test["key"])
        assert len(test["bounds"]) <= 4
    assert len({test["key"] for test in document["tests"]}) == len(document["tests"])
    for name in ("members", "nonmembers", "auxiliary"):
        x = np.load(made / f"{name}.npz")["x"].reshape(-1, 64)
        assert not np.isin(x, (0.0, 1.0)).all(axis=1).any()


def test_train_says_what_the_tests_said(midguard: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    ended = midguard("train", "recipe.yaml", "--out", "m", "--audit")
    assert ended.code == 0
    assert ended.err.count("held:") + ended.err.count("inconclusive:") == 6
    assert "canary records" in ended.err


def test_train_ends_in_1_where_the_training_is_not_what_its_ledger_says(
    midguard: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the noise, as from a bug in the engine itself: the ledger says nothing of it, the audit does."""
    from midguard.engine.defenses._secret import Secret

    drawn = Secret.fill

    def less(self: Any, out: Any, deviation: float) -> None:
        drawn(self, out, deviation / 2)

    monkeypatch.setattr(Secret, "fill", less)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    ended = midguard("train", "recipe.yaml", "--out", "m", "--audit")
    assert ended.code == 1
    assert "audit.noise_meter: REFUTED" in ended.err
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY % PROOF)
    checked = midguard("check", policy, "m/model.pt", "--store", "s")
    assert checked.code == 1
    assert "evidence-noise-meter" in checked.out


POLICY = """
apiVersion: midguard.dev/v1
kind: PrivacyPolicy
metadata: {name: test, version: "1", owner: privacy-office@example.org}
spec:
  adversary: {access: weights}
  confidence: 0.95
  requirements:
    - {severity: high, %s}
"""


def test_a_training_without_a_mechanism_has_nothing_to_audit(midguard: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(re.sub(r"  defense: .*\n", "", RECIPE))
    ended = midguard("train", "recipe.yaml", "--out", "m", "--audit")
    assert ended.code == 2
    assert "names no defense" in ended.err
    assert not (tmp_path / "m").exists()


def test_an_audited_training_that_was_interrupted_does_not_go_on(tmp_path: Path) -> None:
    """Its canaries are nowhere kept: neither with an audit nor without one can it be finished, and its steps count."""
    from midguard.engine.training import train

    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def stop(epoch: Any, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "recipe.yaml", tmp_path / "m", stop, audit=True)
    for audit in (True, False):
        with pytest.raises(InputError, match="unfinished"):
            train(tmp_path / "recipe.yaml", tmp_path / "m", audit=audit)
    train(tmp_path / "recipe.yaml", tmp_path / "m", fresh=True, audit=True)
    result = audited(tmp_path / "m")
    assert result is not None
    assert len(read_ledger(tmp_path / "m" / "ledger.json").events) == 2
    assert len(result.inconclusive) == 6  # it did not see everything that the ledger counts


# What check makes of it


def test_an_audit_that_held_is_in_the_evidence_and_the_report(
    watched: Path, midguard: Callable[..., Any], write_policy: Callable[..., Path]
) -> None:
    ended = midguard("check", write_policy(AUDITED), watched / "model.pt", "--format", "json")
    assert ended.code == 0, ended.out + ended.err
    evidence = json.loads(ended.out)
    assert evidence["verdict"] == "pass"
    audit = evidence["audit"]
    assert audit["planted"]["records"] == 449
    assert [test["refuted"] for test in audit["tests"]] == [False] * 6
    page = render_html(evidence, None)
    assert "Audit of the training" in page
    assert all(test["name"] in page and test["detail"].split(";")[0] in page for test in audit["tests"])
    assert "an estimate, which bounds nothing" in page
    for output in ("table", "markdown", "junit"):
        ended = midguard("check", write_policy(PROOF), watched / "model.pt", "--format", output)
        assert "audit of the training: 6 held" in ended.out.replace("\\:", ":")


@pytest.mark.parametrize("name", ["noise_meter", "input_canaries"])
def test_a_refuted_test_fails_the_check_whatever_the_limit_says(
    watched: Path, midguard: Callable[..., Any], write_policy: Callable[..., Path], name: str
) -> None:
    rewritten(watched, refute(name))
    generous = write_policy(PROOF.replace("max: 8", "max: 1000"))
    ended = midguard("check", generous, watched / "model.pt", "--format", "json")
    assert ended.code == 1
    evidence = json.loads(ended.out)
    failed = [f for f in evidence["findings"] if f["status"] == "fail"]
    assert [f["id"] for f in failed] == [f"evidence-{name.replace('_', '-')}"]
    assert failed[0]["severity"] == "critical"
    assert failed[0]["reason"].startswith(f"refuted: audit.{name}")
    assert f"audit.{name}" in render_html(evidence, None)
    # Evidence that leaves the finding out contradicts itself, and no rendering is made of it.
    evidence["findings"] = [f for f in evidence["findings"] if f["status"] != "fail"]
    evidence |= {"verdict": "pass", "exitCode": 0}
    with pytest.raises(Exception, match="refutes the ledger"):
        render_html(evidence, None)


def inconclusive(document: dict[str, Any]) -> None:
    document["tests"][2].update(conclusive=False, p=None, statistic=None)


def missing(document: dict[str, Any]) -> None:
    document["tests"] = document["tests"][:-1]


@pytest.mark.parametrize(
    ("change", "says"), [(inconclusive, "was inconclusive"), (missing, "did not run"), (refute("whiteness"), "refuted")]
)
def test_only_a_whole_audit_that_held_meets_a_policy_that_asks_for_one(
    watched: Path, midguard: Callable[..., Any], write_policy: Callable[..., Path], change: Any, says: str
) -> None:
    rewritten(watched, change)
    ended = midguard("check", write_policy(AUDITED), watched / "model.pt", "--format", "json")
    assert ended.code in {1, 3}
    finding = next(f for f in json.loads(ended.out)["findings"] if f["id"] == "dp")
    assert finding["status"] == "not-run"
    assert says in finding["reason"]


def test_no_audit_is_never_a_pass_of_what_asks_for_one() -> None:
    ledger = Ledger((SampledGaussian(0.1, 2.0, 10, 1.0),), 10_000, "0" * 64, "0" * 64, written_by="midguard 1")
    with pytest.raises(NotMeasurable, match="not audited"):
        Epsilon(delta=1e-5, evidence="audited").measure(Account(ledger, None), 0.0)
    assert Epsilon(delta=1e-5).measure(Account(ledger, None), 0.0).value > 0
    with pytest.raises(ValueError, match="unknown evidence"):
        Epsilon(delta=1e-5, evidence="hearsay")  # type: ignore[arg-type]


def cut_audit(folder: Path) -> None:
    """Somebody takes the audit out of the description: the ledger counts canaries that nobody explains any more."""
    subject = folder / "model.yaml"
    subject.write_text(re.sub(r"  audit:(\n    .*)+\n|  audit: \{.*\}\n", "", subject.read_text()))
    assert "audit" not in subject.read_text().split("spec:")[1]


def other_model(folder: Path) -> None:
    rewritten(folder, lambda document: document.update(model="0" * 64))


def other_ledger(folder: Path) -> None:
    rewritten(folder, lambda document: document.update(ledger="0" * 64))


def somebody_elses(folder: Path) -> None:
    rewritten(folder, lambda document: document.update(written_by="a friend"))


def more_planted(folder: Path) -> None:
    rewritten(folder, lambda document: document["planted"].update(records=450))


def no_tests(folder: Path) -> None:
    rewritten(folder, lambda document: document.update(tests=[]))


def a_test_twice(folder: Path) -> None:
    rewritten(folder, lambda document: document["tests"].append(document["tests"][0]))


def yes_as_a_word(folder: Path) -> None:
    rewritten(folder, lambda document: document["tests"][0].update(refuted="no"))


def sure_without_a_number(folder: Path) -> None:
    rewritten(folder, lambda document: document["tests"][0].update(p=None))


def another_field(folder: Path) -> None:
    rewritten(folder, lambda document: document.update(remark="fine"))


def edited(folder: Path) -> None:
    path = folder / "audit.json"
    path.write_text(path.read_text().replace('"refuted": false', '"refuted":  false'))


def endless(folder: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        next(test for test in document["tests"] if test["bounds"])["bounds"][0]["epsilon"] = None

    rewritten(folder, change)


def no_digest(folder: Path) -> None:
    subject = folder / "model.yaml"
    subject.write_text(re.sub(r"(  audit:)(.*\n)+?(?=\S|\Z)", r"\1 {file: audit.json}\n", subject.read_text()))


def no_file(folder: Path) -> None:
    (folder / "audit.json").unlink()


def no_ledger(folder: Path) -> None:
    subject = folder / "model.yaml"
    subject.write_text(re.sub(r"  ledger: \{.*\}\n|  ledger:(\n    .*)+\n", "", subject.read_text()))


TAMPERINGS = [
    cut_audit, other_model, other_ledger, somebody_elses, more_planted, no_tests, a_test_twice, yes_as_a_word,
    sure_without_a_number, endless, another_field, edited, no_digest, no_file, no_ledger,
]  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_an_audit_that_was_tampered_with_is_bad_input(
    watched: Path, midguard: Callable[..., Any], write_policy: Callable[..., Path], tamper: Callable[[Path], None]
) -> None:
    tamper(watched)
    ended = midguard("check", write_policy(PROOF), watched / "model.pt")
    assert ended.code == 2, ended.out + ended.err


# The file and the values


def test_an_audit_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    bound = AuditBound("a method", 1.5, 0.95, 10, 9)
    tests = (
        EvidenceResult(
            "one", False, True, 0.25, 0.5, "in words", (bound, AuditBound("an estimate", 2.0, None, 3)), "k"
        ),
        EvidenceResult("two", False, False, math.nan, math.nan, "stopped"),
    )
    result = AuditResult(tests, Planted(10, 4, 5, 2), 1e-6, 0.002)
    path = tmp_path / "audit.json"
    path.write_text(audit_json(result, "a", "b", "midguard 1"))
    found = read_audit(path, "a", "b")
    assert found.tests[0] == tests[0]
    assert math.isnan(found.tests[1].p)
    assert dataclasses.replace(found, tests=tests) == result
    assert [test.name for test in result.inconclusive] == ["two"]


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.1, math.inf])
def test_a_test_that_says_something_has_a_p(p: float) -> None:
    for refuted, conclusive in ((True, False), (False, True)):
        with pytest.raises(ValueError, match="says something"):
            EvidenceResult("x", refuted, conclusive, 0.0, p, "")
    EvidenceResult("x", False, False, 0.0, p, "")


# Tests that break


class Breaking(Observer):
    def saw(self, seen: Any, contributed: Any) -> None:
        raise RuntimeError("out of order")


class Numberless(Observer):
    def found(self, claimed: Any, module: torch.nn.Module) -> Found:
        return Found(math.nan, math.nan, True, "nothing but NaN")


class Sure(Observer):
    def found(self, claimed: Any, module: torch.nn.Module) -> Found:
        return Found(1.0, 0.5, True, "fine")


def begun(*observers: Observer) -> Audit:
    from midguard.engine.defenses import Setting

    names = {str(i): observer for i, observer in enumerate(observers)}
    audit, module = Audit(names, dict.fromkeys(names, "k"), 1e-5), torch.nn.Linear(2, 2)
    audit.begins(Setting(module, torch.optim.SGD(module.parameters()), torch.zeros(2, 2), 100, 10, 1))
    return audit


def scored(events: tuple[Any, ...], *observers: Observer) -> AuditResult:
    audit = begun(*observers)
    audit.saw(None)  # type: ignore[arg-type]
    return audit.score(Ledger(events, 100, "0" * 64, "0" * 64), torch.nn.Linear(2, 2))


def test_an_audit_is_scored_once() -> None:
    audit = begun(Sure())
    ledger = Ledger((SEEN,), 100, "0" * 64, "0" * 64)
    audit.score(ledger, torch.nn.Linear(2, 2))
    with pytest.raises(MidguardError, match="once"):
        audit.score(ledger, torch.nn.Linear(2, 2))


class Silent:
    """A mechanism that says nothing of its state."""

    def planned(self) -> tuple[Any, ...]:
        return (SEEN,)

    def state(self) -> None:
        return

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x


def test_a_mechanism_without_a_state_is_given_canaries_of_the_planned_norm() -> None:
    class Norms(Observer):
        def before(self, step: int, norm: float, batch: Any) -> Any:
            seen.append(norm)
            return batch

    seen: list[float] = []
    begun(Norms()).watch(Silent()).step(torch.zeros(1, 2), torch.zeros(1))  # type: ignore[arg-type]
    assert seen == [SEEN.clipping_norm]


SEEN = SampledGaussian(1.0, 5.0, 1, 1.0)


def test_a_test_that_stops_or_gives_no_number_is_inconclusive_and_leaves_the_others() -> None:
    broken, numberless, sure = scored((SEEN,), Breaking(), Numberless(), Sure()).tests
    assert (broken.refuted, broken.conclusive) == (False, False)
    assert "out of order" in broken.detail
    assert (numberless.refuted, numberless.conclusive) == (False, False)
    assert sure.conclusive


@pytest.mark.parametrize("events", [(SEEN, SEEN), (NonPrivate("plain"),), (SEEN, NonPrivate("plain"))])
def test_a_ledger_that_holds_more_than_was_watched_leaves_everything_open(events: tuple[Any, ...]) -> None:
    assert [test.conclusive for test in scored(events, Sure()).tests] == [False]


def test_a_mechanism_that_shows_only_a_part_of_its_steps_leaves_everything_open() -> None:
    (test,) = scored((dataclasses.replace(SEEN, steps=2),), Sure()).tests
    assert not test.conclusive
    assert "only 1 of the ledger's 2 steps" in test.detail


def test_an_accountant_that_fails_leaves_everything_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ledger: Ledger, fpr: Any) -> None:
        from midguard.engine.errors import AccountingError

        raise AccountingError("no curve")

    monkeypatch.setattr(bounds, "tpr_bound", fail)
    assert [test.conclusive for test in scored((SEEN,), Sure()).tests] == [False]


def test_two_audits_have_other_keys_and_other_canaries() -> None:
    planned = Planned((4,), 3, (0.0, 1.0), 2000, b"")
    first, second = Audit.plan(planned, 1e-5), Audit.plan(planned, 1e-5)
    assert first.id != second.id
    assert not set(first._keys.values()) & set(second._keys.values())
    from midguard.engine.target import Records

    nobody = Records(np.zeros((1, 4), dtype=np.float32), np.zeros(1, dtype=np.int64))
    assert not np.array_equal(first.with_canaries(nobody).x[:50], second.with_canaries(nobody).x[:50])
