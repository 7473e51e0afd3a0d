"""What the evidence tests of the training said, in the words of every rendering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .wording import plain


def tests(evidence: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The evidence tests' entries; none where the training was not audited.

    Raises:
        TypeError: The audit is not what it must be.
        ValueError: A test is refuted that no finding of the evidence fails by: nothing may be left out.
        KeyError: Something is missing.
    """
    audit = evidence.get("audit")
    if audit is None:
        return ()
    entries = audit["tests"]
    if not isinstance(entries, list) or not entries:
        raise TypeError("expected a list of evidence tests in the audit")
    failed = {finding["by"] for finding in evidence["findings"] if finding["status"] == "fail"}
    for entry in entries:
        if any(type(entry[name]) is not bool for name in ("refuted", "conclusive")):
            raise TypeError(f"expected yes or no of {entry['name']}")
        if entry["refuted"] and entry["name"] not in failed:
            raise ValueError(f"{entry['name']} refutes the ledger, and no finding says so")
    return tuple(entries)


def outcome(entry: Mapping[str, Any]) -> str:
    """`Refuted`, `Held` or `Inconclusive`."""
    return "Refuted" if entry["refuted"] else "Held" if entry["conclusive"] else "Inconclusive"


def line(evidence: Mapping[str, Any]) -> str:
    """One line for a terminal; empty where the training was not audited.

    Raises:
        TypeError, ValueError, KeyError: As `tests`.
    """
    entries = tests(evidence)
    if not entries:
        return ""
    kinds = {word: [plain(str(e["name"])) for e in entries if outcome(e) == word] for word in _WORDS}
    counted = [f"{len(names)} {word.lower()}" for word, names in kinds.items() if names]
    named = [name for word in ("Refuted", "Inconclusive") for name in kinds[word]]
    behind = f" ({', '.join(named)})" if named else ""
    planted = evidence["audit"]["planted"]
    canaries = f"{planted['recordsIn']} of {planted['records']} canary records"
    return f"audit of the training: {', '.join(counted)}{behind}; the model carries {canaries}"


_WORDS = ("Refuted", "Inconclusive", "Held")
