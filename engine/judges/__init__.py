"""The judges: how close a reconstruction came, beside the best guess without the model, and whether it identifies.

A distance alone says little: on faces, a reconstruction that everybody recognises can be further from the photograph
than the mean face is. So every distance stands beside that of the best no-model guess, and identity is judged by
itself, by classifiers that never saw the model under attack and whose false positives are counted.

What a guess without the model may be, an adversary must be able to make: the mean of his records or of those of the
class, the most typical of them, one at random. The nearest of his records is none, since only the truth says which it
is; it stands beside the attack as a yardstick, like the class mean of the members.
"""

from ._distances import mean_squared_error, structural_similarity
from ._evaluators import Evaluators, eigen_features, fit_evaluators
from ._guesses import baselines
from ._judge import (
    CLASS_MEAN_OF_MEMBERS,
    NEAREST_OTHER,
    NEAREST_OWNED,
    identity_gap,
    judge_classes,
    judge_records,
    judge_updates,
    matched,
    nearest_identity,
)

__all__ = [
    "CLASS_MEAN_OF_MEMBERS",
    "NEAREST_OTHER",
    "NEAREST_OWNED",
    "Evaluators",
    "baselines",
    "eigen_features",
    "fit_evaluators",
    "identity_gap",
    "judge_classes",
    "judge_records",
    "judge_updates",
    "matched",
    "mean_squared_error",
    "nearest_identity",
    "structural_similarity",
]
