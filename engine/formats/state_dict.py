"""PyTorch's own file format, tensors only."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import InputError

if TYPE_CHECKING:
    import torch

_SAVE = "save the weights alone: torch.save(model.state_dict(), 'model.pt')"
#: The unpickler behind `weights_only=True` corrupted memory before this version (CVE-2026-24747).
_SAFE_TORCH = (2, 10)
_MAX_MEMBERS = 100_000
_MAX_PICKLE = 64 << 20


class StateDict:
    """PyTorch state_dict, as `torch.save(model.state_dict(), …)` writes it (since torch 1.6)."""

    holds: ClassVar[str] = "model"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth")

    def read(self, content: bytes, path: Path) -> Mapping[str, torch.Tensor]:
        """The tensors by name.

        Raises:
            InputError: Anything but a zip file of plain tensors under their names.
        """
        _require_safe_torch()
        with _open_archive(content, path) as archive:
            _check_kind(archive, path)
            _check_members(archive, len(content), path)
            _check_pickle(archive, path)
        return _tensors(_load(content, path), path)


def _require_safe_torch() -> None:
    """Refuse to load anything with a torch whose loader is known to be unsafe."""
    import torch

    numbers = torch.__version__.split("+")[0].split(".")[:2]
    if tuple(int(number) for number in numbers) < _SAFE_TORCH:
        wanted = ".".join(map(str, _SAFE_TORCH))
        raise InputError.of(
            f"torch {torch.__version__} does not load files safely (CVE-2026-24747)",
            f"install torch {wanted} or newer",
        )


def _open_archive(content: bytes, path: Path) -> zipfile.ZipFile:
    """The file as a zip archive, or what it is instead."""
    if not content.startswith(b"PK\x03\x04"):
        raise InputError.of(f"{path}: {_what_instead(content)}", _SAVE)
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except Exception as error:  # a hostile archive may raise anything; whatever it is, the file is refused
        raise InputError.of(f"{path}: the zip archive is damaged or cut short ({error})", "copy it again") from error


def _what_instead(content: bytes) -> str:
    """What a file that is no PyTorch archive looks like, in words."""
    if not content:
        return "the file is empty"
    if content.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the model: fetch it with `git lfs pull`; if it is yours to write"
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return "these are safetensors under another name: rename the file to .safetensors; otherwise"
    if content.startswith(b"\x80"):
        return (
            "this is a bare pickle (torch before 1.6, joblib or pickle.dump), which can run any code when opened, "
            "so it was not opened; where you trust it"
        )
    if b"\0" not in content[:4096]:
        return "this is a text file, not a PyTorch file"
    return "this is not a PyTorch file"


def _check_members(archive: zipfile.ZipFile, size: int, path: Path) -> None:
    """Refuse archives that unpack to more than they hold: torch never compresses."""
    members = archive.infolist()
    names = {member.filename for member in members}
    unusual = (
        len(members) > _MAX_MEMBERS
        or len(names) < len(members)
        or any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members)
        or sum(m.file_size for m in members) > size
    )
    if unusual:
        message = "the zip archive is not one that torch wrote: its members are compressed, repeated or overlap"
        raise InputError.of(f"{path}: {message}", _SAVE)


def _check_kind(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse the other things that torch puts into zip files, each by its name."""
    inner = {name.partition("/")[2] or name for name in archive.namelist()}
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        kind = "an exported program (.pt2), and opening a crafted one runs its code"
    elif "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        kind = "a TorchScript program, which brings its own code"
    elif any(name.startswith(".data/extern_modules") for name in inner):
        kind = "a torch.package archive, which brings its own code"
    elif "data.pkl" not in inner:
        kind = "a zip archive that torch did not write"
    else:
        return
    raise InputError.of(f"{path}: this is {kind}; it was not opened", _SAVE)


def _check_pickle(archive: zipfile.ZipFile, path: Path) -> None:
    """Name what no state_dict holds. The loader refuses it too; this says it in words, before anything is loaded."""
    try:
        member = next(m for m in archive.infolist() if m.filename.partition("/")[2] == "data.pkl")
        if member.file_size > _MAX_PICKLE:
            raise ValueError("the list of tensors is too long")
        found = _foreign(archive.read(member))
    except Exception as error:  # as above: whatever a hostile pickle makes the parser raise, the file is refused
        raise InputError.of(f"{path}: the list of its tensors cannot be read ({error})", "copy it again") from error
    if found:
        names = ", ".join(found[:3])
        message = (
            f"it holds Python objects besides tensors ({names}), a whole module perhaps; opening them would run code"
        )
        raise InputError.of(f"{path}: {message}; it was not opened", _SAVE)


def _foreign(pickle: bytes) -> list[str]:
    """The globals in a pickle that no state_dict needs. Reads the opcodes, runs none of them."""
    names: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            known = module in ("torch", "torch._utils", "torch.storage") or (module, name) == (
                "collections",
                "OrderedDict",
            )
            if not known:
                names.append(f"{module}.{name}")
    return list(dict.fromkeys(names))


def _load(content: bytes, path: Path) -> object:
    """Load what is left, weights only."""
    import torch

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # as above: the loader raises many types on damaged files
        first = str(error).strip().split("\n", maxsplit=1)[0][:200]
        raise InputError.of(f"{path}: torch refuses to load it ({first})", f"copy it again, or {_SAVE}") from error


def _tensors(loaded: object, path: Path) -> Mapping[str, torch.Tensor]:
    """What was loaded, if it is tensors by name and nothing else."""
    import torch

    if not isinstance(loaded, dict):
        raise InputError.of(f"{path}: expected tensors by name, found a {type(loaded).__name__}", _SAVE)
    if not loaded:
        raise InputError.of(f"{path}: the file holds no tensor", _SAVE)
    nested = [key for key, value in loaded.items() if isinstance(value, dict)]
    if nested:
        what = ", ".join(map(repr, nested[:5]))
        hint = f"save that entry alone: torch.save(checkpoint[{nested[0]!r}], 'model.pt')"
        raise InputError.of(f"{path}: this is a checkpoint, the weights are one of its entries ({what})", hint)
    other = [repr(k) for k, v in loaded.items() if not isinstance(k, str) or not isinstance(v, torch.Tensor)]
    if other:
        raise InputError.of(f"{path}: these entries are not tensors under a name: {', '.join(other[:10])}", _SAVE)
    return loaded
