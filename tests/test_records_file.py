"""The risk of single records: in the right row, readable by its owner alone, and nowhere else."""

from __future__ import annotations

import csv
import dataclasses
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import percentileofscore, spearmanr

from midguard.engine.errors import InputError
from midguard.engine.observation import Membership, candidate_order
from midguard.engine.plan import ControlRun, Job, Outcome
from midguard.engine.records_file import records_table, write_records
from midguard.engine.subject import SubjectRecords
from midguard.engine.target import Records


@dataclasses.dataclass(frozen=True, slots=True)
class Pretended:
    rate: float = 1.0


def subject(members: int, nonmembers: int) -> SubjectRecords:
    def part(n: int, first: int) -> Records:
        return Records(np.zeros((n, 2), np.float32), np.arange(first, first + n, dtype=np.int64))

    return SubjectRecords(part(members, 0), part(nonmembers, 100), None)


def outcome(scores: list[float], members: int, seed: int, name: str = "membership.a", rate: float = 1.0) -> Outcome:
    """Scores given in the order of the files; the attack met them shuffled."""
    order = np.random.default_rng(seed).permutation(len(scores))
    seen = Membership(np.array(scores)[order], order < members, order.astype(np.int64))
    nothing = ControlRun(None, "")
    return Outcome(Job(name, Pretended(rate), seed, 1), seen, "", nothing, nothing, 1.0, 1)  # type: ignore[arg-type]


def test_the_order_is_that_in_which_attacks_meet_records() -> None:
    assert candidate_order(7, 20).tolist() == np.random.default_rng(7).permutation(20).tolist()


def test_each_score_stands_beside_its_record() -> None:
    scores = [0.5, 3.0, -1.0, 2.0, 0.0, 0.5, np.inf]
    found = {"1": outcome(scores, 3, 5), "2": outcome([-s for s in scores], 3, 6, "membership.b")}
    heading, *rows = records_table(found, subject(3, 4))
    assert heading == [
        "part", "row", "class", "membership.a score", "membership.a percentile",
        "membership.b score", "membership.b percentile",
    ]  # fmt: skip
    assert [row[:3] for row in rows] == [
        *(["member", str(i), str(i)] for i in range(3)),
        *(["nonmember", str(i), str(100 + i)] for i in range(4)),
    ]
    assert [float(row[3]) for row in rows] == scores
    assert [float(row[5]) for row in rows] == [-s for s in scores]
    assert [float(row[4]) for row in rows] == pytest.approx(
        [percentileofscore(scores[3:], s, kind="mean") for s in scores]
    )


def test_an_attack_without_an_answer_leaves_the_cells_empty() -> None:
    _, *rows = records_table({"1": outcome([np.nan, 1.0, 0.0, np.nan], 2, 5)}, subject(2, 2))
    assert [row[3:] for row in rows] == [["", ""], ["1.0", "100.0000"], ["0.0", "50.0000"], ["", ""]]


def test_one_attack_with_two_settings_has_columns_of_both() -> None:
    found = {"1": outcome([1.0, 2.0], 1, 5, rate=1.0), "2": outcome([3.0, 4.0], 1, 6, rate=2.0)}
    heading, *_ = records_table(found, subject(1, 1))
    assert heading[3::2] == ['membership.a {"rate":1.0} score', 'membership.a {"rate":2.0} score']


def test_what_was_not_attacked_in_this_order_is_refused() -> None:
    found = outcome([float(i) for i in range(30)], 15, 5)
    moved = dataclasses.replace(found, job=dataclasses.replace(found.job, seed=6))
    with pytest.raises(RuntimeError, match="order"):
        records_table({"1": moved}, subject(15, 15))
    with pytest.raises(InputError, match="scored 30 records, the subject names 29"):
        records_table({"1": found}, subject(15, 14))


@pytest.mark.parametrize("found", [{}, {"1": dataclasses.replace(outcome([1.0, 2.0], 1, 5), observation=None)}])
def test_without_a_membership_attack_there_is_nothing_to_write(found: dict[str, Outcome], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no membership attack ran"):
        write_records(tmp_path / "r.csv", found, subject(1, 1))
    assert not list(tmp_path.iterdir())


def test_only_such_a_file_is_overwritten_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path, found = tmp_path / "new" / "r.csv", {"1": outcome([1.0, 2.0], 1, 5)}
    for _ in range(2):
        write_records(path, found, subject(1, 1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["r.csv"]
    path.write_text("name,salary\n")
    with pytest.raises(InputError, match="is there already"):
        write_records(path, found, subject(1, 1))
    assert path.read_text() == "name,salary\n"
    with pytest.raises(InputError, match="another file"):
        write_records(path / "below.csv", found, subject(1, 1))
    with pytest.raises(InputError, match="is there already"):
        write_records(tmp_path / "new", found, subject(1, 1))


def test_check_writes_what_the_model_itself_says_of_each_record(
    midguard: Callable[..., Any], careless: Path, write_policy: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    from midguard.engine.subject import load_module, load_records, load_subject

    policy = write_policy("id: membership-auc, measure: membership.auc, max: 0.6, attacks: [membership.loss]")
    ended = midguard("check", policy, careless / "model.pt", "--records", "risks.csv", "--out", "out")
    assert ended.code == 1, ended.err
    assert "risks.csv" in ended.err
    assert "Personal data" in ended.err
    rows = list(csv.DictReader((tmp_path / "risks.csv").read_text().splitlines()))
    described = load_subject(careless / "model.pt")
    records = load_records(described)
    module = load_module(described, trust_code=False)
    expected = []
    for part in (records.members, records.nonmembers):
        assert part is not None
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(
                module(torch.tensor(part.x)).double(), torch.tensor(part.y), reduction="none"
            )
        expected += (-losses).tolist()
    scores: Any = [float(row["membership.loss score"]) for row in rows]
    assert spearmanr(scores, expected).statistic > 0.999
    evidence = (tmp_path / "out" / "evidence.json").read_text()
    assert not {f"{s:.6g}" for s in scores if abs(s) > 1e-3} & set(evidence.replace(",", " ").replace("]", " ").split())
    assert json.loads(evidence)["verdict"] == "fail"
