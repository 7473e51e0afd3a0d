"""Gradients record by record: every layer against a loop over the records, chains against autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.errors import InputError
from midguard.engine.gradients._books import Books
from midguard.engine.gradients._chain import Chain
from midguard.engine.gradients._clipped import BookKept, factors_for
from midguard.engine.gradients._layout import pooled_first
from midguard.engine.gradients._slopes import Trained, Unformed

BOUND = 0.5


class Odd(nn.Module):
    """Convolutions of many kinds, with more parameters than places at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, (3, 2), stride=(1, 2), padding=(2, 1), bias=False)
        self.norm = nn.GroupNorm(1, 3)
        self.second = nn.Conv2d(3, 7, 3, stride=2)
        self.third = nn.Conv2d(7, 9, 2, padding=1, bias=False)
        self.fourth = nn.Conv2d(9, 8, (2, 3))
        self.plain = nn.Linear(8, 5, bias=False)
        self.output = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.norm(self.first(x)))
        h = torch.tanh(self.third(torch.tanh(self.second(h))))
        h = torch.tanh(self.fourth(h)).mean(dim=(2, 3))
        answer: torch.Tensor = self.output(self.plain(h))
        return answer


class Words(nn.Module):
    """A table of words, dense layers over the words, and norms over them."""

    def __init__(self, width: int = 4, padding: int | None = 0) -> None:
        super().__init__()
        self.table = nn.Embedding(9, width, padding_idx=padding)
        self.norm = nn.LayerNorm((6, width))
        self.wide = nn.Linear(width, 5)
        self.shift = nn.LayerNorm(5, bias=False)
        self.output = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.wide(self.norm(self.table(x))))
        answer: torch.Tensor = self.output(self.shift(h).sum(dim=1))
        return answer


class InPlace(nn.Module):
    """A ReLU over what a convolution answered, and a shortcut around it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.output = nn.Linear(4 * 5 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.output(self.relu(self.first(x)).flatten(1))
        return answer


def over_images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


def over_sequences(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), *layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


IMAGES, ROWS, WORDS = "images", "rows", "words"
NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "odd": (IMAGES, Odd),
    "in place": (IMAGES, InPlace),
    "cnn": (IMAGES, lambda: Cnn((3, 4), (5,)).build((3, 7, 8), 3)),
    "cnn with norms": (IMAGES, lambda: Cnn((3, 4), (5,), "group").build((3, 7, 8), 3)),
    "resnet8": (IMAGES, lambda: Resnet8(4).build((3, 7, 8), 3)),
    "mlp": (IMAGES, lambda: Mlp((5, 4), "tanh").build((3, 7, 8), 3)),
    "groups": (IMAGES, lambda: over_images(nn.Conv2d(3, 6, (3, 2), groups=3, padding=1))),
    "dilation": (IMAGES, lambda: over_images(nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=2))),
    "same": (IMAGES, lambda: over_images(nn.Conv2d(3, 4, (4, 3), padding="same"))),
    "valid": (IMAGES, lambda: over_images(nn.Conv2d(3, 4, (4, 3), padding="valid", bias=False))),
    "one channel": (IMAGES, lambda: nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), over_images(nn.Conv2d(1, 4, 3)))),
    "instance norm": (IMAGES, lambda: over_images(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True))),
    "conv1d": (IMAGES, lambda: over_sequences(nn.Conv1d(3, 4, 5, stride=3, padding=2), nn.Conv1d(4, 6, 3, groups=2))),
    "many places": (IMAGES, lambda: over_sequences(nn.Linear(56, 2), nn.Linear(2, 2, bias=False))),
    "few places": (IMAGES, lambda: over_sequences(nn.Linear(56, 40))),
    "words": (WORDS, Words),
    "words without padding": (WORDS, lambda: Words(3, None)),
}


def batch(kind: str, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    if kind == WORDS:
        return torch.randint(0, 9, (n, 6), generator=generator), torch.arange(n) % 3
    return torch.randn(n, 3, 7, 8, generator=generator) * torch.arange(1, n + 1).view(n, 1, 1, 1), torch.arange(n) % 3


def network(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    kind, build = NETWORKS[name]
    x, y = batch(kind)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = build()
        module(x)
    return module, x, y


def trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def one_by_one(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[list[torch.Tensor]]:
    """The gradient of each record by itself."""
    losses = [nn.functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
    return [list(torch.autograd.grad(loss, trained(module))) for loss in losses]


def clipped(gradients: list[list[torch.Tensor]], bound: float) -> list[torch.Tensor]:
    norms = [float(torch.cat([g.flatten() for g in own]).norm()) for own in gradients]
    shares = [min(1.0, bound / norm) for norm in norms]
    return [
        sum((s * g for s, g in zip(shares, own, strict=True)), torch.zeros(())) for own in zip(*gradients, strict=True)
    ]


def found_by(keeper: Any, module: nn.Module, x: torch.Tensor, y: torch.Tensor, bound: float) -> list[torch.Tensor]:
    kept = BookKept(module)
    kept.release()
    kept.keeper = keeper
    totals = [torch.zeros_like(p) for p in trained(module)]
    kept.add(x, y, bound, totals)
    return totals


def keepers(module: nn.Module) -> list[Any]:
    chain = Chain.of(module)
    return [Books(module)] + ([chain] if chain is not None else [])


# Book-keeping


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bound", [1e9, BOUND])
def test_the_clipped_sum_is_that_of_single_records(name: str, bound: float) -> None:
    module, x, y = network(name)
    expected = clipped(one_by_one(module, x, y), bound)
    for keeper in keepers(module):
        for one, other in zip(found_by(keeper, module, x, y, bound), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_parameters_have_no_part(name: str) -> None:
    """Every other one is frozen, weights as well as biases; then the first half."""
    module, x, y = network(name)
    everything = list(module.parameters())
    half = len(everything) // 2
    for chosen in (everything[::2], everything[1::2], everything[half:]):
        for p in everything:
            p.requires_grad_(any(p is one for one in chosen))
        expected = clipped(one_by_one(module, x, y), BOUND)
        for keeper in keepers(module):
            found = found_by(keeper, module, x, y, BOUND)
            keeper.release()
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def test_the_chains_are_chains() -> None:
    """Else the tests above would compare book-keeping by autograd with itself."""
    of = {name: Chain.of(network(name)[0]) is not None for name in NETWORKS}
    chains = {name for name, is_chain in of.items() if is_chain}
    assert {"cnn", "mlp", "groups", "dilation", "one channel"} <= chains
    assert not chains & {"odd", "in place", "resnet8", "cnn with norms", "same", "instance norm", "words"}


def test_norms_are_had_with_and_without_forming_gradients() -> None:
    module, x, y = network("odd")
    alone = one_by_one(module, x, y)
    slopes = Books(module).slopes(x, y).slopes
    assert {isinstance(s, Unformed) for s in slopes} == {True, False}
    found = torch.stack([s.squares() for s in slopes]).sum(dim=0)
    expected = torch.tensor([sum(float(g.square().sum()) for g in own) for own in alone])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)


def test_terms_that_cancel_leave_no_norm_too_small() -> None:
    """Places whose gradients cancel to a millionth: in single precision the sum over their products is noise."""
    given = torch.tensor([[[3000.0, 1.0], [3000.0, -1.0]]])
    errors = torch.tensor([[[1.0, 0.5], [-1.0, -0.49999]]])
    slope = Unformed(given, errors, (), Trained(weight=True, bias=False))
    true = (errors[0].double().t() @ given[0].double()).norm()
    assert float(slope.squares().sqrt()) >= float(true) * (1 - 1e-6)


@pytest.mark.parametrize("name", ["odd", "cnn", "cnn with norms", "mlp", "few places"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
def test_a_record_without_a_finite_gradient_counts_as_zero(name: str, broken: float) -> None:
    module, x, y = network(name)
    x[2] *= broken
    kept = torch.tensor([0, 1, 3, 4, 5])
    expected = clipped(one_by_one(module, x[kept], y[kept]), 1.0)
    for keeper in keepers(module):
        for one, other in zip(found_by(keeper, module, x, y, 1.0), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 if broken != 1e30 else 1.01)


def test_a_batch_of_nothing_but_broken_records_sums_to_zero() -> None:
    module, x, y = network("mlp")
    for keeper in keepers(module):
        assert all((total == 0).all() for total in found_by(keeper, module, x * float("nan"), y, 1.0))


def test_factors_never_lengthen_and_bring_within_the_bound() -> None:
    norms = torch.tensor([0.0, 1e-30, 0.5, 1.0, 1e30])
    factors = factors_for(norms, 1.0)
    assert (factors <= 1).all()
    assert (factors * norms <= 1).all()
    assert factors[0] == 1


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), "other than zeros"),
        (nn.BatchNorm2d(2), "not known record by record"),
        (nn.InstanceNorm2d(2, affine=True, track_running_stats=True), "running statistics"),
        (nn.ConvTranspose2d(2, 4, 3), "not known record by record"),
    ],
)
def test_layers_that_are_not_known_are_refused(layer: nn.Module, match: str) -> None:
    with pytest.raises(InputError, match=match):
        BookKept(nn.Sequential(layer, nn.Flatten()))


@pytest.mark.parametrize("table", [nn.Embedding(3, 2, max_norm=1.0), nn.Embedding(3, 2, sparse=True)])
def test_tables_of_other_gradients_are_refused(table: nn.Module) -> None:
    with pytest.raises(InputError, match="Embedding"):
        BookKept(table)


def test_frozen_layers_need_not_be_known() -> None:
    strange = nn.Sequential(nn.ConvTranspose2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 9 * 10, 3))
    strange[0].requires_grad_(False)
    x, y = batch(IMAGES)
    expected = clipped(one_by_one(strange, x, y), BOUND)
    for one, other in zip(found_by(Books(strange), strange, x, y, BOUND), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Shortcut(nn.Module):
    """What the layer was fed is written over afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = x * 1.0
        answer = self.layer(given)
        given.mul_(2.0)
        total: torch.Tensor = answer + given
        return total


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.used(x)
        return answer


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(torch.tanh(self.layer(x)))
        return answer


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
        self.other.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.other(torch.tanh(self.one(x)))
        return answer


@pytest.mark.parametrize(
    ("build", "match"),
    [(Shortcut, "written over"), (Unused, "no part"), (Twice, "twice"), (Shared, "share")],
)
def test_what_the_books_cannot_show_is_refused(build: Callable[[], nn.Module], match: str) -> None:
    module = build()
    assert Chain.of(module) is None
    with pytest.raises(InputError, match=match):
        Books(module).slopes(torch.rand(2, 3), torch.tensor([0, 1]))


def test_a_row_that_uses_a_layer_twice_is_no_chain() -> None:
    layer = nn.Linear(3, 3)
    assert Chain.of(nn.Sequential(layer, nn.Tanh(), layer)) is None


def test_the_books_are_open_only_while_gradients_are_taken() -> None:
    module, x, y = network("odd")
    books = Books(module)
    module(x)
    with torch.no_grad():
        module(x)
    first = books.slopes(x, y)
    again = books.slopes(x, y)
    assert torch.equal(first.logits, again.logits)
    assert not first.logits.requires_grad
    books.release()
    assert not any(layer._forward_hooks for layer in module.modules())


# The chain


def build(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(*layers)
        module(batch(IMAGES)[0])
    return module


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "opacus": lambda: build(
        nn.Conv2d(3, 8, 4, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(8, 6, 2, 2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.LazyLinear(5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ),
    "no bias": lambda: build(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3, bias=False)),
    "bent twice": lambda: build(
        nn.Flatten(), nn.ReLU(), nn.Tanh(), nn.LazyLinear(4), nn.ReLU(), nn.Tanh(), nn.LazyLinear(3)
    ),
    "nested": lambda: build(
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh()), nn.Identity(), nn.Flatten(), nn.LazyLinear(3)
    ),
    "linear": lambda: build(nn.Flatten(), nn.LazyLinear(3)),
    "pooled with a margin": lambda: build(
        nn.Conv2d(3, 2, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        nn.Flatten(),
        nn.LazyLinear(3),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chains_gradient_is_autograds(name: str) -> None:
    module = CHAINS[name]()
    x, y = batch(IMAGES)
    x /= 3
    before = x.clone()
    chain = Chain.of(module)
    assert chain is not None
    loss, gradients = chain.gradients(x, y)
    assert torch.equal(x, before), "the records are not written over"
    expected = nn.functional.cross_entropy(module(x), y)
    torch.testing.assert_close(loss, expected.detach())
    for one, other in zip(gradients, torch.autograd.grad(expected, trained(module)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_chain_drops_what_autograd_drops() -> None:
    module = build(nn.Flatten(), nn.LazyLinear(20), nn.ReLU(), nn.Dropout(0.4), nn.Linear(20, 3)).train()
    x, y = batch(IMAGES)
    chain = Chain.of(module)
    assert chain is not None
    with torch.random.fork_rng():
        torch.manual_seed(8)
        _, gradients = chain.gradients(x, y)
        torch.manual_seed(8)
        expected = torch.autograd.grad(nn.functional.cross_entropy(module(x), y), trained(module))
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    module.eval()
    torch.testing.assert_close(chain.slopes(x, y).logits, module(x).detach())


def test_a_chain_follows_its_parameters() -> None:
    module = CHAINS["opacus"]()
    x, y = batch(IMAGES)
    chain = Chain.of(module)
    assert chain is not None
    chain.gradients(x, y)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5)
    torch.testing.assert_close(chain.slopes(x, y).logits, module(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda module: module.register_forward_hook(lambda *_: None),
        lambda module: module[0].register_forward_pre_hook(lambda *_: None),
        lambda module: module.double(),
        lambda module: module.append(nn.Softplus()),
        lambda module: torch.nn.utils.parametrizations.weight_norm(module[0]),
        lambda module: module.requires_grad_(False),
    ],
    ids=["hook", "hook before", "double", "another layer", "parametrised", "frozen"],
)
def test_what_a_chain_would_pass_over_makes_it_none(spoil: Callable[[Any], object]) -> None:
    module = CHAINS["no bias"]()
    assert Chain.of(module) is not None
    spoil(module)
    assert Chain.of(module) is None


# Less work, the same function


@pytest.mark.parametrize("bent", [nn.ReLU, nn.Tanh])
def test_pooling_before_the_bend_changes_nothing_but_the_order(bent: type[nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Cnn((3, 4), (5,)).build((1, 9, 8), 3)
        # Rounded, so that many windows hold ties and many are nowhere positive.
        x = torch.randint(0, 3, (20, 1, 9, 8)).float()
        for parameter in module.parameters():
            parameter.data = torch.randint_like(parameter, -2, 3)
    if bent is nn.Tanh:
        module.relu1, module.relu2 = nn.Tanh(), nn.Tanh()  # type: ignore[assignment]
    faster = pooled_first(module)
    names = [name for name, _ in faster.named_children()]
    assert names.index("pool1") < names.index("relu1")
    assert list(faster.state_dict()) == list(module.state_dict())
    gradients = []
    for layers in (module, faster):
        answer = layers(x)
        gradients.append(torch.autograd.grad((answer * torch.arange(3)).sum(), list(module.parameters())))
    assert torch.equal(module(x), faster(x))
    if bent is nn.ReLU:  # tanh rounds different values to one, among which each order takes its own largest
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_only_what_grows_before_a_max_pooling_is_moved() -> None:
    layers = nn.Sequential(nn.Softplus(), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten())
    assert [type(x) for x in pooled_first(layers)] == [type(x) for x in layers]
    linear = nn.Linear(2, 2)
    assert pooled_first(linear) is linear
