"""Gradients as a listener reads them: the labels in them, records in closed form, and how well a guess matches.

Imports torch. Records are shares of the bounds, [0, 1], in here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ._white_box import Place

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.target import Records, Target

#: A bias whose gradient is below this share of the largest says nothing of the record.
_FAINT = 1e-6
#: Rows of a dense layer that tell the same record agree to this share of the range.
_SAME = 1e-3
#: Batches whose gradients are computed at once.
_BATCHES = 32
#: How often each two records of a batch are tried with each other's class.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """The gradients of some batches, and the model that they were computed on.

    Attributes:
        module: The model.
        place: Where it lives.
        bounds: Smallest and largest value of a record.
        shape: `(batches, batch, *record)`.
        labels: `(batches, batch)`, as the gradients tell them.
        gradient: `(batches, parameters)`.
        clip: The norm that each record's gradient was clipped to; `None` where it was not.
    """

    module: nn.Module
    place: Place
    bounds: tuple[float, float]
    shape: tuple[int, ...]
    labels: torch.Tensor
    gradient: torch.Tensor
    clip: float | None

    @classmethod
    def of(cls, module: nn.Module, target: Target, seen: NDArray[float64]) -> Shown:
        """What was seen. Args: seen `(batches, parameters)`, finite."""
        place, batch = Place.of(module), target.release.batch
        gradient = torch.as_tensor(seen, dtype=place.dtype, device=place.device)
        labels = _labels(module, gradient, batch, target.classes)
        shape = (len(seen), batch, *target.shape)
        return cls(module, place, target.bounds, shape, labels, gradient, target.release.clip)

    def missed(self, x: torch.Tensor) -> torch.Tensor:
        """One less the cosine between a guess's gradient and what was seen; no slope. Returns: `(batches,)`."""
        return self.angle(x).detach()

    def angle(self, x: torch.Tensor) -> torch.Tensor:
        """One less the cosine between both gradients. Args: x `(batches, batch, *record)`. Returns: `(batches,)`."""
        parts = [slice(i, i + _BATCHES) for i in range(0, len(x), _BATCHES)]
        return torch.cat([self._angle(x[p], self.labels[p], self.gradient[p]) for p in parts])

    def _angle(self, x: torch.Tensor, labels: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        if self.clip is None:
            found = self._gradients(x, labels)
        else:  # he clips record by record, as the release does
            each = self._gradients(x.flatten(0, 1)[:, None], labels.flatten()[:, None])
            each = each * (self.clip / each.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
            found = each.reshape(*labels.shape, -1).mean(dim=1)
        return 1 - torch.nn.functional.cosine_similarity(found, seen, dim=1, eps=1e-12)

    def _gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean gradient of each batch. Args: x `(batches, batch, *record)`. Returns: `(batches, parameters)`."""
        low, high = self.bounds
        weights = {name: p.detach() for name, p in self.module.named_parameters()}

        def loss(parameters: dict[str, torch.Tensor], records: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return cross_entropy(torch.func.functional_call(self.module, parameters, (records,)), y)

        slopes = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, low + (high - low) * x, labels)
        return torch.cat([slope.flatten(1) for slope in slopes.values()], dim=1)

    def class_means(self, owned: Records) -> torch.Tensor:
        """The mean of the adversary's records of each class that was read off; of all where he has none of it.

        Returns:
            `(batches, batch, *record)`.
        """
        low, high = self.bounds
        records = (torch.from_numpy(owned.x).to(self.place.device, self.place.dtype) - low) / (high - low)
        classes, means = torch.from_numpy(owned.y).to(records.device), records.mean(dim=0).expand(self.shape).clone()
        for label in torch.unique(self.labels):
            if bool((classes == label).any()):
                means[self.labels == label] = records[classes == label].mean(dim=0)
        return means

    def dealt(self, x: torch.Tensor, swaps: int) -> Shown:
        """The same, each batch's classes dealt to these records as matches best: two are swapped where that helps.

        Args:
            x: `(batches, batch, *record)`, records that are known and whose classes are known in no order.
            swaps: How many are tried at most.
        """
        labels, missed = self.labels.clone(), self.missed(x)
        pairs = list(combinations(range(self.shape[1]), 2))
        for one, other in (pairs * _ROUNDS)[:swaps]:
            tried = labels.clone()
            tried[:, [one, other]] = labels[:, [other, one]]
            again = replace(self, labels=tried).missed(x)
            better = again < missed
            labels[better], missed[better] = tried[better], again[better]
        return replace(self, labels=labels)

    def take(self, index: torch.Tensor) -> Shown:
        """Some of the batches. Args: index `(k,)`."""
        shape = (len(index), *self.shape[1:])
        return replace(self, shape=shape, labels=self.labels[index], gradient=self.gradient[index])

    def closed_form(self) -> torch.Tensor:
        """Records read off the first layer's gradient where it is dense; grey ones where it is not.

        Returns:
            `(batches, batch, *record)`.
        """
        first, size = _first_dense(self.module), torch.Size(self.shape[2:]).numel()
        grey = torch.full(self.shape, 0.5, device=self.place.device, dtype=self.place.dtype)
        if first is None or first.weight.shape[1] != size:
            return grey
        rows, (low, high) = first.weight.shape[0], self.bounds
        weight = self.gradient[:, : rows * size].reshape(-1, rows, size)
        bias = self.gradient[:, rows * size : rows * (size + 1)]
        told = (weight / bias[:, :, None] - low) / (high - low)
        return torch.stack([self._from_rows(t, b) for t, b in zip(told, bias, strict=True)]).reshape(self.shape)

    def _from_rows(self, candidates: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The batch's records among what the rows tell: those that most rows agree on, then the strongest rows."""
        batch = self.shape[1]
        told = torch.nan_to_num(candidates, nan=0.5, posinf=1.0, neginf=0.0)
        loud = bias.abs() > _FAINT * bias.abs().max().clamp_min(torch.finfo(bias.dtype).tiny)
        inside = ((told > -_SAME) & (told < 1 + _SAME)).all(dim=1)
        told = told.clamp(0.0, 1.0)
        agree = torch.cdist(told, told) < _SAME * told.shape[1] ** 0.5
        support = (agree & loud[None]).sum(dim=1) * (loud & inside)
        order = torch.argsort(support * 1e6 + bias.abs() / bias.abs().max().clamp_min(1e-30), descending=True)
        chosen: list[int] = []
        for row in order.tolist():
            if len(chosen) < batch and not any(bool(agree[row, other]) for other in chosen):
                chosen.append(row)
        chosen += [order[0].item()] * (batch - len(chosen))  # type: ignore[list-item]
        return told[chosen]


def _first_dense(module: nn.Module) -> nn.Linear | None:
    """The layer that owns the model's first parameters, if it is dense and has a bias."""
    for layer in module.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            return layer if isinstance(layer, nn.Linear) and layer.bias is not None else None
    return None


def _labels(module: nn.Module, gradient: torch.Tensor, batch: int, classes: int) -> torch.Tensor:
    """How often each class is in a batch, from the last layer (Zhao et al. 2020, eq. 3). Returns: `(batches, batch)`.

    The gradient of a class's bias is its mean probability less its share: a class with a negative one is there, and
    each of its records pulls it down by 1 / batch.
    """
    pull = _class_pull(module, gradient, classes)
    left = pull.clone()
    found = torch.empty((len(pull), batch), dtype=torch.int64, device=pull.device)
    rows = torch.arange(len(pull), device=pull.device)
    for place in range(batch):
        # Once no class pulls any more, it is one of those that are there already, the strongest first.
        label = torch.where(left.amin(dim=1) < 0, left.argmin(dim=1), pull.argmin(dim=1))
        found[:, place] = label
        left[rows, label] += 1 / batch
    return found


def _class_pull(module: nn.Module, gradient: torch.Tensor, classes: int) -> torch.Tensor:
    """The gradient of each class's bias, or the sum over its weights. Returns: `(batches, classes)`."""
    shapes = [tuple(p.shape) for p in module.parameters()]
    if shapes and shapes[-1] == (classes,):
        return gradient[:, -classes:]
    if shapes and shapes[-1][0] == classes:
        size = torch.Size(shapes[-1]).numel()
        return gradient[:, -size:].reshape(len(gradient), classes, -1).sum(dim=2)
    return torch.zeros((len(gradient), classes), dtype=gradient.dtype, device=gradient.device)
