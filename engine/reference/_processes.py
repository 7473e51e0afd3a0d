"""Training here, or in processes of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np

from ..store import Store
from ..target import Records
from ._chunk import Chunk, one_thread
from ._progress import Clock

#: How often processes tell how far they are, in seconds.
_BEAT = 0.5


def here(chunks: Sequence[Chunk], pool: Records, clock: Clock) -> None:
    """Train in this process, one chunk after the other."""
    shares = [0.0] * len(chunks)
    for number, chunk in enumerate(chunks):

        def told(share: float, number: int = number) -> None:
            shares[number] = share
            clock.tell(shares)

        chunk.train(pool, told)
        told(1.0)


def in_processes(chunks: Sequence[Chunk], pool: Records, clock: Clock, processes: int) -> None:
    """Train in processes of one thread each; the records reach them through files in the store."""
    import joblib

    setting, streams = _setting()
    with workplace(chunks[0].store) as folder, setting:
        # Not by joblib's own shared memory: processes that it uses again keep the folder of their first work.
        np.save(folder / "x.npy", pool.x)
        np.save(folder / "y.npy", pool.y)
        notes = [folder / str(number) for number in range(len(chunks))]
        done: set[int] = set()
        with _told(clock, notes, done):
            jobs = (
                joblib.delayed(elsewhere)(number, chunk, note)
                for number, (chunk, note) in enumerate(zip(chunks, notes, strict=True))
            )
            parallel = joblib.Parallel(n_jobs=processes, return_as=streams, max_nbytes=None)
            for number in parallel(jobs):
                done.add(number)


@contextmanager
def workplace(store: Store) -> Iterator[Path]:
    """A folder for what processes share while they train; inside the store, because the records are in it."""
    base = store.made("working")
    for left in base.iterdir():
        # Left by a run that was killed. Where there is no /proc nobody can tell, and it stays.
        if Path("/proc/self").exists() and not Path(f"/proc/{left.name.partition('-')[0]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=base, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _setting() -> tuple[AbstractContextManager[object], str]:
    """Where joblib runs: as whoever calls has set it, else in fresh processes; and how it can give back results."""
    import joblib
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    streams = "generator_unordered" if getattr(backend, "supports_return_generator", False) else "list"
    if type(backend).__name__ != "LokyBackend":
        return nullcontext(), streams
    return joblib.parallel_config(backend="loky", inner_max_num_threads=1), streams


def elsewhere(number: int, chunk: Chunk, note: Path) -> int:
    """Train a chunk in a process of its own. Args: note, where progress goes, beside the records. Returns: number."""
    parent, last = os.getppid(), 0.0

    def told(share: float) -> None:
        nonlocal last
        if os.getppid() != parent:
            os._exit(1)  # The run that asked is gone: nobody would hear of an error.
        if time.monotonic() - last >= _BEAT and note.parent.is_dir():
            note.write_text(str(share), encoding="ascii")
            last = time.monotonic()

    # Copied where somebody writes: torch warns of arrays that nobody may write to.
    x, y = (np.load(note.with_name(name), mmap_mode="c") for name in ("x.npy", "y.npy"))
    with one_thread():
        chunk.train(Records(x, y), told)
    return number


@contextmanager
def _told(clock: Clock, notes: Sequence[Path], done: set[int]) -> Iterator[None]:
    """Report from the processes' notes while they train, and once more at the end."""
    over = threading.Event()

    def shares() -> list[float]:
        return [1.0 if number in done else _noted(note) for number, note in enumerate(notes)]

    def watch() -> None:
        while not over.wait(_BEAT):
            clock.tell(shares())

    watcher = threading.Thread(target=watch, name="reference models", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    clock.tell(shares())


def _noted(note: Path) -> float:
    """The share that a process wrote down last; 0 where it has not, or is just writing."""
    try:
        return float(note.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0
