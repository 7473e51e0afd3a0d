"""Reference models: what the adversary trains himself, as the subject was trained, to see what membership changes.

Each finished model is an entry of the store, under everything that can change it. What is trained together is written
down before it is trained, so that a run that was killed goes on with the same models in the same company, and ends
with the same bits.
"""

from ._cost import Cost as Cost
from ._cost import estimate as estimate
from ._draw import complementary as complementary
from ._draw import samples as samples
from ._model import ReferenceModel as ReferenceModel
from ._model import Trained as Trained
from ._progress import Report as Report
from ._train import train_references as train_references
