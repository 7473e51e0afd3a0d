"""Ledgers from and for Opacus and dp-accounting: both ways the same cost, by those programs' own accountants."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from midguard.cli import app
from midguard.engine.accountants import account
from midguard.engine.errors import InputError, NotMeasurable
from midguard.engine.exchange import (
    Circumstances,
    Origin,
    events_of_history,
    events_of_tree,
    exported,
    history_of,
    named,
    read_events,
    tree_of,
    tree_of_named,
)
from midguard.engine.ledger import (
    Account,
    Event,
    Ledger,
    NonPrivate,
    Repetitions,
    SampledGaussian,
    Sampler,
    Tuned,
    Unit,
    read_ledger,
)
from midguard.engine.measurement import Basis
from midguard.engine.measures.privacy.epsilon import Epsilon

SHOWN = Circumstances(Sampler.POISSON, "poisson_sampling=True, read in the training's own code")
BARE = Circumstances(Sampler.POISSON)
HISTORY = [(1.1, 0.05, 200), (0.9, 0.05, 100), (0.9, 0.05, 1), (0.9, 0.1, 7)]
DELTA = 1e-5


def ledger(*events: Event) -> Ledger:
    return Ledger(events, 600, "0" * 64, "1" * 64)


def test_opacus_history_becomes_what_happened() -> None:
    events = events_of_history(HISTORY, SHOWN)
    assert events == (SHOWN.sums(1.1, 0.05, 200), SHOWN.sums(0.9, 0.05, 101), SHOWN.sums(0.9, 0.1, 7))
    assert history_of(ledger(*events)) == ((1.1, 0.05, 200), (0.9, 0.05, 101), (0.9, 0.1, 7))


def test_opacus_itself_says_what_the_imported_history_costs() -> None:
    """The accountant is Opacus' own, with its history as it kept it; ours adds no more than both round."""
    from opacus.accountants import PRVAccountant

    theirs = PRVAccountant()
    for _ in range(60):
        theirs.step(noise_multiplier=1.0, sample_rate=0.1)
    events = events_of_history(theirs.state_dict()["history"], SHOWN)
    assert account(ledger(*events), DELTA, curve=False).epsilon == pytest.approx(theirs.get_epsilon(DELTA), abs=0.02)


@pytest.mark.parametrize(
    "told",
    [
        BARE,
        Circumstances(Sampler.SHUFFLED, "the code"),
        Circumstances(Sampler.UNKNOWN),
        Circumstances(Sampler.POISSON, "  "),
    ],
)
def test_without_evidence_nothing_imported_is_amplified(told: Circumstances) -> None:
    """Opacus reports the same ε with Poisson sampling switched off; here that is 3 passes of a plain Gaussian."""
    (event,) = events_of_history([(2.0, 0.01, 300)], told)
    held = ledger(event)
    exact = account(ledger(SampledGaussian(1.0, 2.0, 3, 1.0)), DELTA, curve=False).epsilon
    assert account(held, DELTA, curve=False).epsilon == pytest.approx(exact, abs=1e-9)
    assert history_of(held) == ((2.0, 1.0, 3),)
    assert tree_of(held) == dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(2.0), 3)


@pytest.mark.parametrize(
    "history",
    [[], "abc", [(1.0, 0.1)], [(1.0, 0.1, 0)], [(0.0, 0.1, 5)], [(1.0, 1.1, 5)], [(math.nan, 0.1, 5)], [("1", 0.1, 5)],
     [(1.0, 0.1, 2.5)], [(1.0, True, 5)], {"a": 1}, None, [(1.0 + i, 0.1, 1) for i in range(1001)]],
)  # fmt: skip
def test_a_bent_history_is_refused(history: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        events_of_history(history, SHOWN)


sums = st.builds(
    SampledGaussian,
    sampling_probability=st.floats(1e-4, 1.0),
    noise_multiplier=st.floats(0.1, 100.0),
    steps=st.integers(1, 10**5),
    clipping_norm=st.just(1.0),
    sampler=st.just(Sampler.POISSON),
    evidence=st.just(SHOWN.evidence),
)
tuned = st.one_of(
    st.builds(Tuned, sums, st.just(Repetitions.POISSON), mean=st.floats(1.0, 100.0)),
    st.builds(
        Tuned,
        sums,
        st.just(Repetitions.TRUNCATED_NEGATIVE_BINOMIAL),
        eta=st.floats(0.0, 3.0),
        gamma=st.floats(0.01, 0.9),
    ),
)
happened = st.lists(
    st.one_of(sums, tuned, st.just(NonPrivate("a non-private event in dp-accounting's records"))),
    min_size=1,
    max_size=4,
)


@given(happened)
@settings(max_examples=60, deadline=None)
def test_through_dp_accountings_events_and_back(events: list[Event]) -> None:
    """Equal neighbours may be counted together; the number of tuning runs is kept as its mean."""
    tree = tree_of(ledger(*events))
    plain = json.loads(json.dumps(named(tree), allow_nan=False))
    assert tree_of_named(plain) == tree
    back = events_of_tree(tree, SHOWN)
    assert sum(steps_of(event) for event in back) == sum(steps_of(event) for event in events)
    if len(back) < len(events):
        assert any(alike(a, b) for a, b in pairwise(events))
        return
    for before, after in zip(events, back, strict=True):
        if isinstance(before, Tuned) and isinstance(after, Tuned):
            assert after.expected_runs == pytest.approx(before.expected_runs, rel=1e-9)
            assert (after.event, after.distribution) == (before.event, before.distribution)
        else:
            assert after == before


def steps_of(event: Event) -> int:
    return 0 if isinstance(event, NonPrivate) else event.event.steps if isinstance(event, Tuned) else event.steps


def alike(first: Event, second: Event) -> bool:
    both = isinstance(first, SampledGaussian) and isinstance(second, SampledGaussian)
    return both and dataclasses.replace(first, steps=1) == dataclasses.replace(second, steps=1)


def test_dp_accounting_itself_says_what_the_exported_ledger_costs() -> None:
    events = events_of_history(HISTORY, SHOWN)
    theirs = PLDAccountant(value_discretization_interval=1e-4)
    theirs.compose(tree_of(ledger(*events)))
    assert account(ledger(*events), DELTA, curve=False).epsilon == pytest.approx(theirs.get_epsilon(DELTA), abs=1e-4)


def test_adaptive_clipping_is_exported_with_the_noise_that_its_count_leaves() -> None:
    event = dataclasses.replace(events_of_history(HISTORY[:1], SHOWN)[0], count_noise_multiplier=5.0)  # type: ignore[call-arg]
    theirs = RdpAccountant()
    one = dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(1.1), dp_event.GaussianDpEvent(5.0)])
    theirs.compose(dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(0.05, one), 200))
    ours = RdpAccountant()
    ours.compose(tree_of(ledger(event)))
    assert ours.get_epsilon(DELTA) == pytest.approx(theirs.get_epsilon(DELTA), rel=1e-9)


def test_dp_accountings_own_named_tuple_has_the_same_fields() -> None:
    tree = tree_of(ledger(*events_of_history(HISTORY[:1], SHOWN)))
    theirs = tree.to_named_tuple()
    assert set(named(tree)) == set(theirs._fields)
    assert dp_event.DpEvent.from_named_tuple(theirs) == tree_of_named(named(tree))


GAUSSIAN = dp_event.GaussianDpEvent(1.0)


@pytest.mark.parametrize(
    "tree",
    [
        dp_event.LaplaceDpEvent(1.0),
        dp_event.UnsupportedDpEvent(),
        dp_event.NoOpDpEvent(),
        dp_event.ComposedDpEvent([]),
        dp_event.ComposedDpEvent([GAUSSIAN, dp_event.UnsupportedDpEvent()]),
        dp_event.SelfComposedDpEvent(GAUSSIAN, 0),
        dp_event.SelfComposedDpEvent(GAUSSIAN, 1.5),  # type: ignore[arg-type]
        dp_event.PoissonSampledDpEvent(0.1, dp_event.LaplaceDpEvent(1.0)),
        dp_event.PoissonSampledDpEvent(0.0, GAUSSIAN),
        dp_event.SampledWithoutReplacementDpEvent(100, 10, GAUSSIAN),
        dp_event.GaussianDpEvent(0.0),
        dp_event.RepeatAndSelectDpEvent(dp_event.ComposedDpEvent([GAUSSIAN, dp_event.GaussianDpEvent(2.0)]), 3.0, 0.0),
        dp_event.RepeatAndSelectDpEvent(dp_event.LaplaceDpEvent(1.0), 3.0, 0.0),
        dp_event.RepeatAndSelectDpEvent(GAUSSIAN, 0.5, 1.0),
    ],
    ids=lambda tree: type(tree).__name__,
)
def test_unknown_and_impossible_events_are_refused(tree: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        events_of_tree(tree, SHOWN)


def test_a_non_private_event_stays_one_and_costs_infinity() -> None:
    events = events_of_tree(dp_event.ComposedDpEvent([GAUSSIAN, dp_event.NonPrivateDpEvent()]), SHOWN)
    assert math.isinf(account(ledger(*events), DELTA).epsilon)


@pytest.mark.parametrize(
    "plain",
    [
        {"module_name": "os", "class_name": "system", "command": "true"},
        {"module_name": "dp_accounting.dp_event", "class_name": "importlib"},
        {"module_name": "dp_accounting.dp_event", "class_name": "DpEvent"},
        {"module_name": "dp_accounting.dp_event", "class_name": "GaussianDpEvent"},
        {"module_name": "dp_accounting.dp_event", "class_name": "GaussianDpEvent", "noise_multiplier": 1.0, "q": 1},
        {"class_name": "GaussianDpEvent", "noise_multiplier": 1.0},
        [],
        None,
    ],
)
def test_files_name_dp_accountings_events_and_nothing_else(plain: Any, tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    file.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=r"events\.json"):
        read_events(file, Origin.DP_ACCOUNTING, SHOWN)


def opacus_files(folder: Path) -> list[Path]:
    """The three ways in which an Opacus accountant is kept."""
    state = {"history": HISTORY, "mechanism": "prv"}
    written = [folder / name for name in ("state.json", "state.pt", "checkpoint.pt")]
    written[0].write_text(json.dumps(state))
    torch.save(state, written[1])
    torch.save({"module_state_dict": {"weight": torch.ones(2)}, "privacy_accountant_state_dict": state}, written[2])
    return written


def test_an_opacus_state_is_read_from_every_file_that_opacus_leaves(tmp_path: Path) -> None:
    for file in opacus_files(tmp_path):
        assert read_events(file, Origin.OPACUS, SHOWN) == events_of_history(HISTORY, SHOWN)


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"history": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(InputError, match="plain values"):
        read_events(tmp_path / "hostile.pt", Origin.OPACUS, SHOWN)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"history": []}', b'{"history": [[NaN, 0.1, 3]]}', b"\xff"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.json"):
        read_events(tmp_path / "state.json", Origin.OPACUS, SHOWN)
    with pytest.raises(InputError, match="missing"):
        read_events(tmp_path / "missing.json", Origin.OPACUS, SHOWN)


@pytest.mark.parametrize(
    "event", [NonPrivate("looked"), Tuned(SampledGaussian(1.0, 1.0, 1, 1.0), Repetitions.POISSON, mean=2.0)]
)
def test_what_opacus_has_no_words_for_is_not_exported(event: Event) -> None:
    with pytest.raises(InputError, match="no words"):
        exported(ledger(event), Origin.OPACUS)


# --- the command -----------------------------------------------------------------------------------------------------


def model_folder(folder: Path, persons: bool = False) -> Path:
    """A model and its description, trained by somebody else."""
    rng = np.random.default_rng(0)
    of = {"person": np.arange(40) // 4} if persons else {}
    np.savez(folder / "members.npz", x=rng.random((40, 4), dtype=np.float32), y=np.arange(40) % 2, **of)
    torch.save({"1.weight": torch.zeros(2, 4), "1.bias": torch.zeros(2)}, folder / "model.pt")
    (folder / "model.yaml").write_text(
        "apiVersion: midguard.dev/v1\nkind: Subject\nmetadata: {name: a, version: '1'}\nspec:\n"
        "  model: {file: model.pt, architecture: {name: linear}}\n"
        "  task: {kind: classification, classes: 2, input: [4], range: [0, 1]}\n"
        "  data: {members: {file: members.npz}}\n  release: {exposes: label}\n"
    )
    return folder / "model.pt"


def midguard(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("persons", [False, True])
def test_an_imported_ledger_is_a_declaration(tmp_path: Path, persons: bool) -> None:
    model, (state, *_) = model_folder(tmp_path, persons), opacus_files(tmp_path)
    out = tmp_path / "ledger.json"
    words = ("--from", "opacus", "--model", model, "--sampler", "poisson", "--evidence", "its code", "--out", out)
    done = midguard("ledger", "import", state, *words)
    assert done.exit_code == 0, done.output
    found = read_ledger(out)
    assert not found.proves
    assert (found.records, found.unit, found.largest_group) == (
        (40, Unit.PERSON, 4) if persons else (40, Unit.RECORD, 1)
    )
    assert all(isinstance(event, SampledGaussian) and event.amplified for event in found.events)
    with pytest.raises(NotMeasurable, match="not by midguard"):
        Epsilon(DELTA).measure(Account(found, None), 0.0)
    assert Epsilon(DELTA, basis="declared").measure(Account(found, None), 0.0).basis is Basis.DECLARED
    again = midguard("ledger", "import", state, *words)
    assert isinstance(again.exception, InputError) or again.exit_code == 2
    assert read_ledger(out) == found


@pytest.mark.parametrize("program", list(Origin))
def test_what_was_exported_is_read_again(tmp_path: Path, program: Origin) -> None:
    model, held = model_folder(tmp_path), ledger(*events_of_history(HISTORY, SHOWN))
    (tmp_path / "ledger.json").write_text(held.to_json())
    done = midguard("ledger", "export", tmp_path / "ledger.json", "--to", program, "--out", tmp_path / "theirs.json")
    assert done.exit_code == 0, done.output
    words = ("--sampler", "poisson", "--evidence", SHOWN.evidence, "--out", tmp_path / "back.json")
    done = midguard("ledger", "import", tmp_path / "theirs.json", "--from", program, "--model", model, *words)
    assert done.exit_code == 0, done.output
    assert read_ledger(tmp_path / "back.json").events == held.events
