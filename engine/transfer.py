"""Transfer: what a training starts from, and which of its layers stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError, Problem
from .formats import choose_model_format, model_format
from .ledger import Event, NonPrivate, read_ledger
from .registry import suggest

if TYPE_CHECKING:
    import torch
    from torch import nn

_LISTED = 12


@dataclass(frozen=True, slots=True)
class Initial:
    """The weights that a training starts from.

    Attributes:
        file: A checkpoint of the same architecture: a state_dict (.pt, .pth) or .safetensors.
        public: Whether everything that it was trained on is public, as the recipe states. Of anything else nobody knows
            what it cost the private records, and the ledger says so.
        statement: Where it comes from, in words, for whoever reads the recipe.
        sha256: Digest of the file's bytes; where it is stated, another file is refused.
        fresh: Names of parameters and layers that start afresh instead, such as a head for other classes; `*` stands
            for anything.
    """

    file: Path
    public: bool
    statement: str = ""
    sha256: str = ""
    fresh: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.public and not self.statement.strip():
            raise ValueError(
                "public: true needs a statement: say which public data the weights were trained on, by whom"
            )

    def events(self) -> tuple[Event, ...]:
        """What starting from it means for the private records."""
        if self.public:
            return ()
        return (NonPrivate(f"started from {self.file.name}, whose training data are not said to be public"),)


def take_weights(module: nn.Module, initial: Initial) -> str:
    """Put the checkpoint's weights into a module, names, shapes and values checked. No code in the file is run.

    Returns: SHA-256 of the file.

    Raises:
        InputError: The file is not the one stated, not weights of this architecture, or a name in `fresh` matches
            nothing.
    """
    from .formats._torch_weights import fit_weights

    content = _content(initial)
    tensors = dict(model_format(choose_model_format(initial.file)).read(content, initial.file))
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    afresh = matching("initial.fresh", initial.fresh, own)
    kept = {name: tensor for name, tensor in tensors.items() if not _matches_any(initial.fresh, name)}
    fit_weights(module, {**kept, **{name: own[name] for name in afresh}}, initial.file)
    return hashlib.sha256(content).hexdigest()


def _content(initial: Initial) -> bytes:
    """The file's bytes, if they are those whose digest was stated."""
    try:
        content = initial.file.read_bytes()
    except OSError as error:
        raise InputError.of(f"{initial.file}: it cannot be read ({error.strerror})", "name a checkpoint") from error
    found = hashlib.sha256(content).hexdigest()
    if initial.sha256 and initial.sha256 != found:
        message = f"{initial.file}: expected sha256 {initial.sha256}, found {found}"
        raise InputError.of(message, "if it was replaced on purpose, write the new digest")
    return content


def refuse_own_data(initial: Initial, data: str) -> None:
    """Refuse weights that are said to be public, but lie beside a ledger over the very records. Args: their digest.

    Raises:
        InputError: They do, or the ledger cannot be read.
    """
    beside = initial.file.with_name("ledger.json")
    if initial.public and beside.is_file() and read_ledger(beside).data == data:
        raise InputError.of(
            f"{initial.file}: it is said to be public, but {beside} says that it was trained on these very records",
            "write public: false, or start from other weights",
        )


@dataclass(frozen=True, slots=True)
class Frozen:
    """Which part of a module is trained. Attributes: names of the parameters that are not; trained and total count."""

    names: tuple[str, ...]
    trained: int
    total: int

    def __str__(self) -> str:
        more = f" and {len(self.names) - _LISTED} more" if len(self.names) > _LISTED else ""
        listed = ", ".join(self.names[:_LISTED]) + more
        return f"{self.trained:,} of {self.total:,} parameters are trained; frozen: {listed}"


def freeze(module: nn.Module, patterns: Sequence[str]) -> Frozen:
    """Leave parameters as they are. A layer all of whose parameters are frozen keeps its buffers, too.

    Args:
        module: In training mode.
        patterns: Names of parameters or of layers; `*` stands for anything.

    Raises:
        InputError: A pattern matches nothing, or nothing would be left to train.
    """
    parameters = dict(module.named_parameters())
    names = matching("freeze", patterns, parameters)
    for name in names:
        parameters[name].requires_grad_(False)
    left = sum(p.numel() for p in parameters.values() if p.requires_grad)
    if not left:
        raise InputError.of("every parameter is frozen: nothing would be trained", "leave out the head's layers")
    for layer in module.modules():
        own = list(layer.parameters())
        if own and not any(p.requires_grad for p in own):
            layer.eval()  # statistics that it keeps of its records are part of what is frozen
    return Frozen(tuple(names), left, sum(p.numel() for p in parameters.values()))


def matching(field: str, patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that a pattern matches, themselves or by a layer that they belong to.

    Raises:
        InputError: For each pattern that matches none, with what there is.
    """
    known = list(names)
    problems = [
        Problem(f"{field}: {pattern!r} matches no parameter and no layer", hint=_hint(pattern, known))
        for pattern in patterns
        if not any(_matches(pattern, name) for name in known)
    ]
    if problems:
        raise InputError(tuple(problems))
    return [name for name in known if _matches_any(patterns, name)]


def _matches_any(patterns: Sequence[str], name: str) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    """Whether it is the pattern's, or belongs to a layer that is."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _hint(pattern: str, known: list[str]) -> str:
    """What may have been meant."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in known if "." in name))
    found = suggest(pattern.strip("*"), [*layers, *known])
    more = f" and {len(layers) - _LISTED} more" if len(layers) > _LISTED else ""
    return found or f"there are the layers {', '.join(layers[:_LISTED])}{more}"


def trained_parameters(module: nn.Module) -> list[torch.nn.Parameter]:
    """Those that are not frozen."""
    return [p for p in module.parameters() if p.requires_grad]
