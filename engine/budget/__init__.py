"""The budget of a data set: every release on the same records, in one hash chain that nothing can be taken out of."""

from ._chain import NO_MODEL as NO_MODEL
from ._chain import BrokenChainError as BrokenChainError
from ._chain import Chain as Chain
from ._chain import Entry as Entry
from ._chain import Head as Head
from ._chain import Kind as Kind
from ._charge import RESERVATION as RESERVATION
from ._charge import Charge as Charge
from ._open import new_budget as new_budget
from ._open import open_budget as open_budget
from ._releases import Spending as Spending
from ._releases import composed as composed
from ._releases import spending as spending
