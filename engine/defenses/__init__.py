"""Defenses that a recipe may train with, one file each."""

from ._protocol import Defense as Defense
from ._protocol import Mechanism as Mechanism
from ._protocol import Setting as Setting
