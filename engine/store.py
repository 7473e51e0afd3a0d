"""The local store: raw outcomes by what they depend on. Personal data; nothing of it enters a report.

A key names everything that can change a result, so that a hit is the same work. Every entry carries the digest of its
content and is written atomically: a killed run leaves no half entry, and a damaged one is a miss.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .observation import Goal, Membership, Observation, Predictions, Reconstruction, Separation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KINDS: dict[str, type[Observation]] = {
    "membership": Membership,
    "separation": Separation,
    "reconstruction": Reconstruction,
    "predictions": Predictions,
}
_DIGEST = 32


@cache
def code_version() -> str:
    """SHA-256 over the source of everything that computes results."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted([*(root / "engine").rglob("*.py"), *(root / "attacks").rglob("*.py")]):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def key(parts: Mapping[str, object]) -> str:
    """The key of some work: SHA-256 of everything that can change its result, the code included.

    Raises:
        TypeError: A part is not plain JSON.
    """
    text = json.dumps({**parts, "code": code_version()}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of entries.

    Attributes:
        folder: Made when the first entry is written; readable by its owner alone. Absolute: it is handed to processes
            that may have begun in another working folder than this one is in now.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder.absolute())

    def get(self, name: str) -> bytes | None:
        """The entry's content, or `None` where there is none or it is damaged."""
        try:
            stored = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        digest, content = stored[:_DIGEST], stored[_DIGEST:]
        return content if hashlib.sha256(content).digest() == digest else None

    def put(self, name: str, content: bytes) -> None:
        """Write an entry, all of it or nothing."""
        path = self._path(name)
        handle, temporary = tempfile.mkstemp(dir=self.made(path.parent.name), prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def observation(self, name: str) -> Observation | None:
        """A stored outcome; `None` where there is none or it is damaged."""
        content = self.get(name)
        return None if content is None else decode(content)

    def made(self, name: str) -> Path:
        """A folder of the store, made with the store where it is not there; readable by its owner alone."""
        # One by one: the mode that parents=True is given holds for the innermost folder only.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = self.folder / name
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def pack(plain: Mapping[str, object], arrays: Mapping[str, Any]) -> bytes:
    """NumPy arrays without pickle, and plain values as JSON; the same bytes for the same content."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, _plain=np.frombuffer(json.dumps(plain, sort_keys=True).encode(), dtype=np.uint8), **arrays)
    return buffer.getvalue()


@contextmanager
def unpacked(content: bytes) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """The plain values and the arrays that `pack` wrote; an array is read when it is looked at."""
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        yield json.loads(stored["_plain"].tobytes()), stored


def encode(observation: Observation) -> bytes:
    """An outcome as bytes."""
    import numpy as np

    kind = next(name for name, cls in _KINDS.items() if isinstance(observation, cls))
    values = {field.name: getattr(observation, field.name) for field in fields(observation)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return pack({"kind": kind, **{name: value for name, value in values.items() if name not in arrays}}, arrays)


def decode(content: bytes) -> Observation:
    """The outcome that `encode` wrote."""
    with unpacked(content) as (plain, stored):
        arrays = {name: array for name, array in stored.items() if name != "_plain"}
    cls = _KINDS[plain.pop("kind")]
    if cls is Reconstruction:
        plain["goal"] = Goal(plain["goal"])
        plain |= {name: tuple(plain[name]) for name in ("evaluators", "baselines", "yardsticks")}
    return cls(**plain, **arrays)
