"""Ways to train many models by one recipe, one file each; which is fastest here is measured, not guessed."""

from ._protocol import Ensemble as Ensemble
from ._protocol import Part as Part
