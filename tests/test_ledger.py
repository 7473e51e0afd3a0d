"""The ledger file: it comes back as it was written, and nothing that was bent is read."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midguard.engine.errors import Exit, InputError
from midguard.engine.ledger import (
    ENGINE_SAMPLER,
    SCHEMA,
    Adjacency,
    AuditResult,
    Claim,
    Event,
    EvidenceResult,
    Ledger,
    NonPrivate,
    Repetitions,
    SampledGaussian,
    Sampler,
    Tuned,
    Unit,
    read_ledger,
)

DIGEST = "0" * 63 + "a"
STEP = SampledGaussian(sampling_probability=0.1, noise_multiplier=1.1, steps=300, clipping_norm=1.0)


def ledger(*events: Event) -> Ledger:
    return Ledger(events=events or (STEP,), records=600, data=DIGEST, model=DIGEST, written_by="midguard 0.1.0")


def written(tmp_path: Path, **changes: object) -> Path:
    """A ledger file in which some values were replaced; `...` takes one out."""
    document = json.loads(ledger().to_json()) | changes
    path = tmp_path / "ledger.json"
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not ...}))
    return path


def event(**changes: object) -> list[dict[str, object]]:
    first: dict[str, object] = json.loads(ledger().to_json())["events"][0]
    return [first | changes]


def best(**changes: object) -> list[dict[str, object]]:
    """The best of a Poisson number of runs, whose mean is missing."""
    return [{"kind": "tuned", "event": event()[0], "distribution": "poisson"} | changes]


numbers = st.floats(min_value=0, exclude_min=True, max_value=1e9)
sums = st.builds(
    SampledGaussian,
    sampling_probability=st.floats(min_value=0, max_value=1, exclude_min=True),
    noise_multiplier=numbers,
    steps=st.integers(1, 10**6),
    clipping_norm=numbers,
    sampler=st.sampled_from(Sampler),
    evidence=st.text(),
    count_noise_multiplier=st.none() | numbers,
)
tuned = st.one_of(
    st.builds(Tuned, sums, st.just(Repetitions.POISSON), mean=st.floats(1, 1e6)),
    st.builds(
        Tuned,
        sums,
        st.just(Repetitions.TRUNCATED_NEGATIVE_BINOMIAL),
        eta=st.floats(0, 10),
        gamma=st.floats(1e-6, 1, exclude_max=True),
    ),
)


@given(st.lists(st.one_of(sums, tuned, st.builds(NonPrivate, reason=st.text())), min_size=1, max_size=4))
def test_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.json"
    path.write_text(ledger(*events).to_json(), encoding="utf-8")
    assert read_ledger(path) == ledger(*events)


def test_says_what_it_is(tmp_path: Path) -> None:
    document = json.loads(ledger().to_json())
    assert document["$schema"] == SCHEMA
    assert document["events"][0]["kind"] == "sampled-gaussian"
    assert (document["unit"], document["adjacency"]) == (Unit.RECORD, Adjacency.ADD_REMOVE)
    assert ledger().private
    assert not ledger(STEP, NonPrivate("trained without a mechanism")).private


@pytest.mark.parametrize(
    ("writer", "proves"), [("midguard 0.1.0", True), ("", False), ("midguardian 1", False), ("opacus", False)]
)
def test_only_midguards_own_ledger_proves(tmp_path: Path, writer: str, proves: bool) -> None:
    assert read_ledger(written(tmp_path, written_by=writer)).proves is proves


@pytest.mark.parametrize(
    "changes",
    [
        {"events": []},
        {"events": ...},
        {"events": None},
        {"events": event(kind="laplace")},
        {"events": event(kind=["sampled-gaussian"])},
        {"events": event(noise_multiplier=0)},
        {"events": event(noise_multiplier=-1.1)},
        {"events": event(noise_multiplier="1.1")},
        {"events": event(noise_multiplier=True)},
        {"events": event(noise_multiplier=1e999)},
        {"events": event(noise_multiplier=math.nan)},
        {"events": event(sampling_probability=0)},
        {"events": event(sampling_probability=1.5)},
        {"events": event(steps=0)},
        {"events": event(steps=1.5)},
        {"events": event(steps=True)},
        {"events": event(steps=math.nan)},
        {"events": event(steps=10**12)},
        {"events": event(clipping_norm=0)},
        {"events": event(clipping_norm=math.inf)},
        {"events": event(poisson=True)},
        {"events": event(sampler="trusted")},
        {"events": event(sampler=None)},
        {"events": event(sampler=["poisson"])},
        {"events": event(evidence=True)},
        {"events": event(evidence=None)},
        {"events": event(count_noise_multiplier=0)},
        {"events": event(count_noise_multiplier=math.inf)},
        {"events": event(count_noise_multiplier="5")},
        {"events": best()},
        {"events": best(mean=0.5)},
        {"events": best(mean=math.nan)},
        {"events": best(mean=True)},
        {"events": best(mean=3, eta=1)},
        {"events": best(mean=3, gamma=0.1)},
        {"events": best(mean=3, distribution="fixed")},
        {"events": best(mean=3, distribution=None)},
        {"events": best(mean=3, event={"kind": "non-private", "reason": ""})},
        {"events": best(mean=3, event=best(mean=3)[0])},
        {"events": best(mean=3, event={})},
        {"events": best(mean=3, event=None)},
        {"events": best(distribution="truncated-negative-binomial", eta=1)},
        {"events": best(distribution="truncated-negative-binomial", gamma=0.1)},
        {"events": best(distribution="truncated-negative-binomial", eta=-0.5, gamma=0.1)},
        {"events": best(distribution="truncated-negative-binomial", eta=1, gamma=1)},
        {"events": best(distribution="truncated-negative-binomial", eta=1, gamma=0)},
        {"events": best(distribution="truncated-negative-binomial", eta=1, gamma=0.1, mean=3)},
        {"largest_group": 0},
        {"largest_group": 601},
        {"largest_group": 2.0},
        {"largest_group": True},
        {"resumed": -1},
        {"resumed": 0.0},
        {"resumed": False},
        {"resumed": None},
        {"events": [{"kind": "non-private", "reason": 3}]},
        {"events": [{"kind": "non-private"}]},
        {"events": event() * 1001},
        {"records": 0},
        {"records": 1.5},
        {"records": True},
        {"records": "600"},
        {"data": ...},
        {"data": "abc"},
        {"data": DIGEST.upper()},
        {"model": 7},
        {"unit": "household"},
        {"adjacency": "swap"},
        {"adjacency": ...},
        {"written_by": None},
        {"$schema": "https://example.org/other"},
        {"$schema": ...},
        {"epsilon": 0.1},
    ],
)
def test_bent_values_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="not a ledger that midguard can read") as refused:
        read_ledger(written(tmp_path, **changes))
    assert refused.value.exit_code is Exit.BAD_INPUT


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b"{}" + b" " * (1 << 20), b'"events"'],
    ids=["empty", "list", "null", "cut off", "not UTF-8", "deep", "large", "text"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"ledger\.json"):
        read_ledger(path)


def test_a_value_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    text = ledger().to_json()
    path.write_text(text.replace('"steps": 300', '"steps": 300, "steps": 3'))
    with pytest.raises(InputError, match="twice"):
        read_ledger(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such"):
        read_ledger(tmp_path / "no-such.json")


@pytest.mark.parametrize(("epsilon", "delta"), [(-1, 1e-5), (math.nan, 1e-5), (1, -1e-5), (1, 1.0), (1, math.nan)])
def test_impossible_claims_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Claim(epsilon, delta)


def test_a_ledger_that_does_not_say_how_it_sampled_is_not_believed_to_have(tmp_path: Path) -> None:
    """As earlier versions wrote them, and as any accountant's history is."""
    first = {name: value for name, value in event()[0].items() if name not in ("sampler", "evidence")}
    (found,) = read_ledger(written(tmp_path, events=[first])).events
    assert isinstance(found, SampledGaussian)
    assert (found.sampler, found.evidence, found.amplified) == (Sampler.UNKNOWN, "", False)
    older = read_ledger(written(tmp_path, largest_group=..., resumed=...))
    assert (older.largest_group, older.resumed, older.knows_persons) == (1, 0, False)


@pytest.mark.parametrize(
    ("sampler", "evidence", "amplified"),
    [
        (Sampler.POISSON, ENGINE_SAMPLER, True),
        (Sampler.POISSON, "", False),
        (Sampler.POISSON, " \n", False),
        (Sampler.SHUFFLED, ENGINE_SAMPLER, False),
        (Sampler.UNKNOWN, ENGINE_SAMPLER, False),
    ],
)
def test_only_poisson_samples_that_something_shows_are_amplified(
    sampler: Sampler, evidence: str, amplified: bool
) -> None:
    assert dataclasses.replace(STEP, sampler=sampler, evidence=evidence).amplified is amplified


@pytest.mark.parametrize(
    ("probability", "steps", "uses"), [(0.1, 300, 30), (0.1, 301, 31), (1.0, 7, 7), (1e-6, 5, 1), (1 / 3, 3, 1)]
)
def test_a_record_takes_part_once_in_each_pass(probability: float, steps: int, uses: int) -> None:
    assert dataclasses.replace(STEP, sampling_probability=probability, steps=steps).uses == uses


def test_adaptive_clipping_leaves_less_noise() -> None:
    """Andrew et al. 2019, theorem 1, with σ_count in units of the count's sensitivity: 1/σ² = 1/σ_Δ² + 1/σ_count²."""
    adaptive = dataclasses.replace(STEP, noise_multiplier=3.0, count_noise_multiplier=4.0)
    assert adaptive.effective_noise_multiplier == pytest.approx(2.4)
    assert STEP.effective_noise_multiplier == STEP.noise_multiplier


def test_an_audit_without_tests_cannot_be_built() -> None:
    test = EvidenceResult("noise", refuted=True, conclusive=True, statistic=9.0, p=1e-9, detail="half the noise")
    assert AuditResult((test,)).refuted == (test,)
    for tests in ((), (test, test)):
        with pytest.raises(ValueError, match="test"):
            AuditResult(tests)


def test_an_empty_ledger_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="proves nothing"):
        Ledger(events=(), records=1, data="", model="")
