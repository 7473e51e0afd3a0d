"""The budget of a data set: nothing that was released is lost, nothing can be taken out, and all of it is counted."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from midguard.engine.budget import (
    NO_MODEL,
    BrokenChainError,
    Kind,
    composed,
    new_budget,
    open_budget,
    spending,
)
from midguard.engine.errors import AccountingError, InputError, MidguardError, NotMeasurable
from midguard.engine.ledger import (
    ENGINE_SAMPLER,
    Account,
    Adjacency,
    Ledger,
    NonPrivate,
    Repetitions,
    SampledGaussian,
    Sampler,
    Tuned,
    Unit,
)
from midguard.engine.measurement import Basis
from midguard.engine.measures.privacy.cumulative_epsilon import CumulativeEpsilon
from midguard.engine.measures.privacy.epsilon import Epsilon

if TYPE_CHECKING:
    from .conftest import Ended

Gate = Callable[..., "Ended"]
Writer = Callable[..., Path]

DATA, OTHER = "d" * 64, "e" * 64
#: n = 60,000, q = 256/60,000, σ = 1.1, 60 epochs: ε = 2.382 at δ = 1e-5 by PLD (the reference number).
STANDARD = SampledGaussian(256 / 60_000, 1.1, 14_062, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
PROCESSES, APPENDS = 8, 200
COLUMNS = ("sequence", "kind", "data", "model", "dataset", "ledger", "settles", "time", "previous", "hash")
ENTRIES, HEAD = "midguard_budget_entries", "midguard_budget_head"


def ledger(model: int = 1, *events: Any, data: str = DATA, written_by: str = "midguard 0.1.0") -> Ledger:
    return Ledger(events or (STANDARD,), 60_000, data, f"{model:064x}", written_by=written_by)


def planned(*events: Any, data: str = DATA) -> Ledger:
    return dataclasses.replace(ledger(0, *events, data=data), model=NO_MODEL)


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is not the disk."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


@pytest.fixture
def store(quick: Path) -> str:
    """An empty store in a file."""
    place = str(quick / "budget.db")
    new_budget(place)
    return place


@pytest.fixture
def filled(store: str) -> str:
    """A small chain with an entry of each kind."""
    budget = open_budget(store)
    budget.add(ledger(1))
    first = budget.reserve(planned())
    budget.add(ledger(2, data=OTHER), "trial")
    budget.settle(first.sequence, ledger(3))
    budget.reserve(planned(NonPrivate("as they are"), data=OTHER))
    return store


# --- what counts -----------------------------------------------------------------------------------------------------


def test_entries_come_back_as_they_were_written_and_in_order(filled: str) -> None:
    chain = open_budget(filled).chain()
    assert [entry.kind for entry in chain.entries] == [
        Kind.ADDED, Kind.RESERVED, Kind.ADDED, Kind.SETTLED, Kind.RESERVED
    ]  # fmt: skip
    assert [entry.released.model for entry in chain.entries][:4] == [f"{1:064x}", NO_MODEL, f"{2:064x}", f"{3:064x}"]
    assert chain.entries[3].settles == 2
    assert (chain.head.entries, chain.head.hash) == (5, chain.entries[-1].hash)


def own_hash(row: dict[str, Any]) -> str:
    """A second implementation of the canonical encoding, for entries of ASCII text and whole numbers."""
    content = {name: row[name] for name in COLUMNS if name != "hash"}
    content["$schema"] = "https://midguard.dev/schema/budget-entry-v1.json"
    encoded = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(encoded.encode()).hexdigest()


def test_the_chain_can_be_recomputed_without_midguard(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    previous = head["mark"]
    for row in rows:
        assert (row["previous"], row["hash"]) == (previous, own_hash(row))
        previous = row["hash"]
    assert (head["entries"], head["hash"]) == (len(rows), previous)


def test_a_reservation_counts_until_it_is_settled_and_then_what_happened_counts(store: str) -> None:
    budget = open_budget(store)
    reserved = budget.reserve(planned())
    assert [entry.kind for entry in budget.spending(DATA).counted] == [Kind.RESERVED]
    done = ledger(1, dataclasses.replace(STANDARD, steps=7000))
    budget.settle(reserved.sequence, done)
    assert budget.spending(DATA).ledgers == (done,)


def test_only_an_open_reservation_on_the_same_data_is_settled(store: str) -> None:
    budget = open_budget(store)
    reserved, added = budget.reserve(planned()), budget.add(ledger(1))
    for sequence, done in ((reserved.sequence, ledger(2, data=OTHER)), (added.sequence, ledger(2)), (9, ledger(2))):
        with pytest.raises(MidguardError, match="reserv"):
            budget.settle(sequence, done)
    budget.settle(reserved.sequence, ledger(2))
    with pytest.raises(MidguardError, match="no open reservation"):
        budget.settle(reserved.sequence, ledger(3))
    assert len(budget.chain().entries) == 3


def test_the_same_release_is_one_and_every_other_is_another(store: str) -> None:
    budget = open_budget(store)
    first = budget.add(ledger(1))
    assert budget.add(ledger(1)) == first
    assert budget.add(ledger(2)).sequence == 2  # another model
    assert budget.add(ledger(1, dataclasses.replace(STANDARD, steps=1))).sequence == 3  # another ledger
    assert len(budget.spending(DATA).counted) == 3


def test_two_trainings_are_two_releases_even_if_their_ledgers_are_the_same(store: str) -> None:
    budget, same = open_budget(store), ledger(1)
    for _ in range(2):
        budget.settle(budget.reserve(planned()).sequence, same)
    budget.add(same)  # that of one of the two
    assert budget.spending(DATA).ledgers == (same, same)


def test_data_sets_count_apart_unless_they_were_declared_together(store: str) -> None:
    budget, third = open_budget(store), "f" * 64
    budget.add(ledger(1), "cohort")
    budget.add(ledger(2, data=OTHER))
    assert len(budget.spending(DATA).counted) == len(budget.spending(OTHER).counted) == 1
    budget.add(ledger(2, data=OTHER), "cohort")
    assert [e.model[-1] for e in budget.spending(DATA).counted] == ["1", "2"]  # declared again, not released again
    budget.add(ledger(3, data=OTHER), "study")
    budget.add(ledger(4, data=third), "study")
    assert [e.model[-1] for e in budget.spending(DATA).counted] == ["1", "2", "3", "4"]  # through another
    assert not budget.spending("0" * 64).counted


@pytest.mark.parametrize("name", ["a\nb", "x" * 201, "'", " "])
def test_what_is_no_name_of_a_data_set_is_refused(store: str, name: str) -> None:
    with pytest.raises(InputError, match="name of a data set"):
        open_budget(store).add(ledger(1), name)


# --- what was tampered with ------------------------------------------------------------------------------------------


def rows_of(store: str) -> list[dict[str, Any]]:
    with sqlite3.connect(store) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {ENTRIES} ORDER BY rowid")]


def head_of(store: str) -> dict[str, Any]:
    with sqlite3.connect(store) as connection:
        connection.row_factory = sqlite3.Row
        return dict(connection.execute(f"SELECT * FROM {HEAD}").fetchone())


def write(store: str, rows: list[dict[str, Any]], *heads: dict[str, Any]) -> None:
    """Put other rows there, whatever the tables' constraints would say."""
    with sqlite3.connect(store) as connection:
        for name, kept in ((ENTRIES, rows), (HEAD, heads)):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            connection.execute(f"DROP TABLE {name}")
            connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
            for row in kept:
                marks = ", ".join("?" * len(columns))
                connection.execute(f"INSERT INTO {name} VALUES ({marks})", [row[c] for c in columns])
    connection.close()


def refused(store: str) -> bool:
    """Whether every reading says that the chain is broken."""
    budget = open_budget(store)
    for reading in (budget.chain, lambda: budget.spending(DATA), lambda: budget.spending(OTHER)):
        try:
            reading()
        except BrokenChainError:
            continue
        return False
    return True


def edits(value: Any) -> list[Any]:
    """Other values that a column could be given."""
    if isinstance(value, int):
        return [value + 1, value - 1, 0 if value else 7, str(value), float(value) + 0.5, None]
    changed = [value + " ", value[1:], "", "0" * 64, None, value.encode()]
    swapped = [value.replace("midguard", "Midguard"), value.replace("1.1", "9.1"), value.upper()]
    return [new for new in (*changed, *swapped) if new != value]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("resealed", [False, True], ids=["as it is", "with its own hash made anew"])
def test_every_edit_of_every_column_of_every_entry_is_detected(filled: str, column: str, resealed: bool) -> None:
    rows, head = rows_of(filled), head_of(filled)
    kept, tried = [dict(row) for row in rows], 0
    for place, row in enumerate(rows):
        others = [other[column] for other in rows if other[column] != row[column]]
        for value in (*edits(row[column]), *others):
            changed = dict(row) | {column: value}
            if resealed and column != "hash":
                try:
                    changed["hash"] = own_hash(changed)
                except TypeError:
                    continue  # bytes: has no hash
            write(filled, [*kept[:place], changed, *kept[place + 1 :]], head)
            assert refused(filled), (place, column, value)
            tried += 1
    assert tried >= 2 * len(rows)
    write(filled, rows, head)
    assert not refused(filled)  # nothing but the edits was refused


def test_every_deletion_of_entries_is_detected(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    subsets = [set(s) for k in range(1, len(rows) + 1) for s in itertools.combinations(range(len(rows)), k)]
    assert len(subsets) == 31
    for gone in subsets:
        left = [row for place, row in enumerate(rows) if place not in gone]
        write(filled, left, head)
        assert refused(filled), gone
        renumbered = [row | {"sequence": place} for place, row in enumerate(left, start=1)]
        write(filled, renumbered, head | {"entries": len(left)})
        assert refused(filled), gone


def test_every_swap_and_every_other_order_is_detected(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    for order in itertools.permutations(range(len(rows))):
        if list(order) == sorted(order):
            continue
        moved = [rows[place] | {"sequence": at} for at, place in enumerate(order, start=1)]
        write(filled, moved, head)
        assert refused(filled), order
        resealed = [row | {"hash": own_hash(row)} for row in moved]
        write(filled, resealed, head)
        assert refused(filled), order
        relinked = [row | {"previous": rows[at]["previous"]} for at, row in enumerate(moved)]
        write(filled, [row | {"hash": own_hash(row)} for row in relinked], head)
        assert refused(filled), order


def test_an_entry_put_in_is_detected(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    for place, row in itertools.product(range(len(rows) + 1), rows):
        more = [*rows[:place], row, *rows[place:]]
        write(filled, more, head)
        assert refused(filled)
        write(filled, [r | {"sequence": at} for at, r in enumerate(more, start=1)], head | {"entries": len(more)})
        assert refused(filled)


def test_every_edit_of_the_head_is_detected(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    for column in ("mark", "entries", "hash"):
        for value in (*edits(head[column]), *(row["hash"] for row in rows)):
            if value != head[column]:
                write(filled, rows, head | {column: value})
                assert refused(filled), (column, value)
    for heads in ((), (head, head)):
        write(filled, rows, *heads)
        assert refused(filled)


def test_a_head_that_was_written_down_shows_that_the_end_was_cut_off(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    for left in range(len(rows)):
        cut = head | {"entries": left, "hash": rows[left - 1]["hash"] if left else head["mark"]}
        write(filled, rows[:left], cut)
        chain = open_budget(filled).chain()  # holds together by itself: that is why heads are written down
        assert chain.holds(cut["hash"])
        for row in rows[left:]:
            with pytest.raises(BrokenChainError, match="cut back"):
                chain.refuse_without(row["hash"])
    write(filled, rows, head)
    for row in (head | {"hash": head["mark"]}, *rows):
        open_budget(filled).chain().refuse_without(row["hash"])  # every head that there ever was


def test_a_chain_that_was_made_anew_is_not_the_one_whose_head_was_written_down(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    rows[0]["ledger"] = rows[0]["ledger"].replace("1.1", "9.9")
    previous = head["mark"]
    for row in rows:
        row["previous"] = previous
        row["hash"] = previous = own_hash(row)
    write(filled, rows, head | {"hash": previous})
    chain = open_budget(filled).chain()
    with pytest.raises(BrokenChainError):
        chain.refuse_without(head["hash"])


def test_a_settlement_that_takes_cost_away_is_refused_even_where_every_hash_is_right(filled: str) -> None:
    """As a writer with a fault of its own would leave it."""
    rows, head = rows_of(filled), head_of(filled)
    for change in ({"settles": 1}, {"settles": 5}, {"settles": 0}, {"data": OTHER}, {"kind": "added"}):
        changed, previous = [dict(row) for row in rows], head["mark"]
        changed[3] |= change
        for row in changed:
            row["previous"] = previous
            row["hash"] = previous = own_hash(row)
        write(filled, changed, head | {"hash": previous})
        assert refused(filled), change


def test_nothing_is_written_behind_an_end_that_was_tampered_with(filled: str) -> None:
    rows, head = rows_of(filled), head_of(filled)
    for left, end in ((rows[:-1], head), (rows, head | {"entries": 4, "hash": rows[3]["hash"]})):
        write(filled, left, end)
        for append in (
            lambda: open_budget(filled).add(ledger(9)),
            lambda: open_budget(filled).reserve(planned()),
            lambda: open_budget(filled).settle(2, ledger(9)),
        ):
            with pytest.raises(BrokenChainError):
                append()
        assert len(rows_of(filled)) == len(left)


# --- writers at the same time ----------------------------------------------------------------------------------------


def append_many(job: tuple[str, int, int]) -> None:
    place, process, appends = job
    budget = open_budget(place)
    for k in range(appends):
        budget.add(ledger(1 + process * APPENDS + k))


def all_kept(place: str) -> None:
    """Eight processes with 200 appends each lose none, and leave a chain."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(append_many, [(place, process, APPENDS) for process in range(PROCESSES)], chunksize=1)
    chain = open_budget(place).chain()
    assert len(chain.entries) == PROCESSES * APPENDS
    assert {entry.model for entry in chain.entries} == {f"{1 + k:064x}" for k in range(PROCESSES * APPENDS)}
    assert len(spending(chain, DATA).counted) == PROCESSES * APPENDS


def add_the_same(place: str) -> int:
    return open_budget(place).add(ledger(7)).sequence


def settle_the_same(place: str) -> bool:
    try:
        open_budget(place).settle(1, ledger(random.SystemRandom().getrandbits(60)))
    except MidguardError as error:
        if "no open reservation" not in str(error):
            raise
        return False
    return True


def races(place: str) -> None:
    """Of the same release one entry is left, and of a reservation one settlement, whoever comes first."""
    open_budget(place).reserve(planned())
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        assert set(pool.map(add_the_same, [place] * 16, chunksize=1)) == {2}
        assert sum(pool.map(settle_the_same, [place] * 16, chunksize=1)) == 1
    assert len(open_budget(place).chain().entries) == 3


def test_writers_at_the_same_time_lose_nothing_in_sqlite(quick: Path) -> None:
    new_budget(str(quick / "many.db"))
    all_kept(str(quick / "many.db"))


def test_of_the_same_written_at_the_same_time_one_is_left_in_sqlite(quick: Path) -> None:
    new_budget(str(quick / "same.db"))
    races(str(quick / "same.db"))


@dataclasses.dataclass(frozen=True)
class Server:
    """A PostgreSQL server of the test's own."""

    programs: Path
    folder: Path
    port: int

    def url(self, name: str, password: str = "correct-horse") -> str:
        return f"postgresql+psycopg://auditor:{password}@127.0.0.1:{self.port}/{name}"

    def database(self, name: str) -> str:
        """A new database, for the one who is let in without a password: checking it takes longer than an append."""
        import psycopg

        with psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'writer'").fetchone() is None:
                connection.execute("CREATE ROLE writer LOGIN SUPERUSER")
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://writer@127.0.0.1:{self.port}/{name}"


def started(programs: Path, folder: Path) -> Server:
    """PostgreSQL refuses to run as root, so root lets the user of Debian's package run it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    who: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    secret = folder / "password"
    secret.write_text("correct-horse\n")
    if who:
        shutil.chown(folder, **who)
        shutil.chown(secret, **who)

    def call(*arguments: object) -> None:
        subprocess.run(
            [str(a) for a in arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=120, extra_groups=[] if who else None, **who,
        )  # fmt: skip

    call(programs / "initdb", "-D", folder / "data", "-U", "auditor", "-A", "scram-sha-256", f"--pwfile={secret}", "-N")
    access = folder / "data" / "pg_hba.conf"
    access.write_text("host all writer 127.0.0.1/32 trust\n" + access.read_text())
    settings = f"-p {port} -h 127.0.0.1 -k {folder} -F"
    call(programs / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", settings, "start")
    return Server(programs, folder, port)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg, the driver of PostgreSQL, is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4].split(".")[0]))
    if not found:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="midguard-postgresql-"))
    folder.chmod(0o755)
    server = None
    try:
        server = started(found[-1].parent, folder)
        yield server
    finally:
        stop = [str(found[-1].parent / "pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "-w", "stop"]
        who: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        subprocess.run(stop, check=False, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who)
        shutil.rmtree(folder, ignore_errors=True)


def test_writers_at_the_same_time_lose_nothing_in_postgresql(postgresql: Server) -> None:
    place = postgresql.database("many")
    new_budget(place)
    all_kept(place)


def test_of_the_same_written_at_the_same_time_one_is_left_in_postgresql(postgresql: Server) -> None:
    place = postgresql.database("same")
    new_budget(place)
    races(place)


def test_reading_while_others_write_never_sees_a_broken_chain_in_postgresql(postgresql: Server) -> None:
    place = postgresql.database("reading")
    new_budget(place)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        writing = pool.map_async(append_many, [(place, process, 60) for process in range(2)], chunksize=1)
        seen = set()
        while not writing.ready():
            seen.add(open_budget(place).chain().head.entries)
        writing.get()
    assert len(seen) > 2


def test_what_is_changed_in_postgresql_is_detected(postgresql: Server) -> None:
    import psycopg

    place = postgresql.database("tampered")
    new_budget(place)
    budget = open_budget(place)
    for k in range(3):
        budget.add(ledger(k))
    statements = (
        f"UPDATE {ENTRIES} SET ledger = replace(ledger, '1.1', '9.1') WHERE sequence = 2",
        f"UPDATE {ENTRIES} SET time = '2020-01-01T00:00:00Z' WHERE sequence = 1",
        f"DELETE FROM {ENTRIES} WHERE sequence = 3",
        f"DELETE FROM {ENTRIES} WHERE sequence = 1",
        f"UPDATE {HEAD} SET entries = 2",
        f"DELETE FROM {HEAD}",
    )
    for statement in statements:
        with psycopg.connect(place.replace("+psycopg", "")) as connection:
            connection.execute(statement)
            connection.commit()
            with pytest.raises(BrokenChainError):
                budget.chain()
        restore(place, postgresql)
        budget = open_budget(place)


def restore(place: str, server: Server) -> None:
    """Three releases in a store made anew."""
    import psycopg

    with psycopg.connect(place.replace("+psycopg", "")) as connection:
        connection.execute(f"DROP TABLE {ENTRIES}, {HEAD}")
    budget = new_budget(place)
    for k in range(3):
        budget.add(ledger(k))


def test_no_password_is_in_what_a_server_refuses(postgresql: Server) -> None:
    for place in (postgresql.url("postgres", "geheim-7"), postgresql.url("nowhere")):
        with pytest.raises(InputError) as refusal:
            open_budget(place)
        assert "geheim-7" not in str(refusal.value)
        assert "correct-horse" not in str(refusal.value)
        assert "auditor" in str(refusal.value)
    with pytest.raises(InputError, match="no store in this database"):
        open_budget(postgresql.database("empty"))


# --- places that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "postgrsql://u:geheim@h/db",
        "postgresql:/u:geheim@h/db",
        "postgresql//u:geheim@h/db",
        "postgresql://u:geh?eim@h:port/db",
        "postgresql://u:geheim@h:port/db",
        "postgresql+nothing://u:geheim@h/db",
        "postgresql://u:geheim@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db?password=geheim",
        "mysql://u:geheim@h/db",
        "u:geheim@h",
        "sqlite://",
        "sqlite:///:memory:",
        "",
        "/nowhere/at/all.db",
        ".",
    ],
)
def test_a_misspelt_place_is_bad_input_without_its_password(place: str, midguard: Gate) -> None:
    for command in (("show",), ("verify",)):
        ended = midguard("budget", *command, place)
        assert ended.code == 2
        assert "Traceback" not in ended.err
        assert "geh" not in ended.err + ended.out
        assert ended.err.strip()


def test_opening_never_makes_a_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_budget(str(tmp_path / "misspelt.db"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(InputError, match="not a database"):
        open_budget(str(tmp_path / "text.db"))
    (tmp_path / "empty.db").touch()
    with pytest.raises(InputError, match="no store"):
        open_budget(str(tmp_path / "empty.db"))


def test_a_store_that_is_there_is_never_made_anew(filled: str) -> None:
    with pytest.raises(InputError, match="already"):
        new_budget(filled)
    assert len(open_budget(filled).chain().entries) == 5


def test_a_store_is_the_same_however_it_is_opened(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from midguard.engine.budget._store import connected

    monkeypatch.chdir(Path(store).parent)
    assert connected("budget.db").identity == connected(store).identity == connected(f"sqlite:///{store}").identity
    names = ("postgresql://a:secret@h/db?sslmode=require", "postgresql+psycopg://b@h/db")
    assert len({connected(name).identity for name in names}) == 1
    others = ("postgresql://h/other", "postgresql://g/db", "postgresql:///db?host=/one", "postgresql:///db?host=/two")
    assert len({connected(name).identity for name in (names[0], *others)}) == 5
    assert "secret" not in connected(names[0]).identity


# --- what it costs together ------------------------------------------------------------------------------------------


def pld(measurement: Any) -> float:
    return float(next(q.value for q in measurement.details if q.name == "ε by pld"))


def test_ten_identical_runs_compose_to_the_published_number() -> None:
    """Reference numbers of this setting: one run 2.382, ten runs 8.92, at δ = 1e-5."""
    measure, runs = CumulativeEpsilon(delta=1e-5), tuple(ledger(k) for k in range(10))
    one = measure.measure(Account(runs[0], None, runs[:1]), 0.0)
    ten = measure.measure(Account(runs[0], None, runs), 0.0)
    assert one.value == pld(one) == pytest.approx(2.382, abs=0.002)
    assert ten.value == pld(ten) == pytest.approx(8.92, abs=0.005)
    assert ten.basis is Basis.PROVED
    assert one.value == Epsilon(delta=1e-5).measure(Account(runs[0], None), 0.0).value


def test_a_composition_is_that_of_one_run_of_all_steps() -> None:
    """Without sampling the answer is a closed form: k Gaussians of noise σ are one of noise σ/√k."""
    plain = [SampledGaussian(1.0, 8.0, steps, 1.0, Sampler.POISSON, ENGINE_SAMPLER) for steps in (1, 3, 5)]
    runs = tuple(ledger(k, event) for k, event in enumerate(plain))
    found = CumulativeEpsilon(delta=1e-5).measure(Account(runs[-1], None, runs), 0.0)
    assert pld(found) == pytest.approx(gaussian_epsilon(3 / 8.0, 1e-5), abs=2e-3)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle & Wang 2018, arXiv 1805.06530, thm 8."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def gap(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - 2.718281828459045**epsilon * norm.cdf(-mu / 2 - epsilon / mu))

    return float(brentq(lambda epsilon: gap(epsilon) - delta, 1e-9, 50.0))


def test_runs_without_amplification_are_not_merged_into_fewer_passes() -> None:
    """Two half passes are accounted as two passes; merged they would be one."""
    half = SampledGaussian(0.01, 4.0, 50, 1.0, Sampler.SHUFFLED)
    assert [e.steps for e in composed([ledger(1, half), ledger(2, half)]).events] == [50, 50]
    amplified = dataclasses.replace(half, sampler=Sampler.POISSON, evidence=ENGINE_SAMPLER)
    assert [e.steps for e in composed([ledger(1, amplified), ledger(2, amplified)]).events] == [100]


def test_searches_and_runs_compose() -> None:
    """Never less than the costliest of them, and than what all of them cost if each search had been one run."""
    tuned = Tuned(STANDARD, Repetitions.TRUNCATED_NEGATIVE_BINOMIAL, eta=1.0, gamma=0.5)
    runs = (ledger(1), ledger(2, tuned), ledger(3, tuned))
    plain = (ledger(1), ledger(2), ledger(3))
    together, bare = (CumulativeEpsilon(delta=1e-5).measure(Account(r[0], None, r), 0.0) for r in (runs, plain))
    alone = Epsilon(delta=1e-5).measure(Account(runs[1], None), 0.0)
    assert together.value > max(alone.value, bare.value)
    assert together.value < 3 * alone.value


def test_more_releases_than_can_be_accounted_are_an_error() -> None:
    many = [ledger(k, SampledGaussian(0.01, 4.0 + k / 1000, 50, 1.0)) for k in range(1001)]
    with pytest.raises(AccountingError, match="1001"):
        composed(many)
    long = [ledger(k, dataclasses.replace(STANDARD, steps=9_999_999)) for k in range(3)]
    assert sum(event.steps for event in composed(long).events) == 3 * 9_999_999


def test_what_is_not_known_is_not_measured() -> None:
    measure, own, other = CumulativeEpsilon(delta=1e-5), ledger(1), ledger(2)
    for account, why in (
        (Account(own, None), "no budget"),
        (Account(own, None, ()), "does not hold this release"),
        (Account(own, None, (other,)), "does not hold this release"),
        (Account(None, None, (other,)), "no ledger"),
        (Account(own, None, (own, ledger(3, written_by="opacus"))), "1 of the 2 ledgers"),
        (
            Account(dataclasses.replace(own, records=10**5), None, (dataclasses.replace(own, records=10**5),)),
            "1/100000",
        ),
    ):
        with pytest.raises(NotMeasurable, match=why):
            measure.measure(account, 0.0)


def test_a_release_without_a_mechanism_leaves_no_bound_and_a_declared_one_declares_all() -> None:
    own, careless = ledger(1), ledger(2, NonPrivate("as they are"))
    foreign = ledger(3, written_by="opacus")
    found = CumulativeEpsilon(delta=1e-5).measure(Account(own, None, (own, careless)), 0.0)
    assert (found.value, found.low, found.basis) == (float("inf"), float("inf"), Basis.PROVED)
    found = CumulativeEpsilon(delta=1e-5).measure(Account(own, None, (own, careless, foreign)), 0.0)
    assert (found.value, found.basis) == (float("inf"), Basis.PROVED)
    found = CumulativeEpsilon(delta=1e-5, basis="declared").measure(Account(own, None, (own, foreign)), 0.0)
    assert found.basis is Basis.DECLARED
    assert found.value > Epsilon(delta=1e-5).measure(Account(own, None), 0.0).value


def test_releases_are_counted_for_the_costlier_neighbours_and_for_persons_where_all_know_them() -> None:
    record, person = ledger(1), dataclasses.replace(ledger(2), unit=Unit.PERSON, largest_group=3)
    replaced = dataclasses.replace(person, adjacency=Adjacency.REPLACE, largest_group=2)
    for order in itertools.permutations((record, person, replaced)):
        found = composed(order)
        assert (found.knows_persons, found.adjacency) == (False, Adjacency.REPLACE)
    for order in itertools.permutations((dataclasses.replace(record, largest_group=2), person, replaced)):
        assert (composed(order).knows_persons, composed(order).largest_group) == (True, 3)
    of_persons = CumulativeEpsilon(delta=1e-5, unit="person")
    with pytest.raises(NotMeasurable, match="of one person"):
        of_persons.measure(Account(person, None, (record, person)), 0.0)


def test_the_policy_says_which_neighbours_are_meant() -> None:
    """Reference number of one standard run: replace-one 4.22."""
    own = ledger(1)
    found = CumulativeEpsilon(delta=1e-5, adjacency="replace-one").measure(Account(own, None, (own,)), 0.0)
    assert found.value == pytest.approx(4.22, abs=0.01)


# --- where it meets training and the gate ----------------------------------------------------------------------------

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: careful, version: "1"}
spec:
  architecture: {name: mlp, hidden: [16]}
  task: {kind: classification, classes: 10, input: [1, 8, 8], range: [0, 1]}
  data:
    source: builtin:digits
    split: {members: 0.34, nonmembers: 0.33, auxiliary: 0.33, seed: 3}
  optimizer: {name: sgd, lr: 0.5}
  epochs: 4
  batch_size: 64
  seed: 3
  release: {exposes: label}
  defense: {name: dp_sgd, noise_multiplier: 2.0, delta: 1.0e-5}
"""
#: 611 members in batches of 64, four times.
STEPS = 38
#: Trains into a folder and kills itself behind the first epoch.
KILLED = """
import os, signal, sys
from pathlib import Path
from midguard.engine.training import train
recipe, out, budget = sys.argv[1:]
train(Path(recipe), Path(out), lambda epoch, total: os.kill(os.getpid(), signal.SIGKILL), budget=budget)
"""


def train(recipe: Path, out: Path, *arguments: Any, **named: Any) -> None:
    """Imported here alone: the writers' processes, which import this file, have no use for it."""
    from midguard.engine import training

    training.train(recipe, out, *arguments, **named)


PARTS = """source: {builtin: digits, rows: [0, 1200]}
    public: {builtin: digits, rows: [1200, 1797]}"""
ALL = "id: all, measure: privacy.cumulative_epsilon, at: {delta: 1.0e-5}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def shelf(recipe: Path) -> Path:
    """Two models that were trained on the same records, and the store of both; not to be written to."""
    folder = recipe.parent / "shelf"
    folder.mkdir()
    new_budget(str(folder / "budget.db"))
    for name in ("one", "two"):
        train(recipe, folder / name, budget=str(folder / "budget.db"))
    return folder


@pytest.fixture
def released(shelf: Path, tmp_path: Path) -> Path:
    """A copy, the test's own."""
    return Path(shutil.copytree(shelf, tmp_path / "shelf"))


def killed(recipe: Path, out: Path, place: str) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(recipe), str(out), place], check=False)
    assert ended.returncode == -signal.SIGKILL


def finding(ended: Ended) -> dict[str, Any]:
    return dict(json.loads(ended.out)["findings"][0])


def test_a_training_is_reserved_for_and_settled(shelf: Path) -> None:
    entries = open_budget(str(shelf / "budget.db")).chain().entries
    assert [entry.kind for entry in entries] == ["reserved", "settled"] * 2
    assert [entry.settles for entry in entries] == [0, 1, 0, 3]
    assert entries[1].ledger == (shelf / "one" / "ledger.json").read_text()
    assert entries[0].released.events == entries[1].released.events
    assert entries[0].released.events[0].steps == STEPS


def test_the_gate_counts_every_release_and_says_which(released: Path, write_policy: Writer, midguard: Gate) -> None:
    place, model = str(released / "budget.db"), released / "one" / "model.pt"
    alone = write_policy("id: one, measure: privacy.epsilon, at: {delta: 1.0e-5}, max: 9")
    single = finding(midguard("check", alone, model, "--format", "json"))["value"]
    ended = midguard("check", write_policy(f"{ALL}, max: 9"), model, "--budget", place, "--format", "json")
    both = finding(ended)
    assert (ended.code, both["status"], both["basis"]) == (0, "pass", "proved")
    assert single < both["value"] < 2 * single
    budget, chain = json.loads(ended.out)["budget"], open_budget(place).chain()
    assert (budget["entries"], budget["head"]) == (4, chain.head.hash)
    ledgers = [hashlib.sha256((released / name / "ledger.json").read_bytes()).hexdigest() for name in ("one", "two")]
    assert [release["ledger"] for release in budget["releases"]] == ledgers
    ended = midguard("check", write_policy(f"{ALL}, max: {single}"), model, "--budget", place, "--format", "json")
    assert (ended.code, finding(ended)["status"]) == (1, "fail")


def test_what_was_found_before_another_release_is_not_found_again(
    released: Path, write_policy: Writer, midguard: Gate
) -> None:
    place, policy = str(released / "budget.db"), write_policy(f"{ALL}, max: 9")
    check = ("check", policy, released / "one" / "model.pt", "--budget", place, "--format", "json")
    before = finding(midguard(*check))["value"]
    assert finding(midguard(*check))["value"] == before
    own = open_budget(place).chain().entries[1].released
    open_budget(place).add(dataclasses.replace(own, model="a" * 64))
    after = finding(midguard(*check))
    assert after["value"] > before
    assert after["details"][-1] == {"name": "releases on this data", "value": 3.0}
    open_budget(place).add(dataclasses.replace(own, model="b" * 64, events=(NonPrivate("as they are"),)))
    ended = midguard(*check)
    assert (ended.code, finding(ended)["status"], finding(ended)["unbounded"]) == (1, "fail", True)


def test_without_a_store_or_in_a_foreign_one_it_is_not_run(
    released: Path, write_policy: Writer, midguard: Gate, tmp_path: Path
) -> None:
    policy, model = write_policy(f"{ALL}, max: 9"), released / "one" / "model.pt"
    new_budget(str(tmp_path / "foreign.db"))
    for budget, why in (((), "--budget"), (("--budget", tmp_path / "foreign.db"), "does not hold this release")):
        ended = midguard("check", policy, model, *budget, "--format", "json")
        assert (ended.code, finding(ended)["status"], finding(ended)["value"]) == (3, "not-run", None)
        assert why in finding(ended)["reason"]
    ended = midguard("check", policy, model, "--budget", tmp_path / "misspelt.db")
    assert (ended.code, ended.out) == (2, "")
    assert not (tmp_path / "misspelt.db").exists()


def test_a_store_is_named_by_the_environment_too(
    released: Path, write_policy: Writer, midguard: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDGUARD_BUDGET", str(released / "budget.db"))
    ended = midguard("check", write_policy(f"{ALL}, max: 9"), released / "one" / "model.pt", "--format", "json")
    assert ended.code == 0


def test_a_broken_store_stops_the_check_and_the_training(
    released: Path, recipe: Path, write_policy: Writer, midguard: Gate
) -> None:
    place = str(released / "budget.db")
    rows, head = rows_of(place), head_of(place)
    write(place, [rows[0], *rows[2:]], head)
    ended = midguard("check", write_policy(f"{ALL}, max: 9"), released / "one" / "model.pt", "--budget", place)
    assert (ended.code, ended.out) == (2, "")
    assert "broken" in ended.err
    ended = midguard("train", recipe, "--out", released / "three", "--budget", place)
    assert ended.code == 2
    assert not list(released.glob("*three*"))


def test_a_store_that_was_cut_back_is_refused_by_the_next_check(
    released: Path, write_policy: Writer, midguard: Gate, tmp_path: Path
) -> None:
    place, policy = str(released / "budget.db"), write_policy(f"{ALL}, max: 9")
    check = ("check", policy, released / "one" / "model.pt", "--budget", place, "--format", "json")
    before = midguard(*check)
    known = json.loads(before.out)["budget"]["head"]
    rows, head = rows_of(place), head_of(place)
    write(place, rows[:2], head | {"entries": 2, "hash": rows[1]["hash"]})  # as if the second model had never been
    ended = midguard(*check)
    assert (ended.code, ended.out) == (2, "")
    assert "cut back" in ended.err
    elsewhere = (*check, "--store", tmp_path / "elsewhere")  # who never saw the store needs the earlier evidence
    assert midguard(*elsewhere).code == 0
    assert midguard(*elsewhere, "--budget-head", known).code == 2
    assert midguard(*check[:3], "--budget-head", known).code == 2  # a head of no store
    assert midguard("budget", "verify", place).code == 0
    ended = midguard("budget", "verify", place, "--head", known)
    assert (ended.code, ended.out[:9]) == (1, "not valid")
    write(place, rows, head)
    ended = midguard(*check, "--budget-head", known)
    assert (ended.code, finding(ended)["value"]) == (0, finding(before)["value"])


def test_a_killed_training_leaves_its_reservation_until_it_is_finished(recipe: Path, tmp_path: Path) -> None:
    place, out = str(tmp_path / "budget.db"), tmp_path / "killed"
    new_budget(place)
    killed(recipe, out, place)
    assert not out.exists()
    (entry,) = open_budget(place).chain().entries
    data = entry.data
    assert (entry.kind, entry.released.events[0].steps) == ("reserved", STEPS)  # all of it, not the quarter it did
    assert [e.kind for e in open_budget(place).spending(data).counted] == ["reserved"]
    with pytest.raises(InputError, match="--budget"):
        train(recipe, out)  # would leave it reserved for ever
    killed(recipe, out, place)  # interrupted again: nothing is reserved twice
    assert len(open_budget(place).chain().entries) == 1
    train(recipe, out, budget=place)
    (done,) = open_budget(place).spending(data).counted
    assert (done.kind, done.settles) == ("settled", 1)
    assert done.ledger == (out / "ledger.json").read_text()
    assert done.released.resumed >= 1


def test_a_training_that_is_started_over_is_reserved_for_with_what_it_spent(recipe: Path, tmp_path: Path) -> None:
    place, out = str(tmp_path / "budget.db"), tmp_path / "fresh"
    new_budget(place)
    killed(recipe, out, place)
    train(recipe, out, fresh=True, budget=place)
    first, second, done = open_budget(place).chain().entries
    assert [first.kind, second.kind, done.kind] == ["reserved", "reserved", "settled"]
    assert (second.settles, done.settles) == (1, 2)
    spent, planned_now = second.released.events
    assert 0 < spent.steps < STEPS == planned_now.steps
    assert done.released.events == second.released.events
    assert len(open_budget(place).spending(done.data).counted) == 1


def test_a_search_is_reserved_for_before_its_first_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midguard.engine import training

    text = recipe.read_text().replace("source: builtin:digits", PARTS).replace("epochs: 4", "epochs: 1")
    searching = tmp_path / "search.yaml"
    searching.write_text(text + "  search: {learning_rates: [0.1, 0.5], eta: 1, gamma: 0.9}\n")
    place, run, before = str(tmp_path / "budget.db"), training.fit, []
    new_budget(place)

    def seen(*arguments: Any, **named: Any) -> Any:
        before.append([entry.released.events for entry in open_budget(place).chain().entries])
        return run(*arguments, **named)

    monkeypatch.setattr(training, "fit", seen)
    train(searching, tmp_path / "out", budget=place)
    reserved, done = open_budget(place).chain().entries
    assert (reserved.kind, done.kind, done.settles) == ("reserved", "settled", 1)
    assert isinstance(reserved.released.events[0], Tuned)
    assert reserved.released.events == done.released.events
    assert before
    assert all(found == [reserved.released.events] for found in before)  # the same whichever run it was


def test_nothing_is_released_that_cannot_be_settled(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, out = str(tmp_path / "budget.db"), tmp_path / "out"
    new_budget(place)
    hidden = tmp_path / "away.db"

    def gone(epoch: object, total: int) -> None:
        if Path(place).exists():
            shutil.move(place, hidden)

    with pytest.raises(InputError, match="budget store"):
        train(recipe, out, gone, budget=place)
    assert not out.exists()
    shutil.move(hidden, place)
    train(recipe, out, budget=place)  # goes on where it ended
    assert [e.kind for e in open_budget(place).chain().entries] == ["reserved", "settled"]


def test_show_lists_what_counts_and_what_it_costs(released: Path, midguard: Gate) -> None:
    place = str(released / "budget.db")
    shown = json.loads(midguard("budget", "show", place, "--delta", "1e-5", "--format", "json").out)
    (held,) = shown["datasets"]
    assert [r["sequence"] for r in held["releases"]] == [2, 4]
    own = Epsilon(delta=1e-5).measure(Account(open_budget(place).chain().entries[1].released, None), 0.0).value
    assert own < held["epsilon"] < 2 * own
    words = midguard("budget", "show", place, "--delta", "1e-5").out
    assert f"ε ≤ {held['epsilon']:.4g}" in words
    assert shown["head"] in words
    assert midguard("budget", "show", place, "--delta", "1").code == 2
    assert midguard("budget", "show", place, "--delta", "0.5").code == 2  # above 1/n


def test_a_ledger_is_added_once_by_hand(released: Path, midguard: Gate, tmp_path: Path) -> None:
    place = str(tmp_path / "own.db")
    assert midguard("budget", "new", place).code == 0
    for _ in range(2):
        ended = midguard("budget", "add", place, released / "one" / "ledger.json", "--dataset", "cohort")
        assert (ended.code, ended.out[:8]) == (0, "entry 1 ")
    head = ended.out.split()[-1]
    ended = midguard("budget", "verify", place, "--head", head)
    assert (ended.code, ended.out.split("\n")[0]) == (0, f"valid: 1 entries, head {head}")
    assert midguard("budget", "add", place, released / "one" / "model.yaml").code == 2
    assert midguard("budget", "new", place).code == 2


def test_evidence_that_measured_it_without_counting_is_refused(
    released: Path, write_policy: Writer, midguard: Gate
) -> None:
    budget = ("--budget", released / "budget.db")
    ended = midguard(
        "check", write_policy(f"{ALL}, max: 9"), released / "one" / "model.pt", *budget, "--format", "json"
    )
    from midguard.reports.evidence import read

    evidence = json.loads(ended.out)
    assert read(evidence).rows[0].status == "pass"
    for told in (None, evidence["budget"] | {"releases": []}, evidence["budget"] | {"entries": 1}):
        with pytest.raises(InputError, match="no releases were counted"):
            read(evidence | {"budget": told})
