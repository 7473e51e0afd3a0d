"""midguard: a policy-as-code privacy gate for machine-learning models.

What was not measured is never a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.check import check as check
    from .engine.training import train as train

__version__ = "0.1.0"
__all__ = ["__version__", "check", "train"]

_PUBLIC = {"check": ".engine.check", "train": ".engine.training"}


def __getattr__(name: str) -> object:
    """Load a public name on first use, so that `import midguard` stays light."""
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
