"""What this machine has for training: a GPU or none, processes, free memory. Imports neither numpy nor torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

#: Assumed where the machine does not say how much memory it has.
_SMALL_MEMORY = 4 * 2**30


def device() -> str:
    """`cuda` where torch can use a GPU, else `cpu`; imports no torch on a Linux machine without one."""
    nodes = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if sys.platform == "linux" and not any(Path(node).exists() for node in nodes):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def processes(workers: int | None, device: str) -> int:
    """How many processes may train at a time: on a GPU one; else as asked, or as joblib is set, or one a core."""
    if device != "cpu":
        return 1
    import joblib
    from joblib.parallel import get_active_backend

    backend, asked = get_active_backend()
    if getattr(backend, "supports_sharedmem", False):
        return 1  # threads would share torch's generator
    return max(1, joblib.effective_n_jobs(-1 if asked is None else asked) if workers is None else workers)


def free_memory(device: str) -> int:
    """Bytes that are free for training, where the machine says it; limits of a container included."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    found = [value for value in (_free(), *_container()) if value is not None]
    return min(found, default=_SMALL_MEMORY)


def _free() -> int | None:
    """Bytes that this machine can still give."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _container() -> Iterator[int]:
    """Bytes that the container may still take, for cgroups of version 2 and 1."""
    files = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
    for kind, limit, used in files:
        for place in _cgroups(kind):
            try:
                most = (place / limit).read_text(encoding="ascii").strip()
                taken = int((place / used).read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
            if most.isdigit():
                yield max(0, int(most) - taken)


def _cgroups(kind: str) -> Iterator[Path]:
    """Folders in which a container's limits may stand: its root, and this process's own."""
    root = Path("/sys/fs/cgroup") / kind
    yield root
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        if kind in controllers.split(",") and path != "/":
            yield root / path.lstrip("/")
