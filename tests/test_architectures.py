"""Architectures: any record's shape, per-record gradients, and errors that say where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from midguard.engine.architectures import Architecture, architecture_schema, choose_architecture, describe
from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.linear import Linear
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.architectures.mnist_cnn import MnistCnn
from midguard.engine.architectures.resnet8 import Resnet8
from midguard.engine.document import read
from midguard.engine.errors import InputError
from midguard.engine.registry import load, names

IMAGES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 112, 92), (3, 5, 1)]
EVERY = [
    Linear(),
    Mlp(),
    Mlp(hidden=(), activation="tanh"),
    Mlp(hidden=(7, 5), activation="tanh", dropout=0.3),
    Cnn(),
    Cnn(channels=(6, 12, 5), hidden=(), norm="group", dropout=0.2),
    Resnet8(width=4),
    Resnet8(width=3, norm="none", dropout=0.1),
]


def built(architecture: Architecture, shape: tuple[int, ...], classes: int = 4, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture.build(shape, classes)


def still(module: nn.Module) -> nn.Module:
    """Training mode without the one part that is random."""
    for part in module.train().modules():
        if isinstance(part, nn.Dropout):
            part.eval()
    return module


def written(folder: Path, text: str) -> Architecture:
    path = folder / "recipe.yaml"
    path.write_text(f"spec:\n  architecture: {text}\n")
    return choose_architecture(read(path), ("spec", "architecture"))


@pytest.mark.parametrize("architecture", EVERY, ids=describe)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_one_logit_a_class_for_images_of_any_size(architecture: Architecture, shape: tuple[int, ...]) -> None:
    answers = built(architecture, shape)(torch.rand(3, *shape))
    assert answers.shape == (3, 4)
    assert torch.isfinite(answers).all()


@pytest.mark.parametrize("architecture", EVERY, ids=describe)
def test_the_seed_around_the_call_decides_the_weights_and_nothing_else_is_drawn(architecture: Architecture) -> None:
    before = torch.get_rng_state()
    one, same, other = (built(architecture, (1, 8, 8), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("architecture", EVERY, ids=describe)
def test_a_record_is_answered_alone_as_in_a_batch(architecture: Architecture) -> None:
    # What batch normalisation would break, in training mode above all.
    module = built(architecture, (1, 12, 12))
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    still(module)
    x = torch.rand(5, 1, 12, 12)
    alone = torch.cat([module(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(module(x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("architecture", EVERY, ids=describe)
def test_opacus_finds_the_gradients_that_a_loop_over_records_finds(architecture: Architecture) -> None:
    shape = (1, 8, 8)
    x, y = torch.rand(4, *shape), torch.arange(4)
    plain = still(built(architecture, shape))
    assert ModuleValidator.validate(plain, strict=False) == []
    wrapped = GradSampleModule(still(built(architecture, shape)), loss_reduction="sum")
    nn.functional.cross_entropy(wrapped(x), y, reduction="sum").backward()
    for i in range(4):
        plain.zero_grad()
        nn.functional.cross_entropy(plain(x[i : i + 1]), y[i : i + 1]).backward()
        for one, every in zip(plain.parameters(), wrapped._module.parameters(), strict=True):
            torch.testing.assert_close(every.grad_sample[i], one.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", EVERY, ids=describe)
def test_many_copies_run_stacked(architecture: Architecture) -> None:
    copies = [built(architecture, (1, 8, 8), seed=seed).eval() for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(copies)
    x = torch.rand(2, 1, 8, 8)

    def answer(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(copies[0], (own, state), (x,))

    stacked = torch.vmap(answer)(parameters, buffers)
    torch.testing.assert_close(stacked, torch.stack([copy(x) for copy in copies]), rtol=1e-4, atol=1e-5)


def test_a_linear_model_is_a_matrix_product() -> None:
    module = built(Linear(), (2, 3), 5)
    x = torch.rand(4, 2, 3)
    weight, bias = (p.detach().numpy() for p in module.parameters())
    np.testing.assert_allclose(module(x).detach().numpy(), x.numpy().reshape(4, 6) @ weight.T + bias, rtol=1e-5)


def test_flat_records_are_read_by_mlp_and_linear_only() -> None:
    for architecture in (Linear(), Mlp()):
        assert built(architecture, (446,), 30)(torch.rand(2, 446)).shape == (2, 30)
    for architecture in (Cnn(), Resnet8()):
        with pytest.raises(ValueError, match=r"use mlp or linear"):
            architecture.build((446,), 30)
        with pytest.raises(ValueError, match=r"\[2, 8, 8\]"):
            architecture.build((2, 8, 8), 30)


def test_the_mnist_network_is_that_of_opacus_example() -> None:
    """26,010 parameters, as Opacus' example counts them; other images and classes change the dense layers alone."""
    module = built(MnistCnn(), (1, 28, 28), 10)
    assert sum(p.numel() for p in module.parameters()) == 26_010
    assert [tuple(p.shape) for p in module.parameters()][::2] == [(16, 1, 8, 8), (32, 16, 4, 4), (32, 512), (10, 32)]
    assert sum(isinstance(part, nn.Tanh) for part in built(MnistCnn("tanh"), (1, 28, 28)).modules()) == 3
    for shape in ((1, 14, 15), (3, 32, 32), (3, 61, 14)):
        assert built(MnistCnn(), shape)(torch.rand(2, *shape)).shape == (2, 4)
    for shape in ((1, 13, 28), (1, 28, 13)):
        with pytest.raises(ValueError, match="side of 13"):
            MnistCnn().build(shape, 10)
    with pytest.raises(ValueError, match="use mlp or linear"):
        MnistCnn().build((784,), 10)


def test_parameters_do_what_they_say() -> None:
    module = built(Mlp(hidden=(7, 5), dropout=0.3), (1, 8, 8))
    assert [p.shape[0] for n, p in module.named_parameters() if n.endswith("weight")] == [7, 5, 4]
    assert [part.p for part in module.modules() if isinstance(part, nn.Dropout)] == [0.3, 0.3]
    assert any(isinstance(part, nn.Tanh) for part in built(Mlp(activation="tanh"), (4,)).modules())
    grouped = built(Cnn(channels=(16, 6), norm="group"), (1, 28, 28))
    norms = [part for part in grouped.modules() if isinstance(part, nn.GroupNorm)]
    assert [(n.num_groups, n.num_channels) for n in norms] == [(8, 16), (2, 6)]
    assert not any(isinstance(part, nn.GroupNorm) for part in built(Cnn(), (1, 28, 28)).modules())
    layers = [m for m in built(Resnet8(norm="none"), (1, 8, 8)).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum(not (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)) for m in layers) == 8


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mlp(hidden=(0,)), "hidden"),
        (lambda: Mlp(dropout=1.0), "dropout=1.0"),
        (lambda: Mlp(dropout=float("nan")), "dropout=nan"),
        (lambda: Cnn(channels=()), "channels"),
        (lambda: Cnn(channels=(16, -1)), "channels"),
        (lambda: Cnn(hidden=(0,)), "hidden"),
        (lambda: Resnet8(width=0), "width"),
        (lambda: MnistCnn("gelu"), "gelu"),  # type: ignore[arg-type]
        (lambda: Resnet8(dropout=-0.1), "dropout"),
    ],
)
def test_impossible_parameters_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_a_mapping_becomes_an_architecture(tmp_path: Path) -> None:
    assert written(tmp_path, "{name: cnn, channels: [4, 8], norm: group}") == Cnn(channels=(4, 8), norm="group")
    assert written(tmp_path, "{name: mlp, dropout: 0}") == Mlp(dropout=0)
    assert written(tmp_path, "{name: linear}") == Linear()


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("{name: cnm}", "2:24", "did you mean 'cnn'?"),
        ("{name: transformer9000xyz}", "2:24", "known are cnn, linear, mlp, mnist_cnn, resnet8"),
        ("{name: [cnn]}", "2:24", "unknown architecture"),
        ("{hidden: [3]}", "2:17", "needs a 'name'"),
        ("mlp", "2:17", "expected an architecture"),
        ("{name: mlp, hiden: [3]}", "2:29", "did you mean 'hidden'?"),
        ("{name: mlp, hidden: 3}", "2:37", "list"),
        ("{name: mlp, hidden: [3.5]}", "2:38", "3.5"),
        ("{name: mlp, activation: gelu}", "2:41", "gelu"),
        ("{name: mlp, hidden: [0]}", "2:17", "at least 1 in hidden"),
        ("{name: mlp, dropout: 1}", "2:17", "dropout"),
    ],
)
def test_every_error_says_where_and_what_to_do(tmp_path: Path, text: str, place: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        written(tmp_path, text)
    assert f"recipe.yaml:{place}:" in str(caught.value)
    assert said in str(caught.value)


def test_an_architecture_in_words() -> None:
    assert describe(Mlp()) == "mlp(hidden=[128], activation=relu, dropout=0.0)"
    assert describe(Linear()) == "linear()"


def test_the_schema_accepts_what_is_accepted_and_nothing_else() -> None:
    schema = architecture_schema()
    Draft202012Validator.check_schema(schema)
    accepts = Draft202012Validator(schema).is_valid
    assert all(accepts({"name": name}) for name in names("architectures"))
    assert accepts({"name": "cnn", "channels": [4], "norm": "group"})
    assert not any(accepts(bad) for bad in ({}, {"name": "cnm"}, {"name": "mlp", "channels": [4]}, "mlp"))


@pytest.mark.parametrize("name", names("architectures"))
def test_every_architecture_can_be_named_and_has_a_line_for_the_report(name: str, tmp_path: Path) -> None:
    architecture = written(tmp_path, f"{{name: {name}}}")
    assert type(architecture) is load("architectures", name)
    assert isinstance(architecture, Architecture)
    assert describe(architecture).startswith(f"{name}(")
