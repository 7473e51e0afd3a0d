"""The store: one chain in a database, written by one at a time. Imports sqlalchemy."""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ..errors import InputError, MidguardError
from ._chain import BrokenChainError, Chain, Entry, Head, Kind, content_hash, sealed
from ._releases import Spending, spending

if TYPE_CHECKING:
    from ..ledger import Ledger

#: Seconds to wait for other writers before giving up.
_PATIENCE = 120.0
_CONNECTING = 10
_NAME = re.compile(r"[\w][\w .:/-]{0,199}")
#: What a database says when a transaction lost against another one and may be tried again (SQLSTATE).
_AGAIN = frozenset({"40001", "40P01", "55P03"})
#: Parameters of a URL that say which database it is, not how or by whom it is opened.
_WHERE = frozenset({"host", "hostaddr", "port", "dbname", "service"})
_HINT = "a store is the path of a SQLite file, or a SQLAlchemy URL such as postgresql://user@host/database"
_UNREAD = "nothing can be said of the budget until it can be read and written: see to the database and its permissions"

#: Execution option of a writer's transaction.
_WRITING = "midguard_writing"

_METADATA = sa.MetaData()
_ENTRIES = sa.Table(
    "midguard_budget_entries",
    _METADATA,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("data", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("dataset", sa.String(200), nullable=False),
    sa.Column("ledger", sa.Text, nullable=False),
    sa.Column("settles", sa.Integer, nullable=False),
    sa.Column("time", sa.String(32), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
)
_HEAD = sa.Table(
    "midguard_budget_head",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("mark", sa.String(64), nullable=False),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is.

    Attributes:
        engine: Opens a connection each time, so that processes share none.
        shown: Its place as it may be printed: without password and parameters.
        secrets: What must never be printed.
    """

    engine: sa.Engine
    shown: str
    secrets: tuple[str, ...]

    @property
    def identity(self) -> str:
        """The same for the same store, from wherever and by whomever it is opened."""
        url = self.engine.url
        if self.sqlite:
            return str(Path(url.database or "").resolve())
        where = sorted((name, str(value)) for name, value in url.query.items() if name in _WHERE)
        return f"{url.get_backend_name()} {url.host} {url.port} {url.database} {where}"

    @property
    def sqlite(self) -> bool:
        """Whether it is a file, locked as a whole."""
        return self.engine.dialect.name == "sqlite"

    def refusal(self, what: object, hint: str = _UNREAD) -> InputError:
        """An error that names the place and no secret. Args: what went wrong, and what to do."""
        text = str(what).strip().splitlines()[0] if str(what).strip() else type(what).__name__
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return InputError.of(f"budget store {self.shown}: {text}", hint)


def connected(place: str, new: bool = False) -> Place:
    """Where a store is, or is going to be; connects to nothing yet.

    Raises:
        InputError: It is no place for a store.
    """
    url = _url(place)
    shown = url.set(query={}).render_as_string(hide_password=True)
    hidden = (str(url.password or ""), *(str(v) for v in url.query.values()))
    if url.get_backend_name() == "sqlite":
        _check_file(url.database, shown, new)
    try:
        engine = sa.create_engine(url, poolclass=NullPool, connect_args=_connecting(url))
    except (sa.exc.SQLAlchemyError, ImportError, ValueError, TypeError) as error:
        raise _unreachable(shown, error) from None
    _begin_explicitly(engine)
    return Place(engine, shown, tuple(secret for secret in hidden if secret))


def _url(place: str) -> sa.URL:
    """The URL of a store; what is no URL is the path of a SQLite file, unless it looks like a URL that was misspelt."""
    if "://" not in place:
        if "@" in place or re.match(r"\w+:/", place) or not place.strip():
            raise InputError.of(f"budget store {_without_secrets(place)!r}: this is no URL", _HINT)
        return sa.URL.create("sqlite", database=place)
    try:
        url = sa.make_url(place)
        return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    except (sa.exc.SQLAlchemyError, ValueError):
        raise InputError.of(f"budget store {_without_secrets(place)!r}: this is no URL", _HINT) from None


def _without_secrets(place: str) -> str:
    """What can be printed of a place that could not be understood."""
    return f"{re.split('[:@?]', place)[0]}…"


def _check_file(database: str | None, shown: str, new: bool) -> None:
    """A store in a file is there, or is not there yet; one in memory would be forgotten."""
    if not database or database == ":memory:":
        raise InputError.of(f"budget store {shown}: a store in memory would be forgotten", _HINT)
    path = Path(database)
    if new and path.exists():
        raise InputError.of(f"budget store {shown}: there is something here already", "name a new file")
    if new and not path.parent.is_dir():
        raise InputError.of(f"budget store {shown}: there is no folder {path.parent}", "make it, or name another")
    if not new and not path.is_file():
        hint = f"make one with `midguard budget new {database}`, or correct its name"
        raise InputError.of(f"budget store {shown}: there is no such file", hint)


def _unreachable(shown: str, error: Exception) -> InputError:
    if isinstance(error, ImportError):
        what, hint = (
            f"its driver is not installed ({error})",
            "install it, for PostgreSQL: pip install 'psycopg[binary]'",
        )
        return InputError.of(f"budget store {shown}: {what}", hint)
    return InputError.of(f"budget store {shown}: no such kind of database", _HINT)


def _connecting(url: sa.URL) -> dict[str, Any]:
    """How long to wait: for other writers of a file, for a server to answer."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": _PATIENCE}
    # These would wait for minutes.
    patient = url.drivername in {"postgresql+psycopg", "postgresql+psycopg2"} and "connect_timeout" not in url.query
    return {"connect_timeout": _CONNECTING} if patient else {}


def _begin_explicitly(engine: sa.Engine) -> None:
    """SQLite: transactions begin where they are begun, and a writer locks out the others before it reads."""
    if engine.dialect.name != "sqlite":
        return

    @sa.event.listens_for(engine, "connect")
    def _leave_alone(connection: Any, _: object) -> None:
        connection.isolation_level = None  # python's sqlite3 would begin a transaction only before the first write
        connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


@dataclass(frozen=True, slots=True)
class Budget:
    """The store of every release, append-only. Each reading checks the whole chain.

    Attributes:
        place: Where it is.
    """

    place: Place

    def create(self) -> None:
        """Make the tables of an empty store with a mark of its own.

        Raises:
            InputError: There is a store already, or the database cannot be written to.
        """
        if self._present():
            raise self.place.refusal("there is a store already", "name another place, or use this one")
        mark = secrets.token_hex(32)

        def work(connection: sa.Connection) -> None:
            _METADATA.create_all(connection, checkfirst=False)
            connection.execute(_HEAD.insert().values(id=1, mark=mark, entries=0, hash=mark))

        self._written(work)

    def refuse_absent(self) -> None:
        """Refuse a database without a store.

        Raises:
            InputError: There is none, or the database cannot be reached.
        """
        if not self._present():
            raise self.place.refusal("there is no store in this database", "make one with `midguard budget new`")

    def chain(self) -> Chain:
        """Everything that the store holds.

        Raises:
            BrokenChainError: Something in it was edited, taken away, put in or moved.
            InputError: It cannot be read.
        """
        return self._read(_chain)

    def spending(self, data: str) -> Spending:
        """Everything that was released on one data set. Args: data: SHA-256 of its records' content.

        Raises:
            BrokenChainError: Something in the store was edited, taken away, put in or moved.
            InputError: It cannot be read.
        """
        return spending(self.chain(), data)

    def add(self, ledger: Ledger, dataset: str = "") -> Entry:
        """Write down a release that was trained without this store; one that is there already stays one.

        Args:
            ledger: What its training did.
            dataset: Name under which data sets that share records count together; empty for none.

        Raises:
            InputError: The name is none, the store is broken, or it cannot be written.
        """
        _check_name(dataset)

        def work(connection: sa.Connection) -> Entry:
            known = _same(connection, ledger, dataset)
            return known or _append(connection, Kind.ADDED, ledger, dataset, 0)

        return self._written(work)

    def reserve(self, planned: Ledger, dataset: str = "", instead_of: int = 0) -> Entry:
        """Write down what a training is going to do at most, before its first step: it counts from now on.

        Args:
            planned: All that it may do; its model is `NO_MODEL`.
            dataset: Name under which data sets that share records count together; empty for none.
            instead_of: Sequence number of an open reservation of the same training that this one covers; 0 for none.

        Raises:
            MidguardError: There is no such open reservation on this data.
            InputError: The name is none, the store is broken, or it cannot be written.
        """
        _check_name(dataset)

        def work(connection: sa.Connection) -> Entry:
            chain = _chain(connection)
            if instead_of:
                _open_reservation(chain, instead_of, planned.data)
            return _append(connection, Kind.RESERVED, planned, dataset, instead_of)

        return self._written(work)

    def settle(self, reservation: int, ledger: Ledger) -> Entry:
        """Write down what a training did that was reserved for; it takes the reservation's place.

        Args:
            reservation: The reservation's sequence number.
            ledger: What happened.

        Raises:
            MidguardError: There is no such open reservation on this data.
            InputError: The store is broken, or it cannot be written.
        """

        def work(connection: sa.Connection) -> Entry:
            reserved = _open_reservation(_chain(connection), reservation, ledger.data)
            return _append(connection, Kind.SETTLED, ledger, reserved.dataset, reservation)

        return self._written(work)

    def _present(self) -> bool:
        return self._read(lambda connection: sa.inspect(connection).has_table(_HEAD.name))

    def _read(self, work: Callable[[sa.Connection], _Found]) -> _Found:
        """Work on one unchanging view of the store."""
        return self._transacted(work, {} if self.place.sqlite else {"isolation_level": "SERIALIZABLE"})

    def _written(self, work: Callable[[sa.Connection], _Found]) -> _Found:
        """Work that nobody else's comes in between: writers wait for each other at the head."""
        options = {} if self.place.sqlite else {"isolation_level": "READ COMMITTED"}
        return self._transacted(work, options | {_WRITING: True})

    def _transacted(self, work: Callable[[sa.Connection], _Found], options: dict[str, Any]) -> _Found:
        """One transaction, tried again while others get in its way; whatever else goes wrong is an error."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with self.place.engine.connect().execution_options(**options) as connection, connection.begin():
                    return work(connection)
            except sa.exc.DBAPIError as error:
                if not _lost(error) or time.monotonic() > deadline:
                    raise self.place.refusal(error.orig) from None
            except (sa.exc.SQLAlchemyError, OSError, ValueError, TypeError) as error:
                raise self.place.refusal(error) from None
            time.sleep(random.uniform(0.005, 0.05))


def _writes(connection: sa.Connection) -> bool:
    """Whether this transaction is a writer's."""
    return bool(connection.get_execution_options().get(_WRITING, False))


def _check_name(dataset: str) -> None:
    if dataset and not _NAME.fullmatch(dataset):
        raise InputError.of(f"expected a name of a data set, found {dataset!r}", "write letters, digits, . : / - and _")


def _lost(error: sa.exc.DBAPIError) -> bool:
    """Whether the transaction only lost against another one, which left nothing of it."""
    if isinstance(error, sa.exc.IntegrityError):
        return True
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state in _AGAIN or "database is locked" in str(error.orig)


def _chain(connection: sa.Connection) -> Chain:
    """The whole chain, checked."""
    head, mark = _head(connection)
    rows = connection.execute(sa.select(_ENTRIES).order_by(_ENTRIES.c.sequence))
    return Chain(mark, head, tuple(_entry(row) for row in rows))


def _head(connection: sa.Connection) -> tuple[Head, str]:
    """The end that the store says it has, and its mark; locked against other writers where this is a writer."""
    query = sa.select(_HEAD)
    rows = connection.execute(query.with_for_update() if _writes(connection) else query).all()
    if len(rows) != 1:
        raise BrokenChainError.of(f"the budget store is broken: expected one head, found {len(rows)}")
    return Head(rows[0].entries, rows[0].hash), rows[0].mark


def _entry(row: Any) -> Entry:
    """A row as an entry."""
    values = row._asdict()
    try:
        return Entry(**{**values, "kind": Kind(values["kind"])})
    except (ValueError, TypeError) as error:
        raise BrokenChainError.of(f"the budget store is broken: entry {values['sequence']}: {error}") from error


def _same(connection: sa.Connection, ledger: Ledger, dataset: str) -> Entry | None:
    """The entry of this release, if it is there; the ledger names its model."""
    _head(connection)
    text = ledger.to_json()
    alike = (_ENTRIES.c.model == ledger.model) & (_ENTRIES.c.ledger == text)
    if connection.execute(sa.select(_ENTRIES.c.sequence).where(alike)).first() is None:
        return None
    found = (e for e in _chain(connection).entries if e.ledger == text and e.kind is not Kind.RESERVED)
    return next((e for e in found if dataset in {"", e.dataset}), None)


def _open_reservation(chain: Chain, reservation: int, data: str) -> Entry:
    settled = {entry.settles for entry in chain.entries}
    for entry in chain.entries:
        if entry.sequence == reservation and entry.kind is Kind.RESERVED and reservation not in settled:
            if entry.data == data:
                return entry
            raise MidguardError(f"budget: entry {reservation} was reserved for other data")
    raise MidguardError(f"budget: entry {reservation} is no open reservation")


def _append(connection: sa.Connection, kind: Kind, ledger: Ledger, dataset: str, settles: int) -> Entry:
    """The next entry; written only on an end that is what the head says."""
    head, mark = _head(connection)
    last = connection.execute(sa.select(_ENTRIES).order_by(_ENTRIES.c.sequence.desc()).limit(1)).first()
    _check_end(head, mark, None if last is None else _entry(last))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry = sealed(head.entries + 1, kind, ledger, dataset, settles, now, head.hash)
    connection.execute(_ENTRIES.insert().values(asdict(entry) | {"kind": str(kind)}))
    moved = _HEAD.update().where((_HEAD.c.entries == head.entries) & (_HEAD.c.hash == head.hash))
    if connection.execute(moved.values(entries=entry.sequence, hash=entry.hash)).rowcount != 1:
        raise MidguardError("budget: somebody else wrote at the same time; nothing was written, try again")
    return entry


def _check_end(head: Head, mark: str, last: Entry | None) -> None:
    """Nothing is written behind an end that was tampered with."""
    found = Head(0, mark) if last is None else Head(last.sequence, last.hash)
    if found != head or (last is not None and content_hash(last) != last.hash):
        raise BrokenChainError.of("the budget store is broken: its end is not the one that its head names")
