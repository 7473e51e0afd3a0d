"""The generative inversion attack: a generator learns what records look like, and the search stays among what it makes.

LOMMA's three additions (arXiv 2304.01669) are options: the logit loss, the regulariser on features, and students that
were taught the model's answers and have to be convinced too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure
from ._white_box import Place, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target
    from ._gan import Gan
    from ._lomma import Student, Watched

#: What the model's answer is held to: cross-entropy, or the class's own logit.
_Loss = Literal["ce", "logit"]
#: What generator and critic are made of.
_Network = Literal["dense", "convolutional"]
#: Share of the work that training is reckoned as.
_TRAINING = 0.8


@dataclass(frozen=True, slots=True)
class GMI:
    """Searches what a generator makes for records that look real and convince the model (GMI).

    The generator and its critic (WGAN-GP) learn from the adversary's own records, which may be of other classes. The
    paper's sizes, which want a GPU, are those of the thorough profile.

    Attributes:
        loss: `ce`, cross-entropy as in the paper; or `logit`, minus the class's logit, which LOMMA puts in its place.
        weight: Of that loss beside the critic's word; lambda in the paper.
        features: Weight, within that loss, of the mean squared distance of the model's penultimate features from
            their mean over the adversary's records (LOMMA); 0 for none.
        students: Networks taught the model's answers on the adversary's records, over which the loss is averaged
            (LOMMA's model augmentation); 0 for none.
        student_steps: Training steps of each.
        steps: Descent steps on z.
        learning_rate: Of the descent.
        momentum: Of the descent.
        radius: Each coordinate of z is kept in [-radius, radius].
        restarts: Random starts per class; the model under attack picks one of them.
        network: What generator and critic are made of: `dense` learns small images quickly, `convolutional` better.
        size: Coordinates of z.
        iterations: Steps of the generator.
        critic_steps: Steps of the critic before each of them.
        penalty: Weight of the critic's gradient penalty.
        batch: Records a training step.
        gan_learning_rate: Of Adam, for generator and critic.
    """

    loss: _Loss = "ce"
    weight: float = 100.0
    features: float = 0.0
    students: int = 0
    student_steps: int = 500
    steps: int = 600
    learning_rate: float = 0.02
    momentum: float = 0.9
    radius: float = 1.0
    restarts: int = 5
    network: _Network = "dense"
    size: int = 64
    iterations: int = 600
    critic_steps: int = 5
    penalty: float = 10.0
    batch: int = 64
    gan_learning_rate: float = 5e-4

    source: ClassVar[str] = "Zhang et al. 2020, arXiv 1911.07135; options: Nguyen et al. 2023, arXiv 2304.01669"
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset(Exposure),
        knowledge=("the class label",),
        goal=Goal.CLASS,
        auxiliary=True,
    )
    thorough: ClassVar[Mapping[str, object]] = {
        "steps": 1500,
        "network": "convolutional",
        "size": 100,
        "iterations": 10_000,
        "gan_learning_rate": 2e-4,
    }

    def __post_init__(self) -> None:
        for name, known in (("loss", get_args(_Loss)), ("network", get_args(_Network))):
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name}={getattr(self, name)!r} to be one of {', '.join(known)}")
        for name in ("student_steps", "steps", "restarts", "size", "iterations", "critic_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        for name in ("weight", "features", "students", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 0")
        for name in ("learning_rate", "radius", "gan_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name}={getattr(self, name)} > 0")
        if not 0 < self.momentum < 1:
            raise ValueError(f"expected 0 < momentum={self.momentum} < 1")
        if self.batch < 2:
            raise ValueError(f"expected batch={self.batch} >= 2")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One per class, restart and step and one to choose; one per auxiliary record where LOMMA's parts read it."""
        reads = auxiliary if self.features or self.students else 0
        return targets * self.restarts * (self.steps + 1) + reads

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once.

        Args:
            target: The adversary must hold its weights and own records, of these or of other classes.
            classes: `(k,)`.
            seed: Decides the generator, the students and the starts.
            progress: Told the share of the work that is done.

        Returns:
            `(k, *shape)`: of each class the restart that the model under attack finds likeliest, within the bounds.

        Raises:
            AccessError: The adversary does not hold the weights.
            AttackError: He owns too few records, or training came to nothing.
        """
        from ._latent_search import Search, Trial, log_likelihood, momentum

        module = target.module()
        place = Place.of(module)
        gan = self._train(target, seed, place, partial(tell, progress, 0.0, _TRAINING))
        jury = self._jury(target, module, seed, place)
        trial = Trial(
            gan.prior,
            Search(self.steps, momentum(self.learning_rate, self.momentum)),
            partial(self._direction, gan, jury),
            lambda z, labels: gan.prior.decode(z),
            partial(log_likelihood, module),
        )
        told = partial(tell, progress, _TRAINING, 1 - _TRAINING)
        return trial.run(classes, self.restarts, place, target.shape, place.generator(seed), told)

    def _train(self, target: Target, seed: int, place: Place, progress: Progress) -> Gan:
        """The generator and its critic."""
        from ._gan import GanSettings, fit_gan

        settings = GanSettings(
            network=self.network,
            size=self.size,
            radius=self.radius,
            iterations=self.iterations,
            critic_steps=self.critic_steps,
            penalty=self.penalty,
            batch=self.batch,
            learning_rate=self.gan_learning_rate,
        )
        return fit_gan(target.auxiliary, target.bounds, settings, seed, place, progress)

    def _jury(self, target: Target, module: torch.nn.Module, seed: int, place: Place) -> _Jury:
        """The model, and what LOMMA puts beside it; the adversary's records go through the model once."""
        from ._lomma import Watched, distil
        from ._priors import owned

        watched = Watched.of(module, target.classes) if self.features else Watched(module, None)
        if not (self.features or self.students):
            return _Jury(watched, (), None)
        seen = watched.see_all(owned(target.auxiliary, place))
        students = distil(
            target.auxiliary, seen.logits, target.bounds, self.students, self.student_steps, seed, place, lambda s: None
        )
        return _Jury(watched, students, seen.features.mean(dim=0))

    def _direction(self, gan: Gan, jury: _Jury, labels: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The gradient of what z is searched by: minus the critic's word, plus the weighted loss."""
        from ._latent_search import plainly

        def objective(z: torch.Tensor) -> torch.Tensor:
            x = gan.prior.decode(z)
            return self.weight * self._identity(jury, x, labels) - gan.realism(x)

        return plainly(objective)

    def _identity(self, jury: _Jury, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """How far each record is from convincing the jury. Args: x `(n, *shape)`, labels `(n,)`. Returns: `(n,)`."""
        import torch

        seen = jury.watched.see(x)
        answers = [seen.logits, *(student(x) for student in jury.students)]
        loss = torch.stack([self._answered(logits, labels) for logits in answers]).mean(dim=0)
        if jury.usual is None or not self.features:
            return loss
        return loss + self.features * (seen.features - jury.usual).square().mean(dim=1)

    def _answered(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Args: logits `(n, classes)`, labels `(n,)`, of which every row has its own. Returns: `(n,)`."""
        from torch.nn.functional import cross_entropy

        if self.loss == "logit":
            return -logits.gather(1, labels[:, None])[:, 0]
        return cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True, slots=True)
class _Jury:
    """Who has to be convinced.

    Attributes:
        watched: The model under attack.
        students: Networks that were taught its answers.
        usual: `(d,)`, the mean of its features over the adversary's records; `None` where nobody asked.
    """

    watched: Watched
    students: tuple[Student, ...]
    usual: torch.Tensor | None
