"""Update-Leaks: what a model learnt between two snapshots, from how its answers changed (Salem et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import ANSWERS, ThreatModel, UpdateGuess
from ...engine.errors import AttackError
from ...engine.observation import Goal
from ...engine.target import Access, NoiseSource

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from numpy import float32, float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.recipe import Recipe
    from ...engine.target import Previous, Records, Target
    from ._update_readers import Scale, Shadow


@dataclass(frozen=True, slots=True)
class UpdateLeaks:
    """Tells from the change of a model's answers on a few probes which records an update learnt from.

    The adversary makes such updates himself: of the earlier snapshot where he holds the weights, else of a model of his
    own that he trained on records of his own by the same recipe. On thousands of them he learns to read from the change
    of the answers the classes of the records (their label where it is one) and the records: by a decoder that was
    trained beforehand where it is one, by a generator that is trained on the best of many where there are more.

    Attributes:
        updates: Shadow updates.
        probes: Records on which both snapshots are asked.
        epochs: Most passes over the shadow updates of what reads labels and single records.
        batch: Updates a step.
        lr: Learning rate of those.
        code: Values between change and record.
        rounds: Passes over the shadow updates of the generator.
        generator_lr: Its learning rate; the paper's, with many more updates, is that of the thorough profile.
        draws: Records that it draws for each real one while it learns.
        width: Of the generator's layers.
        realism: Weight of the discriminator beside the best of many.
        samples: Records that are drawn and then put into as many clusters as the update has records.
    """

    updates: int = 2000
    probes: int = 100
    epochs: int = 60
    batch: int = 64
    lr: float = 1e-3
    code: int = 32
    rounds: int = 12
    generator_lr: float = 1e-3
    draws: int = 4
    width: int = 256
    realism: float = 1e-3
    samples: int = 2000

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("how many records the update learnt from", "how the model and its updates are trained"),
        goal=Goal.UPDATE,
        auxiliary=True,
        previous=True,
    )
    source: ClassVar[str] = "Salem et al. 2020 (Updates-Leak), arXiv 1904.01067"
    thorough: ClassVar[Mapping[str, object]] = {
        "updates": 10_000,
        "rounds": 60,
        "generator_lr": 2e-4,
        "width": 2048,
        "samples": 20_000,
    }

    def __post_init__(self) -> None:
        for name in ("updates", "probes", "epochs", "batch", "code", "rounds", "draws", "width", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        for name in ("lr", "generator_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"expected {name}={getattr(self, name)} > 0")
        if not 0 <= self.realism < float("inf"):
            raise ValueError(f"expected realism={self.realism} >= 0")

    def queries(self, targets: int, auxiliary: int) -> int:
        """The probes, on both snapshots; shadow updates are of models that he holds."""
        return 2 * self.probes

    def reconstruct_update(self, target: Target, seed: int, progress: Progress) -> UpdateGuess:
        """Reconstruct what the last update learnt from.

        Args:
            target: Its auxiliary records are the shadow records, `target.previous` the earlier snapshot.
            seed: Of everything that is drawn.
            progress: Told the share of the work that is done.

        Returns:
            As many records as the update has, and the share of each class.

        Raises:
            AttackError: There is no earlier snapshot, too few auxiliary records, or an answer is not finite.
        """
        from ._update_readers import Scale

        before = _previous(target)
        shadow = self.shadow(target, seed, lambda share: progress(0.5 * share))
        answers = [asked.query(shadow.probes) for asked in (before.target, target)]
        change = change_of(target, answers[0], answers[1])
        scale = Scale.of(_tensor(shadow.changes))
        read = scale.read(_tensor(change[None]))
        labels = self.labels(shadow, scale, seed, read)[0]
        images = self.records(shadow, scale, seed, read, lambda share: progress(0.6 + 0.4 * share))[0]
        progress(1.0)
        low, high = target.bounds
        return UpdateGuess((low + (high - low) * images).reshape(-1, *target.shape), labels)

    def shadow(self, target: Target, seed: int, progress: Progress) -> Shadow:
        """Updates of the adversary's own, and the change that each makes.

        Args:
            target: Who is attacked; asked nothing.
            seed: Of the deal, the base and the updates.
            progress: Told the share of the work that is done.
        """
        import numpy as np

        from ...engine.updates import UpdateSets, answers_after
        from ._update_readers import Shadow

        before, owned = _previous(target), _owned(target, self.probes)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(owned))
        probes, rest = owned.take(order[: self.probes]), owned.take(order[self.probes :])
        module, pool = _base(target, before, rest, seed)
        index = np.stack([rng.choice(len(pool), before.size, replace=False) for _ in range(self.updates)])
        sets = UpdateSets(pool.x[index], pool.y[index])
        after = answers_after(module, sets, _recipe(before), probes.x, seed, progress)
        first = _logits(module, probes.x)
        source = NoiseSource(seed)  # his own: nobody knows what the noise of the service is drawn from
        shown = [self._shown(target, logits, probes.x, source) for logits in (first, *after)]
        changes = np.stack([change_of(target, shown[0], answers) for answers in shown[1:]])
        if not np.isfinite(changes).all():
            raise AttackError("answers of shadow updates are not finite: is the update's recipe the right one?")
        low, high = target.bounds
        flat = (sets.x.reshape(*sets.x.shape[:2], -1) - low) / (high - low)
        return Shadow(probes.x, changes, flat.astype(np.float32), sets.y, target.classes)

    def _shown(
        self, target: Target, logits: NDArray[float64], x: NDArray[float32], source: NoiseSource
    ) -> NDArray[float64]:
        """What the same release would show of a model of his own."""
        return logits if target.access is Access.WEIGHTS else target.release.apply(logits, x, source)

    def labels(self, shadow: Shadow, scale: Scale, seed: int, read: torch.Tensor) -> NDArray[float64]:
        """The share of each class in updates from their changes. Args: read `(v, d)`. Returns: `(v, classes)`."""
        import torch
        from torch.nn.functional import nll_loss

        from ._update_readers import Course, kl_divergence, label_reader, share_reader, train

        x, y = scale.read(_tensor(shadow.changes)), torch.as_tensor(shadow.y, device=read.device)
        course = Course(self.epochs, self.batch, self.lr, seed)
        with _seeded(seed):
            single = shadow.size == 1
            net = (label_reader if single else share_reader)(x.shape[1], shadow.classes).to(x.device)
        if single:
            train(net, x, y[:, 0], nll_loss, course, lambda _: None)
        else:
            shares = torch.nn.functional.one_hot(y, shadow.classes).float().mean(dim=1)
            train(net, x, shares, kl_divergence, course, lambda _: None)
        with torch.no_grad():
            found: NDArray[float64] = net(read).double().exp().cpu().numpy()
        return found

    def records(
        self, shadow: Shadow, scale: Scale, seed: int, read: torch.Tensor, progress: Progress
    ) -> NDArray[float32]:
        """The records of updates from their changes. Args: read `(v, d)`. Returns: `(v, m, values)` in [0, 1]."""
        if shadow.size == 1:
            return self._single(shadow, scale, seed, read, progress)[:, None]
        return self._several(shadow, scale, seed, read, progress)

    def _single(
        self, shadow: Shadow, scale: Scale, seed: int, read: torch.Tensor, progress: Progress
    ) -> NDArray[float32]:
        """A decoder that has learnt what records look like, and what reads its code from a change."""
        import torch
        from torch.nn.functional import mse_loss

        from ._update_readers import Course, autoencoder, record_reader, train

        x, records = scale.read(_tensor(shadow.changes)), torch.as_tensor(shadow.records[:, 0], device=read.device)
        course = Course(self.epochs, self.batch, self.lr, seed)
        with _seeded(seed):
            encoder, decoder = (part.to(x.device) for part in autoencoder(records.shape[1], self.code))
            reader = record_reader(x.shape[1], self.code).to(x.device)
        train(torch.nn.Sequential(encoder, decoder), records, records, mse_loss, course, lambda s: progress(0.5 * s))
        decoder.requires_grad_(True)
        whole = torch.nn.Sequential(reader, decoder)
        train(whole, x, records, mse_loss, course, lambda s: progress(0.5 + 0.5 * s))
        with torch.no_grad():
            found: NDArray[float32] = whole(read).cpu().numpy()
        return found

    def _several(
        self, shadow: Shadow, scale: Scale, seed: int, read: torch.Tensor, progress: Progress
    ) -> NDArray[float32]:
        """A conditional generator, trained on the best of many; its samples, clustered."""
        import numpy as np
        import torch
        from sklearn.cluster import KMeans

        from ._update_readers import Course, Generator, Play, acquaint, discriminator, play

        x, records = scale.read(_tensor(shadow.changes)), torch.as_tensor(shadow.records, device=read.device)
        with _seeded(seed):
            generator = Generator(x.shape[1], records.shape[2], 50, 50, self.width).to(x.device)
            critic = discriminator(records.shape[2]).to(x.device)
            acquaint(generator, x, records, Course(self.epochs, self.batch, self.lr, seed), lambda _: None)
        how = Play(self.rounds, max(1, self.batch // 4), self.generator_lr, self.draws, self.realism, seed)
        play(generator, critic, x, records, how, progress)
        noise = torch.Generator(device=x.device).manual_seed(seed)
        found = []
        for change in read:
            z = torch.randn((1, self.samples, generator.noise), generator=noise, device=x.device)
            with torch.no_grad():
                drawn = generator(z, change[None])[0].cpu().numpy()
            clusters = KMeans(shadow.size, n_init=1, random_state=seed % 2**32).fit(drawn)
            found.append(clusters.cluster_centers_)
        return np.stack(found).astype(np.float32)


def change_of(target: Target, before: NDArray[float64], after: NDArray[float64]) -> NDArray[float64]:
    """The change of answers on the probes, as logarithms of probabilities: what is sure changes there as well.

    Args:
        target: Who answered; a label that changed is a change by itself.
        before: `(p, classes)`, what the earlier snapshot answered.
        after: `(p, classes)`, what the later one answered.

    Returns:
        `(p * classes + classes,)`.
    """
    from ...engine.target import Exposure
    from .._shares import read

    if target.exposure is Exposure.LABEL:
        return by_class(before - after)
    first, second = (read(target, answers).log_p for answers in (before, after))
    return by_class(first - second)


def by_class(change: NDArray[float64]) -> NDArray[float64]:
    """Changes in a row, and what they have in common over all probes, which models share most. Args: `(p, classes)`."""
    import numpy as np

    common = change.mean(axis=0) * len(change) ** 0.5
    return np.concatenate([change.ravel(), common])


def _previous(target: Target) -> Previous:
    if target.previous is None:
        raise AttackError("expected the model as it was before its last update, found none")
    return target.previous


def _recipe(before: Previous) -> Recipe:
    from ...engine.recipe import Recipe

    if not isinstance(before.recipe, Recipe):
        raise AttackError("expected the recipe by which updates are trained, found none")
    return before.recipe


def _owned(target: Target, probes: int) -> Records:
    """His records: the probes, and enough besides to make updates of."""
    owned, size = target.auxiliary, _previous(target).size
    found, needed = 0 if owned is None else len(owned), probes + max(10, 2 * size)
    if owned is None or found < needed:
        raise AttackError(f"expected at least {needed} auxiliary records for probes and updates, found {found}")
    return owned


def _base(target: Target, before: Previous, rest: Records, seed: int) -> tuple[torch.nn.Module, Records]:
    """What shadow updates start from, and the records that they learn from."""
    import dataclasses

    import numpy as np

    from ...engine.descent import fit

    if target.access is Access.WEIGHTS:
        return before.target.module(), rest
    half = len(rest) // 2
    recipe = _recipe(before)
    module = fit(dataclasses.replace(recipe, epochs=_long(recipe, half)), rest.take(np.arange(half)), seed).module
    return module.eval().requires_grad_(False), rest.take(np.arange(half, len(rest)))


def _long(recipe: Recipe, records: int) -> int:
    """Epochs until a model of his own has taken about 1,500 steps: an update is for a model that is trained."""
    return max(recipe.epochs, 1500 * recipe.batch_size // max(1, records))


def _logits(module: torch.nn.Module, x: NDArray[float32]) -> NDArray[float64]:
    import torch

    device = next(module.parameters()).device
    with torch.no_grad():
        found: NDArray[float64] = module(torch.as_tensor(x, device=device)).double().cpu().numpy()
    return found


def _tensor(values: NDArray[float64]) -> torch.Tensor:
    import torch

    return torch.as_tensor(values, dtype=torch.float64, device=torch.get_default_device())


def _seeded(seed: int) -> AbstractContextManager[None]:
    from ...engine.descent import seeded

    return seeded(seed)
