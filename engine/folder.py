"""The folder that a training leaves: the model with everything that a check needs, all of it or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .audit import Audit, audit_json, read_audit
from .errors import InputError
from .ledger import WRITER, Ledger, read_ledger
from .subject import API_VERSION, content_digest, release_document
from .subject import KIND as SUBJECT_KIND

if TYPE_CHECKING:
    from .descent import Trained
    from .ledger import AuditResult
    from .recipe import Recipe
    from .splits import Dealt
    from .target import Records

MODEL, SUBJECT, LEDGER, RECIPE, HISTORY = "model.pt", "model.yaml", "ledger.json", "recipe.yaml", "history.json"
AUDIT = "audit.json"
_TRAINED = frozenset({MODEL, SUBJECT, LEDGER, RECIPE, HISTORY, AUDIT, "members.npz", "nonmembers.npz", "auxiliary.npz"})
#: What `check --out` leaves beside it: evidence about the model that is replaced.
_CHECKED = frozenset({"evidence.json", "attestation.intoto.jsonl", "report.html", "report.pdf", ".midguard"})


def check_folder(out: Path) -> None:
    """Refuse a place where something else would be lost.

    Raises:
        InputError: It is a file, or a folder that holds more than an earlier training and its check left.
    """
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise InputError.of(f"{out}: there is something here that is no folder", "name another with --out")
    found = {entry.name for entry in out.iterdir()}
    if not found:
        return
    foreign = sorted(found - _TRAINED - _CHECKED)
    if foreign:
        message = f"{out}: this folder holds what midguard did not write ({', '.join(foreign[:5])})"
        raise InputError.of(message, "name a new folder with --out, or move them away")
    if LEDGER not in found or not read_ledger(out / LEDGER).proves:
        raise InputError.of(f"{out}: this folder is not one that midguard trained into", "name a new folder with --out")


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """A folder beside the place, which takes the place when everything in it is written; on any failure nothing does.

    Raises:
        InputError: The place cannot be written to, or has been taken meanwhile.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = _beside(out, "partial")
        fresh.mkdir()
    except OSError as error:
        raise InputError.of(f"{out}: it cannot be written ({error.strerror})", "name another with --out") from error
    try:
        yield fresh
        check_folder(out)
        _move(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _beside(out: Path, what: str) -> Path:
    """A new name in the same folder, so that moving is renaming."""
    return out.with_name(f".{out.name}-{secrets.token_hex(8)}.{what}")


def _move(fresh: Path, out: Path) -> None:
    """Let one folder take another's place. Whoever looks in between finds none, never half of one."""
    if not out.exists():
        fresh.rename(out)
        return
    old = _beside(out, "old")
    out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_training(folder: Path, recipe: Recipe, dealt: Dealt, trained: Trained, audit: Audit | None = None) -> None:
    """Write the model and everything that describes it, digests last: each is that of the file as it was written.

    Args:
        folder: Where to.
        recipe: How it was trained.
        dealt: On which records.
        trained: What came out.
        audit: What watched the training; scored here, once.
    """
    import torch

    torch.save(trained.module.state_dict(), folder / MODEL)
    for name, part in dealt.parts().items():
        _write_records(folder / f"{name}.npz", part)
    _write_text(folder / RECIPE, recipe.text)
    _write_text(folder / HISTORY, _history(trained))
    ledger = _ledger(folder, dealt, trained, audit)
    _write_text(folder / LEDGER, ledger.to_json())
    if audit is not None:
        digest = _sha256(folder / LEDGER)
        _write_text(folder / AUDIT, audit_json(audit.score(ledger, trained.module), ledger.model, digest, _writer()))
    _write_text(folder / SUBJECT, _subject(folder, recipe, dealt))
    for path in folder.iterdir():
        _settle(path)


def _write_records(path: Path, records: Records) -> None:
    import numpy as np

    if records.persons is None:
        np.savez_compressed(path, x=records.x, y=records.y)
    else:
        np.savez_compressed(path, x=records.x, y=records.y, person=records.persons)


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))


def _settle(path: Path) -> None:
    """Wait until the disk has it: after a power failure the folder's name must not stand for empty files."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def audited(folder: Path) -> AuditResult | None:
    """What the evidence tests said of the training in a folder; `None` where it was not audited.

    Raises:
        InputError: The audit is not that of the model and the ledger beside it.
    """
    if not (folder / AUDIT).exists():
        return None
    return read_audit(folder / AUDIT, _sha256(folder / MODEL), _sha256(folder / LEDGER))


def _writer() -> str:
    from .. import __version__

    return f"{WRITER}{__version__}"


def _ledger(folder: Path, dealt: Dealt, trained: Trained, audit: Audit | None) -> Ledger:
    """What happened to the members; canaries that could have been in count as records."""
    return Ledger(
        events=trained.events,
        records=len(dealt.members) + (0 if audit is None else audit.planted.records),
        data=content_digest(dealt.members),
        model=_sha256(folder / MODEL),
        written_by=_writer(),
        largest_group=dealt.largest_group,
        resumed=trained.resumed,
    )


def _history(trained: Trained) -> str:
    """The epochs as JSON; what is not a number is null."""
    epochs = [{name: _known(value) for name, value in dataclasses.asdict(epoch).items()} for epoch in trained.epochs]
    note = "loss and accuracy are those of the training records, without noise: keep this file with the data"
    document = {"note": note, "story": list(trained.told), "noise_keys": list(trained.keys), "epochs": epochs}
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _subject(folder: Path, recipe: Recipe, dealt: Dealt) -> str:
    """The text of model.yaml."""
    data = {name: {"file": f"{name}.npz", "sha256": content_digest(part)} for name, part in dealt.parts().items()}
    document = {
        "apiVersion": API_VERSION,
        "kind": SUBJECT_KIND,
        "metadata": {"name": recipe.name, "version": recipe.version},
        "spec": {
            "model": {"file": MODEL, "sha256": _sha256(folder / MODEL), "architecture": _architecture(recipe)},
            "task": _task(recipe),
            "data": data,
            "release": _release(recipe),
            "training": {"recipe": RECIPE},
            "ledger": {"file": LEDGER, "sha256": _sha256(folder / LEDGER)},
            **_audit_named(folder),
        },
    }
    note = "# Written by midguard train. Digests are SHA-256: of the file, for records of their content."
    return f"{note}\n{_yaml(document)}"


def _audit_named(folder: Path) -> dict[str, object]:
    """Where the audit is; nothing where there is none."""
    return {"audit": {"file": AUDIT, "sha256": _sha256(folder / AUDIT)}} if (folder / AUDIT).exists() else {}


def _architecture(recipe: Recipe) -> dict[str, object]:
    chosen: Any = recipe.architecture  # a dataclass, like every plugin
    name = type(chosen).__module__.rpartition(".")[2]
    values = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    return {"name": name, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}


def _task(recipe: Recipe) -> dict[str, object]:
    task = recipe.task
    return {"kind": task.kind, "classes": task.classes, "input": list(task.shape), "range": list(task.bounds)}


def _release(recipe: Recipe) -> dict[str, object]:
    return release_document(recipe.release)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that does not begin with a letter: other versions of YAML could take it for a number."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text[:1].isalpha() else '"')


_Dumper.add_representer(str, _represent_text)


def _yaml(document: Mapping[str, object]) -> str:
    """Block mappings with their innermost on one line, in the order given."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=200, allow_unicode=True
    )
    return text
