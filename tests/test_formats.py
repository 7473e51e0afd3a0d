"""Formats: what is read is what was written, and a hostile or damaged file runs nothing and is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from PIL import Image
from sklearn import datasets

from midguard.engine.architectures.mlp import Mlp
from midguard.engine.document import read
from midguard.engine.errors import InputError
from midguard.engine.formats import (
    DataFormat,
    ModelFormat,
    choose_data,
    choose_model_format,
    data_schema,
    model_format,
)
from midguard.engine.formats._records import content_digest, record_digests
from midguard.engine.formats._torch_weights import fit_weights
from midguard.engine.formats.safetensors import Safetensors
from midguard.engine.formats.state_dict import StateDict
from midguard.engine.registry import load, names
from midguard.engine.target import Records

SHARED = Path(__file__).parents[2] / "shared" / "data"


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(3, 4, generator=generator), "a.bias": torch.randn(3, generator=generator)}


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def refused(content: bytes, format_: ModelFormat | None = None, name: str = "model.pt") -> str:
    with pytest.raises(InputError) as caught:
        (format_ or StateDict()).read(content, Path(name))
    assert name in str(caught.value)
    return str(caught.value)


class Evil:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.path}",)


class Whole(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


# Models


@pytest.mark.parametrize("wrap", [dict, OrderedDict, lambda d: {k: torch.nn.Parameter(v) for k, v in d.items()}])
def test_a_state_dict_comes_back_as_it_was(wrap: Callable[[dict[str, torch.Tensor]], object]) -> None:
    found = StateDict().read(saved(wrap(weights())), Path("model.pt"))
    assert set(found) == set(weights())
    assert all(torch.equal(found[name], tensor) for name, tensor in weights().items())


def test_safetensors_come_back_as_they_were() -> None:
    found = Safetensors().read(safetensors.torch.save(weights()), Path("model.safetensors"))
    assert all(torch.equal(found[name], tensor) for name, tensor in weights().items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_an_evil_pickle_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for value in (Evil(trace), {"a.weight": Evil(trace)}, OrderedDict(a=weights()["a.bias"], b=Evil(trace))):
        assert "system" in refused(saved(value))
        refused(saved(value, _use_new_zipfile_serialization=False))
        refused(pickle.dumps(value))
        refused(pickle.dumps(value), Safetensors(), "model.safetensors")
        assert "torch" in refused(saved(value, pickle_protocol=4))
    assert not trace.exists()
    torch.load(io.BytesIO(saved(Evil(trace))), weights_only=False)
    assert trace.exists(), "the planted pickle has no bite, so this test shows nothing"


def test_a_pickled_module_is_refused_with_the_way_to_convert_it() -> None:
    said = refused(saved(Whole()))
    assert "Whole" in said
    assert "torch.save(model.state_dict(), 'model.pt')" in said


def test_a_torchscript_file_is_refused() -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Whole()), buffer)
    assert "TorchScript" in refused(buffer.getvalue())


def test_an_exported_program_is_refused_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Whole(), (torch.zeros(1, 2),)), path)
    assert ".pt2" in refused(path.read_bytes())
    with pytest.raises(InputError, match=r"exported programs .* are refused.*state_dict"):
        choose_model_format(path)


def test_a_torch_package_is_refused(tmp_path: Path) -> None:
    with torch.package.PackageExporter(str(tmp_path / "p.pt")) as exporter:
        exporter.save_text("words", "text.txt", "hello")
    assert "not opened" in refused((tmp_path / "p.pt").read_bytes())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"apiVersion: midguard.dev/v1\n", "text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", "not a PyTorch file"),
        (pickle.dumps({"a": 1}), "bare pickle"),
        (saved(weights(), _use_new_zipfile_serialization=False), "bare pickle"),
        (safetensors.torch.save(weights()), "rename the file to .safetensors"),
    ],
)
def test_what_is_no_torch_file_is_called_by_its_name(content: bytes, said: str) -> None:
    assert said in refused(content)


def test_a_torch_file_named_safetensors_is_called_by_its_name() -> None:
    for content in (saved(weights()), pickle.dumps(weights())):
        assert "rename it to .pt" in refused(content, Safetensors(), "model.safetensors")
    assert "not a safetensors file" in refused(b"{}", Safetensors(), "model.safetensors")
    assert "not a safetensors file" in refused(b"\xff" * 100, Safetensors(), "model.safetensors")
    assert "no tensor" in refused(safetensors.torch.save({}), Safetensors(), "model.safetensors")


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def test_other_zip_archives_are_refused() -> None:
    assert "did not write" in refused(archive({"word/document.xml": b"<w/>"}))
    assert "compressed" in refused(archive({"a/data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
    assert "cannot be read" in refused(archive({"a/data.pkl": b"\xff\xff"}))
    twice = archive({"a/data.pkl": b"1", "a/data.pkm": b"2"}).replace(b"a/data.pkm", b"a/data.pkl")
    assert "repeated" in refused(twice)


def test_members_that_overlap_are_refused() -> None:
    # The bomb that needs no compression: many entries of the directory point at the same bytes.
    content = archive({"a/data.pkl": bytes(1000)})
    end = content.rindex(b"PK\x05\x06")
    start = content.rindex(b"PK\x01\x02")
    entry = content[start:end]
    many = entry + b"".join(entry.replace(b"a/data.pkl", b"a/data%03d." % i) for i in range(99))
    tail = bytearray(content[end:])
    tail[8:12] = (100).to_bytes(2, "little") * 2
    tail[12:16] = len(many).to_bytes(4, "little")
    assert "overlap" in refused(content[:start] + many + bytes(tail))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"state_dict": weights(), "epoch": 3}, "torch.save(checkpoint['state_dict'], 'model.pt')"),
        ({"a": torch.zeros(1), "epoch": 3}, "not tensors under a name: 'epoch'"),
        ({3: torch.zeros(1)}, "not tensors under a name: 3"),
        ([torch.zeros(1)], "found a list"),
        (torch.zeros(1), "found a Tensor"),
        ({}, "no tensor"),
        ({"a": np.float64(1.0)}, "numpy"),
    ],
)
def test_what_is_no_plain_state_dict_is_refused(value: object, said: str) -> None:
    assert said in refused(saved(value))


def test_an_old_torch_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2.9.1", "1.13.0+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        with pytest.raises(InputError, match=r"CVE-2026-24747.*install torch 2\.10"):
            StateDict().read(saved(weights()), Path("model.pt"))
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert StateDict().read(saved(weights()), Path("model.pt"))


@pytest.mark.parametrize(
    ("format_", "content"), [(StateDict(), saved(weights())), (Safetensors(), b"")], ids=["state_dict", "safetensors"]
)
def test_a_file_cut_short_anywhere_is_refused(format_: ModelFormat, content: bytes) -> None:
    content = content or safetensors.torch.save(weights())
    for length in [*range(0, len(content), max(1, len(content) // 100)), len(content) - 1]:
        with pytest.raises(InputError):
            format_.read(content[:length], Path("model"))


@pytest.mark.parametrize("format_", [StateDict(), Safetensors()], ids=lambda f: type(f).__name__)
def test_a_changed_byte_anywhere_ends_in_tensors_or_in_an_input_error(format_: ModelFormat) -> None:
    network = Mlp((3,)).build((4,), 2)
    state = network.state_dict()
    content = saved(state) if isinstance(format_, StateDict) else safetensors.torch.save(state)
    draw = np.random.default_rng(0)
    loaded = 0
    for place in draw.integers(0, len(content), size=600):
        damaged = bytearray(content)
        damaged[place] ^= int(draw.integers(1, 256))
        try:
            fit_weights(network, format_.read(bytes(damaged), Path("model")), Path("model"))
            loaded += 1
        except InputError:
            continue
    assert 0 < loaded < 600, "the changes should hit both numbers and structure"


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_the_file_must_hold_the_tensors_of_the_architecture() -> None:
    network = Mlp((3,)).build((4,), 2)
    good = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fit_weights(network, good, Path("m.pt"))

    def said(change: dict[str, Any], drop: tuple[str, ...] = ()) -> str:
        with pytest.raises(InputError) as caught:
            fit_weights(network, {k: v for k, v in (good | change).items() if k not in drop}, Path("m.pt"))
        return str(caught.value)

    assert "missing: output.bias; unexpected: extra" in said({"extra": torch.zeros(1)}, ("output.bias",))
    assert "'output.weight' has shape [3, 2], the architecture expects [2, 3]" in said(
        {"output.weight": torch.zeros(3, 2)}
    )
    assert "is complex64" in said({"output.bias": torch.zeros(2, dtype=torch.complex64)})
    assert "is float64, the architecture computes in float32" in said({"output.bias": torch.zeros(2).double()})
    assert "is int64" in said({"output.bias": torch.zeros(2, dtype=torch.int64)})
    quantised = torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)
    assert "quantised" in said({"output.bias": quantised})
    assert "no plain tensor" in said({"output.bias": torch.zeros(2).to_sparse()})
    assert "no plain tensor" in said({"output.bias": torch.zeros(2, device="meta")})
    for value in (float("nan"), float("inf"), -float("inf")):
        assert "1 of 2 values of 'output.bias' are NaN or infinite" in said({"output.bias": torch.tensor([0.0, value])})
    many = {f"extra{i}": torch.zeros(1) for i in range(30)}
    assert "and 20 more" in said(many)


def test_half_precision_is_widened_exactly() -> None:
    network = Mlp((3,)).build((4,), 2)
    for dtype in (torch.float16, torch.bfloat16):
        halves = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
        fit_weights(network, halves, Path("m.pt"))
        assert all(torch.equal(network.state_dict()[name], half.float()) for name, half in halves.items())


@pytest.mark.parametrize("prefix", ["module.", "_module.", "_orig_mod."])
def test_a_wrappers_prefix_is_explained(prefix: str) -> None:
    network = Mlp((3,)).build((4,), 2)
    wrapped = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=rf"model\.{prefix}state_dict\(\)"):
        fit_weights(network, wrapped, Path("m.pt"))


def test_a_tiny_file_cannot_claim_a_giant_tensor() -> None:
    # A stride of 0 makes 2^40 values out of one: its shape is refused before anything looks at the values.
    giant = torch.zeros(1).expand(1 << 40)
    found = StateDict().read(saved({"output.bias": giant}), Path("m.pt"))
    with pytest.raises(InputError, match="tensors are not those"):
        fit_weights(Mlp((3,)).build((4,), 2), found, Path("m.pt"))


def test_suffixes_tell_the_format() -> None:
    assert choose_model_format(Path("a/model.pt")) == "state_dict"
    assert choose_model_format(Path("model.PTH")) == "state_dict"
    assert choose_model_format(Path("model.safetensors")) == "safetensors"
    with pytest.raises(InputError, match=r"known are \.safetensors, \.pt, \.pth"):
        choose_model_format(Path("model.onnx"))


@pytest.mark.parametrize("name", names("formats"))
def test_every_format_keeps_the_contract(name: str) -> None:
    plugin = load("formats", name)
    assert plugin.holds in ("model", "data")
    assert isinstance(plugin.suffixes, tuple)
    if plugin.holds == "model":
        assert isinstance(model_format(name), ModelFormat)
    else:
        assert callable(plugin.read)
        assert plugin.key
        Draft202012Validator.check_schema({"properties": dict(plugin.parameters)})


# Records

SHAPE = (1, 2, 3)


def records(n: int = 20, seed: int = 0) -> Records:
    draw = np.random.default_rng(seed)
    x = draw.random((n, *SHAPE)).astype(np.float32)
    x[0, 0, 0, 0] = 0.0
    return Records(x, draw.integers(0, 3, n))


def source(folder: Path, entry: str) -> Any:
    path = folder / "model.yaml"
    path.write_text(f"data:\n  members: {entry}\n")
    return choose_data(read(path), ("data", "members"))


def loaded(
    folder: Path,
    entry: str,
    shape: tuple[int, ...] = SHAPE,
    classes: int = 3,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Records:
    found: Records = source(folder, entry).read(shape, classes, bounds)
    return found


def complaint(folder: Path, entry: str, **task: Any) -> str:
    with pytest.raises(InputError) as caught:
        loaded(folder, entry, **task)
    assert "model.yaml:2:" in str(caught.value)
    return str(caught.value)


def table(part: Records) -> pa.Table:
    flat = part.x.reshape(len(part), -1)
    return pa.table({**{f"c{i}": flat[:, i] for i in range(flat.shape[1])}, "kind": part.y})


def write_every_format(folder: Path, part: Records) -> dict[str, str]:
    np.savez(folder / "m.npz", x=part.x, y=part.y)
    np.savez_compressed(folder / "double.npz", x=part.x.astype(">f8"), y=part.y.astype(np.uint8))
    np.save(folder / "x.npy", np.asfortranarray(part.x))
    np.save(folder / "y.npy", part.y.astype(np.int32))
    pa.parquet.write_table(table(part), folder / "m.parquet")
    lines = [",".join(table(part).column_names)]
    lines += [",".join(map(repr, [*map(float, x.ravel()), int(y)])) for x, y in zip(part.x, part.y, strict=True)]
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return {
        "npz": "{file: m.npz}",
        "other dtypes": "{file: double.npz}",
        "npy": "{x: x.npy, y: y.npy}",
        "csv": "{file: m.csv, label: kind}",
        "parquet": "{file: m.parquet, label: kind, columns: [c0, c1, c2, c3, c4, c5]}",
    }


def test_every_format_gives_the_same_records_and_the_same_digest(tmp_path: Path) -> None:
    part = records()
    for name, entry in write_every_format(tmp_path, part).items():
        found = loaded(tmp_path, entry)
        np.testing.assert_array_equal(found.x, part.x, err_msg=name)
        np.testing.assert_array_equal(found.y, part.y, err_msg=name)
        assert (found.x.dtype, found.y.dtype) == (np.float32, np.int64), name
        assert content_digest(found) == content_digest(part), name


def test_the_digest_can_be_computed_by_hand_and_hangs_on_everything() -> None:
    part = records()
    by_hand = b"midguard-records-v1 (20, 1, 2, 3)\n" + part.x.tobytes() + part.y.astype("<i8").tobytes()
    assert content_digest(part) == hashlib.sha256(by_hand).hexdigest()
    negative = part.x.copy()
    negative[0, 0, 0, 0] = -0.0
    assert content_digest(Records(negative, part.y)) == content_digest(part)
    assert np.signbit(negative[0, 0, 0, 0]), "the caller's array was changed"
    assert record_digests(negative) == record_digests(part.x)
    others = [
        Records(part.x[::-1], part.y),
        Records(part.x, (part.y + 1) % 3),
        Records(part.x.reshape(20, 6), part.y),
        Records(part.x[:19], part.y[:19]),
    ]
    digests = {content_digest(other) for other in [part, *others]}
    assert len(digests) == 5


def test_record_digests_do_not_hang_on_blocks_or_order() -> None:
    x = np.random.default_rng(0).random((9000, 2)).astype(np.float32)
    digests = record_digests(x)
    assert digests[8999] == hashlib.sha256(x[8999].tobytes()).digest()
    assert record_digests(x[::-1]) == digests[::-1]
    assert len(set(digests)) == 9000


def test_bytes_are_pixels_in_images_and_numbers_elsewhere(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 2, 3)).astype(np.uint8)
    pixels[0, 0, 0, :2] = 0, 255
    np.savez(tmp_path / "m.npz", x=pixels, y=np.arange(4) % 3)
    np.testing.assert_allclose(loaded(tmp_path, "{file: m.npz}").x, pixels / 255, atol=1e-7)
    centred = loaded(tmp_path, "{file: m.npz}", bounds=(-1.0, 1.0)).x
    np.testing.assert_allclose(centred, pixels / 127.5 - 1, atol=1e-6)
    assert (centred.min(), centred.max()) == (-1.0, 1.0)
    assert loaded(tmp_path, "{file: m.npz}", bounds=(0.0, 255.0)).x.max() == 255
    flags = np.random.default_rng(0).integers(0, 2, (4, 6)).astype(np.uint8)
    np.savez(tmp_path / "m.npz", x=flags, y=np.arange(4) % 3)
    np.testing.assert_array_equal(loaded(tmp_path, "{file: m.npz}", shape=(6,)).x, flags)
    np.savez(tmp_path / "m.npz", x=flags.reshape(4, 1, 2, 3), y=np.arange(4) % 3)
    assert "only 0 and 1" in complaint(tmp_path, "{file: m.npz}")


def broken(**change: NDArray[Any]) -> dict[str, NDArray[Any]]:
    part = records(6)
    return {"x": part.x, "y": part.y} | change


def spoilt(value: float, at: tuple[int, ...] = (2, 0, 1, 0)) -> NDArray[np.float32]:
    x = records(6).x.copy()
    x[at] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (broken(x=spoilt(np.nan)), "1 values are NaN or infinite, the first is nan at record 2, entry [0, 1, 0]"),
        (broken(x=spoilt(np.inf)), "NaN or infinite"),
        (broken(x=spoilt(-np.inf, (5, 0, 0, 0))), "record 5"),
        (broken(x=records(6).x.astype(np.float64) + 1e300), "NaN or infinite"),
        (broken(x=spoilt(1.5)), "1 values are outside [0.0, 1.0], the first is 1.5 at record 2, entry [0, 1, 0]"),
        (broken(x=spoilt(-0.001)), "outside"),
        (
            broken(y=np.array([0, 1, 2, 3, 0, 1])),
            "1 labels are not whole numbers from 0 to 2, the first is 3 at record 3",
        ),
        (broken(y=np.array([0, 1, 2, -1, 0, 1])), "the first is -1 at record 3"),
        (broken(y=np.array([0, 1, 2, 0.5, 0, 1])), "the first is 0.5"),
        (broken(y=np.array([0, 1, 2, np.nan, 0, 1])), "the first is nan"),
        (broken(y=np.array(list("abcabc"))), "y holds <U1"),
        (broken(y=np.eye(3)[[0, 1, 2, 0, 1, 2]]), "y.argmax(axis=1)"),
        (broken(y=np.zeros((6, 1))), "y.ravel()"),
        (broken(y=np.zeros(5)), "6 records in x but 5 classes in y"),
        (broken(x=records(6).x.reshape(6, 6)), "x.reshape(-1, 1, 2, 3)"),
        (broken(x=records(6).x.transpose(0, 2, 3, 1)), "x.transpose(0, 3, 1, 2)"),
        (broken(x=np.zeros((6, 1, 4, 3), dtype=np.float32)), "have shape [1, 4, 3], the task expects [1, 2, 3]"),
        (broken(x=np.zeros((0, *SHAPE)), y=np.zeros(0)), "no records"),
        (broken(x=np.zeros((6, *SHAPE), dtype=complex)), "complex128"),
        (broken(x=np.full((6, *SHAPE), "a")), "expected real numbers"),
        (broken(x=np.full((6, *SHAPE), None)), "Python objects"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_records_are_refused(tmp_path: Path, arrays: dict[str, NDArray[Any]], said: str) -> None:
    np.savez(tmp_path / "m.npz", **arrays)
    assert said in complaint(tmp_path, "{file: m.npz}")


def test_the_ends_of_the_range_belong_to_it(tmp_path: Path) -> None:
    x = records(6).x.copy() * 0.1
    x[0], x[1] = 0.0, 0.1
    np.savez(tmp_path / "m.npz", x=x.astype(np.float64), y=records(6).y)
    assert loaded(tmp_path, "{file: m.npz}", bounds=(0.0, 0.1)).x.max() == np.float32(0.1)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    evil = np.array([Evil(trace)] * 6, dtype=object)
    np.savez(tmp_path / "m.npz", x=evil, y=records(6).y)
    np.save(tmp_path / "x.npy", evil)
    np.save(tmp_path / "y.npy", records(6).y)
    assert "never loaded" in complaint(tmp_path, "{file: m.npz}")
    assert "never loaded" in complaint(tmp_path, "{x: x.npy, y: y.npy}")
    (tmp_path / "m.npz").write_bytes(pickle.dumps(Evil(trace)))
    assert "m.npz" in complaint(tmp_path, "{file: m.npz}")
    assert not trace.exists()


def test_damaged_data_files_are_refused(tmp_path: Path) -> None:
    entries = write_every_format(tmp_path, records())
    for name in ("m.npz", "x.npy", "m.parquet", "m.csv"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:60])
    for name in ("npz", "npy", "csv", "parquet"):
        complaint(tmp_path, entries[name])
    np.savez(tmp_path / "m.npz", records().x)
    assert "expected arrays x and y, found ['arr_0']" in complaint(tmp_path, entries["npz"])


def test_npy_files_are_mapped_and_never_written(tmp_path: Path) -> None:
    part = records()
    np.save(tmp_path / "x.npy", part.x)
    np.save(tmp_path / "y.npy", part.y)
    found = loaded(tmp_path, "{x: x.npy, y: y.npy}")
    base: Any = found.x
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    found.x[:] = 0.5
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), part.x)


# Tables


def write_csv(folder: Path, text: str) -> None:
    (folder / "a.csv").write_text(text)


def test_categories_become_one_place_each(tmp_path: Path) -> None:
    write_csv(tmp_path, "colour,size,income\nred,0.5,high\ngreen,0.25,low\nred,1,low\n")
    entry = "{file: a.csv, label: income, categories: {colour: [green, red], income: [low, high]}}"
    found = loaded(tmp_path, entry, shape=(3,), classes=2)
    np.testing.assert_array_equal(found.x, [[0, 1, 0.5], [1, 0, 0.25], [0, 1, 1]])
    np.testing.assert_array_equal(found.y, [1, 0, 0])
    ordered = entry.replace("label: income", "label: income, columns: [size, colour]")
    np.testing.assert_array_equal(loaded(tmp_path, ordered, shape=(3,), classes=2).x, found.x[:, [2, 0, 1]])
    pa.parquet.write_table(pa.csv.read_csv(tmp_path / "a.csv"), tmp_path / "a.parquet")
    again = loaded(tmp_path, entry.replace("a.csv", "a.parquet"), shape=(3,), classes=2)
    assert content_digest(again) == content_digest(found)


def test_categories_may_be_numbers_or_say_na(tmp_path: Path) -> None:
    write_csv(tmp_path, "code,y\n7,0\n9,1\n")
    np.testing.assert_array_equal(
        loaded(tmp_path, '{file: a.csv, label: y, categories: {code: ["7", "9"]}}', shape=(2,), classes=2).x, np.eye(2)
    )
    write_csv(tmp_path, "code,y\nNA,0\nnull,1\n")
    np.testing.assert_array_equal(
        loaded(tmp_path, "{file: a.csv, label: y, categories: {code: [NA, 'null']}}", shape=(2,), classes=2).x,
        np.eye(2),
    )


@pytest.mark.parametrize(
    ("text", "entry", "said"),
    [
        ("a,b,y\n1,,0\n", "label: y", "1 values of column 'b' are missing, the first in record 0"),
        ("a,b,y\n1,1,\n", "label: y", "column 'y' are missing"),
        ("a,b,y\n1,nan,0\n", "label: y", "NaN or infinite"),
        ("a,b,y\n1,x,0\n", "label: y", "categories: {b: [...]}"),
        ("a,b,y\n1,x,0\n", "label: y, categories: {b: [z]}", "'x' in record 0"),
        ("a,b,y\n1,0,high\n", "label: y", "column 'y' holds string, not numbers"),
        ("a,b,y\n1,0,0.5\n", "label: y", "not whole numbers"),
        ("a,b,y\n1,0,0\n", "label: yy", "did you mean 'y'?"),
        ("a,b,y\n1,0,0\n", "label: y, columns: [a, bb]", "there is no column 'bb'"),
        ("a,b,y\n1,0,0\n", "label: y, columns: [a, y]", "the label 'y' is among the columns"),
        ("a,a,y\n1,0,0\n", "label: y", "several columns 'a'"),
        ("a,y\n1,0\n", "label: y", "1 values a record from 1 columns, the task expects [2]"),
        ("a,b,y\n1,0\n", "label: y", "not a CSV file"),
        ("a,b,y\n", "label: y", "no"),
        ("", "label: y", "not a CSV file"),
        (
            "a,b,y\n1,0,low\n",
            "label: y, categories: {y: [low, mid, high]}",
            "3 classes (low, mid, high), the task has 2",
        ),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, entry: str, said: str) -> None:
    write_csv(tmp_path, text)
    assert said in complaint(tmp_path, f"{{file: a.csv, {entry}}}", shape=(2,), classes=2)


# Images


def write_images(folder: Path, mode: str = "L") -> NDArray[np.uint8]:
    depth = {"L": 1, "RGB": 3}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, depth)).astype(np.uint8)
    for i, picture in enumerate(pixels):
        place = folder / "faces" / f"person{i // 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.squeeze(-1) if depth == 1 else picture).save(place / f"{i}.png")
    return pixels.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_folder_of_images(tmp_path: Path, mode: str) -> None:
    pixels = write_images(tmp_path, mode)
    (tmp_path / "faces" / ".DS_Store").write_text("")
    found = loaded(tmp_path, "{folder: faces}", shape=pixels.shape[1:])
    np.testing.assert_allclose(found.x, pixels / 255, atol=1e-7)
    np.testing.assert_array_equal(found.y, [0, 0, 1, 1, 2, 2])


def test_images_become_grey_or_colour_as_the_task_wants(tmp_path: Path) -> None:
    pixels = write_images(tmp_path, "RGB")
    grey = loaded(tmp_path, "{folder: faces}", shape=(1, 5, 4)).x
    luma = np.tensordot(pixels.astype(float), [0.299, 0.587, 0.114], axes=(1, 0))  # ITU-R 601-2
    np.testing.assert_allclose(grey[:, 0] * 255, luma, atol=1)
    same = write_images(tmp_path, "L")
    colour = loaded(tmp_path, "{folder: faces}", shape=(3, 5, 4)).x
    np.testing.assert_allclose(colour * 255, np.repeat(same, 3, axis=1), atol=1e-4)


def test_bad_image_folders_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    entry = "{folder: faces}"
    assert "4 pixels wide and 5 high, the task expects 5 and 4" in complaint(tmp_path, entry, shape=(1, 4, 5))
    assert "3 classes" in complaint(tmp_path, entry, shape=(1, 5, 4), classes=4)
    assert "images need an input" in complaint(tmp_path, entry, shape=(20,))
    (tmp_path / "empty").mkdir()
    assert "no folders in it" in complaint(tmp_path, "{folder: empty}", shape=(1, 5, 4))
    (tmp_path / "file").write_text("x")
    assert "not a folder" in complaint(tmp_path, "{folder: file}", shape=(1, 5, 4))
    wide = np.zeros((5, 4), dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "faces" / "person0" / "deep.png")
    assert "8 bits" in complaint(tmp_path, entry, shape=(1, 5, 4))
    (tmp_path / "faces" / "person0" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "deep.png: not an image" in complaint(tmp_path, entry, shape=(1, 5, 4))


# Data sets that ship


@pytest.mark.parametrize("entry", ["builtin:digits", "{file: builtin:digits}", "{builtin: digits}"])
def test_digits_ship_with_their_white_at_the_top_of_the_range(tmp_path: Path, entry: str) -> None:
    found = loaded(tmp_path, entry, shape=(1, 8, 8), classes=10, bounds=(-1.0, 1.0))
    own = datasets.load_digits()
    np.testing.assert_allclose(found.x[:, 0], own.images / 8 - 1, atol=1e-6)
    np.testing.assert_array_equal(found.y, own.target)
    assert source(tmp_path, entry).text == "builtin:digits"


@pytest.mark.parametrize(("name", "width", "classes"), [("breast_cancer", 30, 2), ("iris", 4, 3), ("wine", 13, 3)])
def test_tables_that_ship_are_scaled_column_by_column(tmp_path: Path, name: str, width: int, classes: int) -> None:
    found = loaded(tmp_path, f"builtin:{name}", shape=(width,), classes=classes)
    raw, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    np.testing.assert_allclose(found.x, (raw - raw.min(0)) / np.ptp(raw, axis=0), atol=1e-6)
    np.testing.assert_array_equal(found.y, y)


def test_what_does_not_ship_is_refused(tmp_path: Path) -> None:
    assert "did you mean 'digits'?" in complaint(tmp_path, "builtin:digit")
    assert "known are breast_cancer, digits, iris, wine" in complaint(tmp_path, "builtin:california_housing")
    assert "write input: [1, 8, 8]" in complaint(tmp_path, "builtin:digits")


# What a user writes


def test_rows_choose_records_by_position(tmp_path: Path) -> None:
    whole = loaded(tmp_path, "builtin:iris", shape=(4,))
    even = loaded(tmp_path, "{builtin: iris, rows: [0, 150, 2]}", shape=(4,))
    odd = loaded(tmp_path, "{builtin: iris, rows: [1, 150, 2]}", shape=(4,))
    np.testing.assert_array_equal(even.x, whole.x[::2])
    np.testing.assert_array_equal(odd.y, whole.y[1::2])
    assert len(loaded(tmp_path, "{builtin: iris, rows: [10, 20]}", shape=(4,))) == 10
    assert "150 records, rows go up to 151" in complaint(tmp_path, "{builtin: iris, rows: [0, 151]}", shape=(4,))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{file: m.npz, label: y}", "unknown field 'label'"),
        ("{fil: m.npz}", "expected one of builtin, file, folder, x"),
        ("{file: missing.npz}", "there is no file"),
        ("{file: m.xlsx}", "no data format of that suffix"),
        ("{file: x.npy}", "write {x: members_x.npy, y: members_y.npy}"),
        ("{x: m.npz}", "'y' is missing"),
        ("{x: m.npz, y: missing.npy}", "there is no file"),
        ("{file: a.csv}", "'label' is missing"),
        ("{file: a.csv, label: y, columns: []}", "empty"),
        ("{file: a.csv, label: y, columns: a}", "list"),
        ("{file: m.npz, rows: [5, 5]}", "[5, 5] are none"),
        ("{file: m.npz, rows: [0, 5, 0]}", "are none"),
        ("{file: m.npz, rows: [0]}", "at least 2"),
        ("{file: m.npz, rows: [-1, 5]}", "-1"),
        ("{file: m.npz, sha256: abc}", "64 hexadecimal digits"),
        ("m.npz", "write {file: members.npz}"),
        ("[m.npz]", "expected where the records are"),
        ("3", "expected where the records are"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, entry: str, said: str) -> None:
    np.savez(tmp_path / "m.npz", x=records().x, y=records().y)
    write_csv(tmp_path, "a,y\n1,0\n")
    with pytest.raises(InputError) as caught:
        source(tmp_path, entry)
    assert "model.yaml:2:" in str(caught.value)
    assert said in str(caught.value)


def test_paths_start_at_the_document_or_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    np.savez(tmp_path / "m.npz", x=records().x, y=records().y)
    assert len(loaded(tmp_path / "inner", "{file: ../m.npz}")) == 20
    assert len(loaded(tmp_path / "inner", f"{{file: {tmp_path / 'm.npz'}}}")) == 20


def test_the_schema_accepts_what_is_accepted() -> None:
    schema = data_schema()
    Draft202012Validator.check_schema(schema)
    accepts = Draft202012Validator(json.loads(json.dumps(schema))).is_valid
    good: list[object] = [
        "builtin:digits",
        {"file": "m.npz", "sha256": "0" * 64},
        {"x": "x.npy", "y": "y.npy"},
        {"file": "a.csv", "label": "y", "columns": ["a"], "categories": {"a": ["b"]}, "rows": [0, 5]},
        {"folder": "faces"},
    ]
    assert all(accepts(entry) for entry in good)
    assert not any(accepts(entry) for entry in ("digits", {}, {"x": "x.npy"}, {"file": "m.npz", "lable": "y"}))


def test_data_formats_keep_the_protocol(tmp_path: Path) -> None:
    write_every_format(tmp_path, records())
    assert isinstance(source(tmp_path, "{file: m.csv, label: kind}").reader, DataFormat)


@pytest.mark.shared_data
@pytest.mark.skipif(not (SHARED / "location30.npz").exists(), reason="../shared/data is not here")
def test_real_data_sets_are_read(tmp_path: Path) -> None:
    places = loaded(tmp_path, f"{{file: {SHARED / 'location30.npz'}}}", shape=(446,), classes=30)
    assert places.x.shape == (5010, 446)
    assert set(np.unique(places.x)) == {0.0, 1.0}
    faces = loaded(tmp_path, f"{{file: {SHARED / 'orl_faces.npz'}, rows: [0, 70]}}", shape=(1, 112, 92), classes=40)
    assert faces.x.shape == (70, 1, 112, 92)
    assert 0.9 < faces.x.max() <= 1
