"""The subject: what its description says is what is there, or the check ends before anything runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from safetensors.torch import save_file

from midguard.engine.architectures.cnn import Cnn
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.errors import Exit, InputError
from midguard.engine.ledger import Claim, Ledger, SampledGaussian
from midguard.engine.subject import (
    DataFile,
    ModelFile,
    Subject,
    SubjectRecords,
    Task,
    content_digest,
    load_module,
    load_records,
    load_subject,
    make_target,
    subject_schema,
)
from midguard.engine.target import Access, Exposure, Records, Release, softmax

SHARED = Path(__file__).parents[2] / "shared" / "data"
SHAPE = (1, 4, 4)

Spec = dict[str, Any]


def part(seed: int, n: int = 30) -> Records:
    draw = np.random.default_rng(seed)
    return Records(draw.random((n, *SHAPE)).astype(np.float32), draw.integers(0, 3, n))


def network(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Mlp((5,)).build(SHAPE, 3)


def description(**spec: Any) -> Spec:
    return {
        "apiVersion": "midguard.dev/v1",
        "kind": "Subject",
        "metadata": {"name": "toy", "version": "2026.11"},
        "spec": {
            "model": {"file": "model.pt", "architecture": {"name": "mlp", "hidden": [5]}},
            "task": {"kind": "classification", "classes": 3, "input": list(SHAPE), "range": [0, 1]},
            "data": {name: {"file": f"{name}.npz"} for name in ("members", "nonmembers", "auxiliary")},
            "release": {"exposes": "probabilities"},
        }
        | spec,
    }


def describe(folder: Path, document: Spec) -> Path:
    (folder / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder / "model.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.save(network().state_dict(), tmp_path / "model.pt")
    for seed, name in enumerate(("members", "nonmembers", "auxiliary")):
        np.savez(tmp_path / f"{name}.npz", x=part(seed).x, y=part(seed).y)
    describe(tmp_path, description())
    return tmp_path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.exit_code is Exit.BAD_INPUT
    return str(caught.value)


def write_ledger(folder: Path, **change: Any) -> Ledger:
    event = SampledGaussian(sampling_probability=0.1, noise_multiplier=1.0, steps=10, clipping_norm=1.0)
    known = {"records": 30, "data": content_digest(part(0)), "model": sha256(folder / "model.pt")}
    ledger = Ledger(events=(event,), **(known | change))
    (folder / "ledger.json").write_text(ledger.to_json())
    return ledger


# What a description says


def test_a_subject_is_what_its_description_says(folder: Path) -> None:
    ledger = write_ledger(folder)
    (folder / "recipe.yaml").write_text("anything")
    release = {"exposes": "probabilities", "top": 2, "decimals": 3}
    claims = {"epsilon": 3.0, "delta": 1e-5}
    spec = description(release=release, claims=claims, training={"recipe": "recipe.yaml"}, ledger="ledger.json")
    subject = load_subject(describe(folder, spec))
    assert (subject.name, subject.version, subject.file) == ("toy", "2026.11", folder / "model.yaml")
    assert subject.sha256 == sha256(folder / "model.yaml")
    assert subject.text == (folder / "model.yaml").read_text()
    expected = ModelFile(folder / "model.pt", sha256(folder / "model.pt"), "state_dict", Mlp((5,)), None)
    assert subject.model == expected
    assert subject.task == Task("classification", 3, SHAPE, (0.0, 1.0))
    assert subject.release == Release(Exposure.PROBABILITIES, top=2, decimals=3)
    assert subject.recipe == folder / "recipe.yaml"
    assert (subject.account.ledger, subject.account.claim) == (ledger, Claim(3.0, 1e-5))
    for seed, file in enumerate((subject.members, subject.nonmembers, subject.auxiliary)):
        assert file is not None
        assert file.sha256 == content_digest(part(seed))
        assert file.path == folder / file.source


def test_what_is_left_out_is_none_and_nothing_else(folder: Path) -> None:
    spec = description()
    del spec["spec"]["data"]["auxiliary"]
    subject = load_subject(describe(folder, spec))
    assert subject.auxiliary is None
    assert subject.recipe is None
    assert (subject.account.ledger, subject.account.claim) == (None, None)
    records = load_records(subject)
    assert records.auxiliary is None
    assert records.members is not None
    del spec["spec"]["data"]
    assert load_records(load_subject(describe(folder, spec))) == SubjectRecords(None, None, None)


def test_a_description_is_found_by_the_models_name_first(folder: Path) -> None:
    torch.save(network(1).state_dict(), folder / "other.pt")
    assert "this describes" in complaint(lambda: load_subject(folder / "other.pt"))
    spec = description(model={"file": "other.pt", "architecture": {"name": "mlp", "hidden": [5]}})
    (folder / "other.yaml").write_text(yaml.safe_dump(spec))
    assert load_subject(folder / "other.pt").file == folder / "other.yaml"
    assert load_subject(folder / "model.pt").file == folder / "model.yaml"
    assert load_subject(folder / "model.pt", folder / "model.yaml").file == folder / "model.yaml"
    assert "this describes" in complaint(lambda: load_subject(folder / "model.pt", folder / "other.yaml"))


def test_a_missing_model_or_description_is_said(folder: Path) -> None:
    assert "no such file" in complaint(lambda: load_subject(folder / "modle.pt"))
    assert "folder" in complaint(lambda: load_subject(folder))
    (folder / "model.yaml").unlink()
    assert "--subject" in complaint(lambda: load_subject(folder / "model.pt"))
    assert "no such file" in complaint(lambda: load_subject(folder / "model.pt", folder / "none.yaml"))


def changed(path: str, value: Any) -> Spec:
    document = description()
    *way, last = path.split(".")
    inner = document
    for step in way:
        inner = inner.setdefault(step, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("apiVersion", "midguard.dev/v2", "midguard.dev/v1"),
        ("kind", "Subjekt", "Subject"),
        ("kind", None, "'kind' is missing"),
        ("metadata.version", 2026.11, "quotes"),
        ("metadata.name", "", "empty"),
        ("spec.modell", {}, "did you mean 'model'?"),
        ("spec.model", None, "'model' is missing"),
        ("spec.model.file", None, "'file' is missing"),
        ("spec.model.file", "none.pt", "there is no file"),
        ("spec.model.architecture", None, "it is not said how the model is built"),
        ("spec.model.factory", "a.b:c", "both an architecture and a factory"),
        ("spec.model.factory", "no colon", "package.module:function"),
        ("spec.model.architecture", "mlp", "mapping"),
        ("spec.model.architecture.name", "mpl", "did you mean 'mlp'?"),
        ("spec.model.sha256", "0" * 63, "64 hexadecimal digits"),
        ("spec.task", None, "'task' is missing"),
        ("spec.task.kind", "regression", "classification"),
        ("spec.task.classes", 1, ">= 2"),
        ("spec.task.classes", True, "whole number"),
        ("spec.task.input", [], "empty"),
        ("spec.task.input", [0, 4], ">= 1"),
        ("spec.task.range", [1, 0], "low < high"),
        ("spec.task.range", [0, 0], "low < high"),
        ("spec.task.range", [0], "2"),
        ("spec.task.shape", [1], "unknown field 'shape'"),
        ("spec.release", None, "'release' is missing"),
        ("spec.release.exposes", "probabilites", "did you mean 'probabilities'?"),
        ("spec.release.top", 0, ">= 1"),
        ("spec.release", {"exposes": "label", "top": 1}, "top and decimals go with probabilities"),
        ("spec.data.member", {"file": "members.npz"}, "did you mean 'members'?"),
        ("spec.data.members", {"file": "none.npz"}, "there is no file"),
        ("spec.data.members", ["members.npz"], "mapping"),
        ("spec.training", {"recipe": "none.yaml"}, "there is no file"),
        ("spec.training", {}, "'recipe' is missing"),
        ("spec.ledger", "none.json", "there is no file"),
        ("spec.ledger", {"sha256": "0" * 64}, "'file' is missing"),
        ("spec.claims", {"epsilon": 3.0}, "'delta' is missing"),
        ("spec.claims", {"epsilon": -1, "delta": 0}, ">= 0"),
        ("spec.claims", {"epsilon": 1, "delta": 1}, "< 1"),
    ],
)
def test_everything_unacceptable_is_said_with_its_place(folder: Path, path: str, value: Any, said: str) -> None:
    message = complaint(lambda: load_subject(describe(folder, changed(path, value))))
    assert f"{folder / 'model.yaml'}:" in message
    assert "^" in message
    assert said in message


def test_several_problems_are_said_at_once(folder: Path) -> None:
    spec = changed("spec.task.classes", 1)
    spec["spec"]["model"]["architecture"]["hiden"] = [3]
    spec["spec"]["data"]["auxiliary"] = "builtin"
    spec["spec"]["releas"] = 1
    message = complaint(lambda: load_subject(describe(folder, spec)))
    for said in (">= 2", "did you mean 'hidden'?", "write {file: members.npz}", "did you mean 'release'?"):
        assert said in message


@pytest.mark.parametrize("text", ["", "[]", "3", "spec: 3", "spec: {model: 3, task: 4, data: 5, release: 6}", "a: [}"])
def test_what_is_no_description_is_refused(folder: Path, text: str) -> None:
    (folder / "model.yaml").write_text(text)
    complaint(lambda: load_subject(folder / "model.pt"))


def test_the_schema_accepts_what_is_accepted(folder: Path) -> None:
    schema = subject_schema()
    Draft202012Validator.check_schema(schema)
    accepts = Draft202012Validator(json.loads(json.dumps(schema))).is_valid
    assert accepts(description())
    assert accepts(description(ledger={"file": "l.json", "sha256": "0" * 64}, claims={"epsilon": 1, "delta": 0}))
    assert not accepts(changed("spec.task.classes", 1))
    assert not accepts(changed("spec.model.architecture.name", "mpl"))
    assert not accepts(changed("spec.data.members", {"fil": "m.npz"}))


# Digests


def test_a_model_that_was_swapped_after_it_was_described_is_refused(folder: Path) -> None:
    document = changed("spec.model.sha256", sha256(folder / "model.pt"))
    model = describe(folder, document)
    assert load_subject(model).model.sha256 == document["spec"]["model"]["sha256"]
    torch.save(network(seed=1).state_dict(), model)
    message = complaint(lambda: load_subject(model))
    assert "is not the one that this subject describes" in message
    assert f"expected sha256 {document['spec']['model']['sha256']}, found {sha256(model)}" in message
    assert "write the new digest" in message


def test_a_model_that_is_swapped_during_the_check_is_refused(folder: Path) -> None:
    subject = load_subject(folder / "model.pt")
    load_module(subject)
    torch.save(network(seed=1).state_dict(), folder / "model.pt")
    assert "changed while it was being checked" in complaint(lambda: load_module(subject))


def test_records_that_are_not_those_described_are_refused(folder: Path) -> None:
    spec = description()
    spec["spec"]["data"]["members"]["sha256"] = content_digest(part(0))
    model = describe(folder, spec)
    subject = load_subject(model)
    np.savez(folder / "members.npz", x=part(7).x, y=part(7).y)
    assert "the content of members.npz is not the one" in complaint(lambda: load_subject(model))
    assert "members.npz: the records changed" in complaint(lambda: load_records(subject))


def test_a_ledger_of_another_model_or_of_other_records_is_refused(folder: Path) -> None:
    model = describe(folder, description(ledger="ledger.json"))
    for change, said in (({"model": "0" * 64}, "its model has"), ({"data": "0" * 64}, "its data has")):
        write_ledger(folder, **change)
        assert said in complaint(lambda: load_subject(model))
    ledger = write_ledger(folder)
    assert load_subject(model).account.ledger == ledger
    stated = {"file": "ledger.json", "sha256": sha256(folder / "ledger.json")}
    assert load_subject(describe(folder, description(ledger=stated))).account.ledger == ledger
    write_ledger(folder, records=31)
    assert "is not the one that this subject describes" in complaint(lambda: load_subject(model))
    (folder / "ledger.json").write_text("{}")
    assert "not a ledger" in complaint(lambda: load_subject(describe(folder, description(ledger="ledger.json"))))


# Records


def test_records_are_read_as_they_were_written(folder: Path) -> None:
    records = load_records(load_subject(folder / "model.pt"))
    for seed, found in enumerate((records.members, records.nonmembers, records.auxiliary)):
        assert found is not None
        np.testing.assert_array_equal(found.x, part(seed).x)
        np.testing.assert_array_equal(found.y, part(seed).y)


def test_members_that_are_nonmembers_are_refused(folder: Path) -> None:
    spec = description()
    spec["spec"]["data"]["nonmembers"] = {"file": "members.npz"}
    subject = load_subject(describe(folder, spec))
    message = complaint(lambda: load_records(subject))
    assert "30 of 30 nonmembers are among the members, the first: nonmembers 0 is members 0" in message
    assert f"{folder / 'model.yaml'}:" in message


@pytest.mark.parametrize(
    ("one", "other"), [("members", "nonmembers"), ("members", "auxiliary"), ("nonmembers", "auxiliary")]
)
def test_one_shared_record_is_found_whatever_its_class_and_place(folder: Path, one: str, other: str) -> None:
    seeds = {"members": 0, "nonmembers": 1, "auxiliary": 2}
    planted = part(seeds[other])
    x, y = planted.x.copy(), planted.y
    x[17] = part(seeds[one]).x[5]
    x[18, 0, 0, 0] = 0.0
    np.savez(folder / f"{other}.npz", x=x.astype(np.float64), y=(y + 1) % 3)
    message = complaint(lambda: load_records(load_subject(folder / "model.pt")))
    assert f"1 of 30 {other} are among the {one}, the first: {other} 17 is {one} 5" in message


def test_zero_and_negative_zero_are_one_record(folder: Path) -> None:
    for name, zero in (("members", 0.0), ("nonmembers", -0.0)):
        np.savez(folder / f"{name}.npz", x=np.full((1, *SHAPE), zero), y=[0])
    assert "1 of 1" in complaint(lambda: load_records(load_subject(folder / "model.pt")))


def test_the_same_record_twice_within_one_set_is_no_overlap_and_counts_once(folder: Path) -> None:
    members = part(0).take(np.array([0, 0, 1, 1]))
    np.savez(folder / "members.npz", x=members.x, y=members.y)
    records = load_records(load_subject(folder / "model.pt"))
    assert records.members is not None
    assert records.members.x.tolist() == part(0).x[:2].tolist()


def test_bad_records_end_the_load_with_the_place_in_the_description(folder: Path) -> None:
    x = part(1).x.copy()
    x[3] = np.nan
    np.savez(folder / "nonmembers.npz", x=x, y=part(1).y)
    message = complaint(lambda: load_subject(folder / "model.pt"))
    assert "nonmembers.npz: 16 values are NaN or infinite, the first is nan at record 3" in message
    assert "model.yaml:" in message


def test_records_without_a_source_cannot_be_read_again(folder: Path) -> None:
    subject = load_subject(folder / "model.pt")
    file = DataFile(None, "somewhere", "0" * 64)
    lost = Subject(**{name: getattr(subject, name) for name in Subject.__slots__} | {"members": file})
    assert "not known how" in complaint(lambda: load_records(lost))


def test_data_sets_that_ship_need_no_file(folder: Path) -> None:
    task = {"kind": "classification", "classes": 10, "input": [1, 8, 8], "range": [0, 1]}
    data = {"members": {"builtin": "digits", "rows": [0, 100]}, "nonmembers": {"builtin": "digits", "rows": [100, 200]}}
    subject = load_subject(describe(folder, description(task=task, data=data)))
    assert subject.members is not None
    assert (subject.members.path, subject.members.source) == (None, "builtin:digits")
    assert subject.nonmembers is not None
    assert subject.members.sha256 != subject.nonmembers.sha256
    records = load_records(subject)
    assert records.nonmembers is not None
    assert records.nonmembers.x.shape == (100, 1, 8, 8)
    data["nonmembers"]["rows"] = [99, 200]
    overlapping = load_subject(describe(folder, description(task=task, data=data)))
    assert "nonmembers 0 is members 99" in complaint(lambda: load_records(overlapping))


def test_neither_the_description_nor_the_records_need_torch(folder: Path) -> None:
    write_ledger(folder)
    describe(folder, description(ledger="ledger.json"))
    code = (
        "import sys; from pathlib import Path; from midguard.engine.subject import load_records, load_subject\n"
        f"load_records(load_subject(Path({str(folder / 'model.pt')!r})))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The module


def test_the_module_is_the_one_that_was_saved_frozen_and_in_evaluation_mode(folder: Path) -> None:
    before = torch.get_rng_state()
    module = load_module(load_subject(folder / "model.pt"))
    assert torch.equal(before, torch.get_rng_state())
    x = torch.rand(3, *SHAPE)
    assert torch.equal(module(x), network()(x))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_safetensors_hold_the_same_module(folder: Path) -> None:
    save_file(network().state_dict(), folder / "model.safetensors")
    model = {"file": "model.safetensors", "architecture": {"name": "mlp", "hidden": [5]}}
    describe(folder, description(model=model))
    module = load_module(load_subject(folder / "model.safetensors"))
    x = torch.rand(3, *SHAPE)
    assert torch.equal(module(x), network()(x))


def test_a_file_of_another_network_is_refused(folder: Path) -> None:
    wide = load_subject(describe(folder, changed("spec.model.architecture.hidden", [6])))
    message = complaint(lambda: load_module(wide))
    assert "'hidden1.weight' has shape [5, 16], the architecture expects [6, 16]" in message
    linear = load_subject(describe(folder, changed("spec.model.architecture", {"name": "linear"})))
    assert "unexpected: hidden1.weight, hidden1.bias" in complaint(lambda: load_module(linear))
    spec = changed("spec.model.architecture", {"name": "cnn"})
    spec["spec"]["task"]["input"] = [16]
    del spec["spec"]["data"]
    flat = load_subject(describe(folder, spec))
    assert "use mlp or linear" in complaint(lambda: load_module(flat))


def test_weights_that_overflow_are_refused_before_they_answer(folder: Path) -> None:
    state = network().state_dict()
    torch.save({name: tensor * 0 + 3e38 for name, tensor in state.items()}, folder / "model.pt")
    assert "answered with NaN or infinity" in complaint(lambda: load_module(load_subject(folder / "model.pt")))
    torch.save({name: tensor * float("nan") for name, tensor in state.items()}, folder / "model.pt")
    assert "are NaN or infinite" in complaint(lambda: load_module(load_subject(folder / "model.pt")))


def test_an_unknown_suffix_and_an_exported_program_are_refused(folder: Path) -> None:
    for name, said in (("model.onnx", "known are"), ("model.pt2", "state_dict")):
        (folder / name).write_bytes(b"x")
        model = {"file": name, "architecture": {"name": "linear"}}
        (folder / "s.yaml").write_text(yaml.safe_dump(description(model=model)))
        message = complaint(lambda name=name: load_subject(folder / name, folder / "s.yaml"))  # type: ignore[misc]
        assert said in message
        assert "s.yaml:" in message


# Factories

FACTORY = """
import torch
from torch import nn

open({trace!r}, "w").close()

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, {classes}){more})

def fail():
    raise RuntimeError("no network today")

def wrong():
    return 3
"""


def write_factory(folder: Path, name: str, more: str = "", classes: int = 3, function: str = "build") -> Subject:
    (folder / f"{name}.py").write_text(FACTORY.format(trace=str(folder / "ran"), more=more, classes=classes))
    torch.save({"1.weight": torch.zeros(classes, 16), "1.bias": torch.zeros(classes)}, folder / "model.pt")
    return load_subject(describe(folder, description(model={"file": "model.pt", "factory": f"{name}:{function}"})))


def test_a_factory_runs_only_where_its_code_is_trusted(folder: Path) -> None:
    subject = write_factory(folder, "factory_trusted")
    assert "--trust-code" in complaint(lambda: load_module(subject))
    assert not (folder / "ran").exists()
    path, before = list(sys.path), torch.get_rng_state()
    module = load_module(subject, trust_code=True)
    assert (folder / "ran").exists()
    assert sys.path == path
    assert torch.equal(before, torch.get_rng_state())
    assert module(torch.rand(2, *SHAPE)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("factory_fails", {"function": "fail"}, "RuntimeError: no network today"),
        ("factory_wrong", {"function": "wrong"}, "returned a int"),
        ("factory_without", {"function": "missing"}, "has no attribute 'missing'"),
        ("factory_softmax", {"more": ", nn.Softmax(dim=1)"}, "answers with probabilities, expected logits"),
        ("factory_classes", {"classes": 4}, "answered with [2, 4], expected logits of shape [2, 3]"),
        ("factory_shape", {"more": ", nn.Unflatten(1, (5, 5))"}, "cannot read records of shape [1, 4, 4]"),
        ("factory_nan", {"more": ", nn.Softmin(dim=1), nn.Threshold(2., float('nan'))"}, "NaN or infinity"),
    ],
)
def test_a_factory_that_does_not_do_its_work_is_said(folder: Path, name: str, options: Any, said: str) -> None:
    subject = write_factory(folder, name, **options)
    assert said in complaint(lambda: load_module(subject, trust_code=True))


def test_a_factory_that_does_not_exist_is_said(folder: Path) -> None:
    model = {"file": "model.pt", "factory": "no_such_module_here:build"}
    subject = load_subject(describe(folder, description(model=model)))
    assert "No module named" in complaint(lambda: load_module(subject, trust_code=True))


def test_log_probabilities_are_logits_too(folder: Path) -> None:
    subject = write_factory(folder, "factory_log", more=", nn.LogSoftmax(dim=1)")
    assert load_module(subject, trust_code=True) is not None


# The target


def target(access: Access = Access.RELEASE, exposes: Exposure = Exposure.LOGITS, module: Any = None) -> Any:
    task = Task("classification", 3, SHAPE, (0.0, 1.0))
    return make_target(task, Release(exposes), access, part(2), module or network)


def test_a_query_is_the_networks_answer_over_many_batches_in_float64() -> None:
    x = part(0, n=2500).x
    own = target()
    before = x.copy()
    answers = own.query(x)
    with torch.no_grad():
        expected = network()(torch.from_numpy(x)).numpy()
    assert answers.dtype == np.float64
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    np.testing.assert_array_equal(x, before)
    assert own.queries == 2500
    assert target().query(x[:0]).shape == (0, 3)


def test_the_release_stands_between_the_network_and_the_adversary() -> None:
    x = part(0).x
    logits = target().query(x)
    np.testing.assert_allclose(target(exposes=Exposure.PROBABILITIES).query(x), softmax(logits))
    one_hot = target(exposes=Exposure.LABEL).query(x)
    np.testing.assert_array_equal(one_hot.argmax(1), logits.argmax(1))
    np.testing.assert_array_equal(target(Access.WEIGHTS, Exposure.LABEL).query(x), logits)


def test_the_module_is_loaded_once_and_only_when_it_is_looked_at() -> None:
    calls: list[int] = []

    def module() -> torch.nn.Module:
        calls.append(1)
        return network().train()

    own = target(Access.WEIGHTS, module=module)
    assert calls == []
    own.query(part(0).x)
    loaded = own.module()
    assert own.module() is loaded
    assert calls == [1]
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_dropout_is_off_and_answers_repeat() -> None:
    own = target(module=lambda: Mlp((50,), dropout=0.9).build(SHAPE, 3).train())
    x = part(0).x
    np.testing.assert_array_equal(own.query(x), own.query(x))


def test_answers_that_are_not_finite_are_passed_on() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answers = x.flatten(1)[:, :3].clone()
            answers[0] = float("nan")
            answers[1] = float("inf")
            return answers

    answers = target(module=Broken).query(part(0).x)
    assert np.isnan(answers[0]).all()
    assert np.isinf(answers[1]).all()
    assert np.isfinite(answers[2:]).all()


def test_read_only_records_can_be_queried(recwarn: pytest.WarningsRecorder) -> None:
    x = part(0).x
    x.setflags(write=False)
    assert target().query(x).shape == (30, 3)
    assert not [w for w in recwarn if "writable" in str(w.message)]


# Values that cannot be built wrong


@pytest.mark.parametrize(
    "make",
    [
        lambda: Task("regression", 3, (4,), (0, 1)),
        lambda: Task("classification", 1, (4,), (0, 1)),
        lambda: Task("classification", 3, (), (0, 1)),
        lambda: Task("classification", 3, (4, 0), (0, 1)),
        lambda: Task("classification", 3, (4,), (1, 1)),
        lambda: Task("classification", 3, (4,), (0, float("inf"))),
        lambda: Task("classification", 3, (4,), (float("nan"), 1)),
        lambda: ModelFile(Path("m.pt"), "0" * 64, "state_dict", None, None),
        lambda: ModelFile(Path("m.pt"), "0" * 64, "state_dict", Cnn(), "a:b"),
    ],
)
def test_impossible_values_cannot_be_built(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()


# Hostile files, from end to end


def test_a_damaged_model_file_never_ends_in_anything_but_an_input_error(folder: Path) -> None:
    clean = (folder / "model.pt").read_bytes()
    state, draw = network().state_dict(), np.random.default_rng(1)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(clean)
        for place in draw.integers(0, len(clean), size=int(draw.integers(1, 4))):
            damaged[place] = int(draw.integers(0, 256))
        if draw.random() < 0.2:
            del damaged[int(draw.integers(0, len(clean))) :]
        (folder / "model.pt").write_bytes(damaged)
        try:
            module = load_module(load_subject(folder / "model.pt"))
            outcomes.add("loaded")
            assert module.state_dict().keys() == state.keys()
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}
    document = changed("spec.model.sha256", hashlib.sha256(clean).hexdigest())
    describe(folder, document)
    assert "is not the one that this subject describes" in complaint(lambda: load_subject(folder / "model.pt"))


@pytest.mark.shared_data
@pytest.mark.skipif(not (SHARED / "mnist.npz").exists(), reason="../shared/data is not here")
def test_seventy_thousand_digits_are_read_and_compared_in_seconds(folder: Path) -> None:
    file = str(SHARED / "mnist.npz")
    parts = {"members": [0, 30000], "nonmembers": [30000, 60000], "auxiliary": [60000, 70000]}
    spec = description(
        model={"file": "model.pt", "architecture": {"name": "linear"}},
        task={"kind": "classification", "classes": 10, "input": [1, 28, 28], "range": [0, 1]},
        data={name: {"file": file, "rows": rows} for name, rows in parts.items()},
    )
    subject = load_subject(describe(folder, spec))
    started = time.perf_counter()
    records = load_records(subject)
    seconds = time.perf_counter() - started
    assert records.members is not None
    assert len(records.members) == 30000
    assert seconds < 15, "about two seconds on one idle core"
