"""Many dense networks as one: forward and backward by batched matrix products. Imports torch: only inside functions.

Shapes: k models, b rows a model, d values a record, c classes. A model that is given fewer than b records has rows of
no weight at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

#: The backward formulas that autograd itself calls, without autograd around them.
_RELU = torch.ops.aten.threshold_backward.grad_input
_TANH = torch.ops.aten.tanh_backward.grad_input


class Scratch:
    """Memory that is used again by name; fresh pages for each step would cost more than the arithmetic."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        """A contiguous float32 tensor of this shape, holding whatever finite values were left there."""
        view = self._views.get((name, shape))
        if view is None:
            view = self._views[name, shape] = self._part(name, prod(shape)).view(shape)
        return view

    def _part(self, name: str, size: int) -> torch.Tensor:
        if name not in self._held or len(self._held[name]) < size:
            self._held[name] = torch.zeros(size)
            self._views = {key: view for key, view in self._views.items() if key[0] != name}
        return self._held[name][:size]


@dataclass(frozen=True, slots=True)
class Layer:
    """One dense layer of all models.

    Attributes:
        name: In the module's state_dict, as `hidden1`.
        weight: `(k, in, out)`, the transpose of torch's: products of small batches are a quarter faster this way round.
        bias: `(k, out)`.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Slope:
    """What the loss's gradient in one layer is made of; it is never formed record by record.

    Attributes:
        errors: `(k, b, out)`, gradient of the loss in the layer's output; the bias's gradient is its sum over b.
        inputs: `(k, b, in)`, what the layer was fed; the weight's gradient is inputsᵀ errors.
    """

    errors: torch.Tensor
    inputs: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layers:
    """All layers of all models, in one piece of memory, so that an optimiser passes over it once.

    Attributes:
        flat: `(k · parameters,)`, the values of every layer below.
        each: From the first to the last.
    """

    flat: torch.Tensor
    each: tuple[Layer, ...]

    @classmethod
    def of(cls, states: Sequence[Mapping[str, torch.Tensor]]) -> Layers:
        """Those of equal dense networks. Args: state_dicts, one a model."""
        named = {name: torch.stack([state[name].t() for state in states]) for name in states[0]}
        flat = torch.cat([values.flatten() for values in named.values()])
        return cls._over(flat, {name: values.shape for name, values in named.items()})

    def zeros(self) -> Layers:
        """As many zeros in the same shapes."""
        shapes = {f"{x.name}.{part}": getattr(x, part).shape for x in self.each for part in ("weight", "bias")}
        return self._over(torch.zeros_like(self.flat), shapes)

    @classmethod
    def _over(cls, flat: torch.Tensor, shapes: Mapping[str, torch.Size]) -> Layers:
        parts = torch.split(flat, [shape.numel() for shape in shapes.values()])
        views = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        names = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
        return cls(flat, tuple(Layer(name, views[f"{name}.weight"], views[f"{name}.bias"]) for name in names))

    def states(self) -> tuple[dict[str, torch.Tensor], ...]:
        """The state_dict of each model, views of these values."""
        named = [(f"{x.name}.{part}", getattr(x, part)) for x in self.each for part in ("weight", "bias")]
        return tuple({name: values[i].t() for name, values in named} for i in range(len(self.each[0].bias)))

    @property
    def parameters(self) -> int:
        """Of one model."""
        return len(self.flat) // len(self.each[0].bias)


class Network:
    """Dense layers with one activation and dropout between them, for all models at once.

    Args:
        layers: Of all models.
        activation: `relu` or `tanh`.
        dropout: Share of hidden values that is dropped.
        generators: One a model, from which its dropout is drawn as `torch.nn.Dropout` draws it.
        scratch: Its memory.
    """

    def __init__(
        self,
        layers: Layers,
        activation: str,
        dropout: float,
        generators: Sequence[torch.Generator],
        scratch: Scratch,
    ) -> None:
        self._layers, self._relu, self._scratch = layers.each, activation == "relu", scratch
        self._keep, self._generators = 1 - dropout, generators
        self._inputs: list[torch.Tensor] = []
        self._hidden: list[torch.Tensor] = []
        self._masks: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Args: x `(k, b, d)`; how many of the b rows are records, one number a model. Returns: logits."""
        self._inputs, self._hidden, self._masks = [x], [], []
        for layer in self._layers[:-1]:
            hidden = self._linear(layer, self._inputs[-1])
            hidden = hidden.relu_() if self._relu else hidden.tanh_()
            self._hidden.append(hidden)
            self._inputs.append(self._dropped(layer, hidden, sizes))
        return self._linear(self._layers[-1], self._inputs[-1])

    def _linear(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        out = self._scratch(f"{layer.name} out", *x.shape[:2], layer.bias.shape[1])
        return torch.baddbmm(layer.bias[:, None], x, layer.weight, out=out)

    def _dropped(self, layer: Layer, hidden: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        if self._keep == 1:
            return hidden
        mask = self._scratch(f"{layer.name} mask", *hidden.shape)
        for row, size, generator in zip(mask, sizes, self._generators, strict=True):
            if size:
                row[:size].bernoulli_(self._keep, generator=generator).div_(self._keep)
        self._masks.append(mask)
        return torch.mul(hidden, mask, out=self._scratch(f"{layer.name} dropped", *hidden.shape))

    def backward(self, errors: torch.Tensor) -> list[Slope]:
        """Args: gradient of the loss in the logits, `(k, b, c)`. Returns: one slope a layer."""
        slopes = [Slope(errors, self._inputs[-1])]
        for number in range(len(self._layers) - 1, 0, -1):
            layer, hidden = self._layers[number], self._hidden[number - 1]
            errors = self._scratch(f"{layer.name} back", *hidden.shape)
            torch.bmm(slopes[-1].errors, layer.weight.transpose(1, 2), out=errors)
            if self._masks:
                errors.mul_(self._masks[number - 1])
            if self._relu:
                _RELU(errors, hidden, 0, grad_input=errors)
            else:
                _TANH(errors, hidden, grad_input=errors)
            slopes.append(Slope(errors, self._inputs[number - 1]))
        return slopes[::-1]


def softmax_errors(logits: torch.Tensor, labels: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """Gradient of each row's cross-entropy in its logits: softmax less the label. Args: labels `(k, b, 1)`."""
    errors = torch.softmax(logits, -1, out=scratch("errors", *logits.shape))
    return errors.scatter_add_(2, labels, scratch("minus one", *labels.shape).fill_(-1.0))


def clip(slopes: Sequence[Slope], bound: float, real: torch.Tensor) -> None:
    """Scale every row's errors so that no record's gradient over all layers is longer than the bound.

    A dense layer's gradient of one record is an outer product, so that its norm is known without forming it (Goodfellow
    2015, arXiv 1510.01799; Bu et al. 2022, arXiv 2210.00038): ||g||² (||a||² + 1), the one for the bias. A gradient
    that is not finite counts as zero.

    Args:
        slopes: Of the sum of the losses.
        bound: The clipping norm.
        real: `(k, b)` bool, which rows are records.
    """
    lengths = [(torch.linalg.vector_norm(s.errors, dim=-1), torch.linalg.vector_norm(s.inputs, dim=-1)) for s in slopes]
    norms = torch.stack([g.square() * (a.square() + 1) for g, a in lengths]).sum(dim=0).sqrt_()
    factors = (bound / (norms + 1e-6)).clamp_(max=1.0)
    broken = ~norms.isfinite()
    if bool(broken.any()):
        for slope in slopes:
            slope.errors.masked_fill_(broken[..., None], 0.0)
            slope.inputs.masked_fill_(broken[..., None], 0.0)
    factors.masked_fill_(broken | ~real, 0.0)
    for slope in slopes:
        slope.errors.mul_(factors[..., None])
