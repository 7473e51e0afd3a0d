"""Accountants: from what happened to what it cost, one file each; and the account in which they must agree."""

from ._account import Accounting as Accounting
from ._account import Point as Point
from ._account import account as account
from ._account import epsilon_so_far as epsilon_so_far
from ._bound import Accountant as Accountant
from ._bound import Bound as Bound
from ._noise import Run as Run
from ._noise import noise_for as noise_for
from ._steps import steps_within as steps_within
