"""What a user may write beside a table, whatever its file format."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES: Mapping[str, object] = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}

PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "label": {"type": "string"},
    "person": {"type": "string"},
    "columns": _NAMES,
    "categories": {"type": "object", "additionalProperties": _NAMES},
}
