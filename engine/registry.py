"""Plugins are found by their path: `attacks/membership/loss.py` is the attack `membership.loss`.

There is no list to keep. Listing names imports nothing; loading one imports that module alone. A plugin module holds
exactly one public class of its own (for attacks, measures and defenses a frozen dataclass whose fields are the
parameters that a user may set). Files whose name starts with an underscore are shared code of their folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from functools import cache
from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGE = __name__.split(".", maxsplit=1)[0]

#: Kind of plugin -> its folder under the package.
KINDS = {
    "attacks": "attacks",
    "measures": "engine/measures",
    "defenses": "engine/defenses",
    "formats": "engine/formats",
    "accountants": "engine/accountants",
    "architectures": "engine/architectures",
    "ensembles": "engine/ensembles",
    "audits": "attacks/audit",
}


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of every plugin of a kind, sorted; imports none. A folder of another kind is left to that one.

    Raises:
        KeyError: The kind is not one of `KINDS`.
    """
    folder = _ROOT / KINDS[kind]
    inner = [_ROOT / other for other in KINDS.values() if other.startswith(f"{KINDS[kind]}/")]
    found = (p for p in folder.rglob("*.py") if not any(p.is_relative_to(other) for other in inner))
    paths = (p.relative_to(folder).with_suffix("") for p in found)
    return tuple(sorted(".".join(p.parts) for p in paths if not any(part.startswith("_") for part in p.parts)))


@cache
def load(kind: str, name: str) -> type:
    """The plugin's class.

    Raises:
        KeyError: There is no plugin of that name.
        TypeError: The module does not hold exactly one public class of its own.
    """
    if name not in names(kind):
        raise KeyError(name)
    module = import_module(".".join([_PACKAGE, *KINDS[kind].split("/"), name]))
    own = [c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__ and n[0] != "_"]
    if len(own) != 1:
        raise TypeError(f"{module.__name__} must hold exactly one public class, found {[c.__name__ for c in own]}")
    return own[0]


def parameters(plugin: type) -> tuple[dataclasses.Field[object], ...]:
    """The fields that a user may set on a plugin."""
    return dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ()


def summary(plugin: type) -> str:
    """The plugin's line in a list or report: the first line of its docstring."""
    return (inspect.getdoc(plugin) or "").split("\n", maxsplit=1)[0]


def suggest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """`did you mean 'x'?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else ""
