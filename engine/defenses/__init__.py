"""Defenses that a recipe may train with, one file each."""

from ._protocol import Defense as Defense
from ._protocol import Mechanism as Mechanism
from ._protocol import Setting as Setting
from ._protocol import State as State
from ._protocol import StepSeen as StepSeen
from ._protocol import Witness as Witness
