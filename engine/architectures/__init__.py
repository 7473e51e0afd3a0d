"""Architectures that a subject may name, one file each."""

from ._choose import Architecture as Architecture
from ._choose import architecture_schema as architecture_schema
from ._choose import choose_architecture as choose_architecture
from ._choose import describe as describe
