"""The pseudo-label-guided inversion attack: the model itself sorts the adversary's records by class for the generator.

In the paper's sizes it wants a GPU, so that it runs unasked under the thorough profile alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure
from ._white_box import Place, Views, confidence, lead_of_another, tell

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target
    from ._conditional import ConditionalPrior

#: What generator and critic are made of.
_Network = Literal["dense", "convolutional"]
#: Share of the work that training is reckoned as.
_TRAINING = 0.8


@dataclass(frozen=True, slots=True)
class PLGMI:
    """Searches what a generator that is told the class makes for records that the model knows (PLG-MI).

    Of the paper's views, sizes and shifts are kept; it mirrors half of them, turns them a little and changes their
    brightness besides. Its generator and critic are residual networks; here they are plain ones.

    Attributes:
        top: How many of the adversary's records stand for a class: those that the model finds likeliest.
        inversion: Weight of the model's word on what is generated, in training; alpha in the paper.
        views: Random views of each record at every step of the search.
        steps: Adam steps on z.
        learning_rate: Of Adam on z.
        restarts: Random starts per class; one of them is selected.
        transforms: Random views through which the restarts are compared.
        shift: Furthest shift of a view, as a share of the side.
        scale: Largest change of size of a view, as a share of the side.
        flip: Whether half of the views are mirrored.
        network: What generator and critic are made of: `convolutional`, or `dense` for a CPU.
        size: Coordinates of z, and of what tells the generator the class.
        width: Channels of the smallest image.
        iterations: Steps of the generator.
        critic_steps: Steps of the critic before each of them.
        batch: Records a training step.
        gan_learning_rate: Of Adam, for generator and critic.
    """

    top: int = 30
    inversion: float = 0.2
    views: int = 2
    steps: int = 600
    learning_rate: float = 0.1
    restarts: int = 5
    transforms: int = 100
    shift: float = 0.1
    scale: float = 0.1
    flip: bool = False
    network: _Network = "convolutional"
    size: int = 128
    width: int = 256
    iterations: int = 30_000
    critic_steps: int = 5
    batch: int = 64
    gan_learning_rate: float = 2e-4

    source: ClassVar[str] = "Yuan et al. 2023, arXiv 2302.09814"
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.WEIGHTS,
        exposures=frozenset(Exposure),
        knowledge=("the class label",),
        goal=Goal.CLASS,
        auxiliary=True,
    )
    profile: ClassVar[str] = "thorough"

    def __post_init__(self) -> None:
        if self.network not in get_args(_Network):
            raise ValueError(f"expected network={self.network!r} to be one of {', '.join(get_args(_Network))}")
        positive = ("top", "views", "steps", "restarts", "transforms", "size", "width", "iterations", "critic_steps")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        if self.batch < 2:
            raise ValueError(f"expected batch={self.batch} >= 2")
        if not 0 <= self.inversion < math.inf:
            raise ValueError(f"expected inversion={self.inversion} >= 0")
        for name in ("learning_rate", "gan_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name}={getattr(self, name)} > 0")
        for name in ("shift", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected 0 <= {name}={getattr(self, name)} < 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One per auxiliary record; in training a batch per iteration; then per class and restart, every view."""
        search = targets * self.restarts * (self.steps * self.views + self.transforms)
        return auxiliary + self.iterations * self.batch + search

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once.

        Args:
            target: The adversary must hold its weights and own records, of these or of other classes.
            classes: `(k,)`.
            seed: Decides the generator, starts and views.
            progress: Told the share of the work that is done.

        Returns:
            `(k, *shape)`: of each class the restart that the model recognises best, within the bounds.

        Raises:
            AccessError: The adversary does not hold the weights.
            AttackError: He owns too few records, or training came to nothing.
        """
        from ._latent_search import Search, Trial, adam

        module = target.module()
        place = Place.of(module)
        generator, views = place.generator(seed), Views(self.shift, self.scale, self.flip)
        lack = partial(self._lack, module, views, generator)
        prior = self._train(target, classes, lack, seed, partial(tell, progress, 0.0, _TRAINING))
        seen = views.draw(self.transforms, place, generator)  # the same views for every restart
        trial = Trial(
            prior,
            Search(self.steps, adam(self.learning_rate)),
            partial(self._direction, prior, lack),
            prior.decode,
            lambda images, labels: confidence(module, images, labels, views, seen),
        )
        told = partial(tell, progress, _TRAINING, 1 - _TRAINING)
        return trial.run(classes, self.restarts, place, target.shape, generator, told)

    def _train(
        self,
        target: Target,
        classes: NDArray[int64],
        lack: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        seed: int,
        progress: Progress,
    ) -> ConditionalPrior:
        """The generator, on the records that the model puts first for each class."""
        import numpy as np

        from ._conditional import ConditionalSettings, PseudoLabels, fit_conditional, probabilities_of
        from ._priors import owned

        module = target.module()
        place = Place.of(module)
        answers = probabilities_of(module, owned(target.auxiliary, place))
        pseudo = PseudoLabels.of(answers, np.unique(classes), self.top)
        settings = ConditionalSettings(
            network=self.network,
            size=self.size,
            width=self.width,
            iterations=self.iterations,
            critic_steps=self.critic_steps,
            batch=self.batch,
            learning_rate=self.gan_learning_rate,
            inversion=self.inversion,
        )
        return fit_conditional(
            target.auxiliary, target.bounds, pseudo, target.classes, lack, settings, seed, place, progress
        )

    def _lack(
        self,
        module: torch.nn.Module,
        views: Views,
        generator: torch.Generator,
        x: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """What the model lacks to see each row's class through a random view, `(n,)`. Args: x `(n, *shape)`."""
        place = Place.of(module)
        seen = views.apply(x.to(place.dtype), views.draw(len(x), place, generator))
        return lead_of_another(module(seen), labels)

    def _direction(
        self,
        prior: ConditionalPrior,
        lack: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        labels: torch.Tensor,
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The gradient of the mean lack over the views."""
        import torch

        from ._latent_search import plainly

        def objective(z: torch.Tensor) -> torch.Tensor:
            x = prior.decode(z, labels)
            return torch.stack([lack(x, labels) for _ in range(self.views)]).mean(dim=0)

        return plainly(objective)
