"""What every plugin must be, whoever wrote it, new ones unasked; and the rules that hold for every file."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from scipy import stats

import midguard
from midguard.engine import registry
from midguard.engine.accountants._bound import Accountant
from midguard.engine.architectures import Architecture
from midguard.engine.attack import (
    Attack,
    ClassInversion,
    MembershipAttack,
    RecordInversion,
    RecordSeparation,
    ThreatModel,
    UpdateInversion,
    parameters_under,
    profile_of,
)
from midguard.engine.audit import EvidenceTest, Planned
from midguard.engine.defenses import Defense
from midguard.engine.demo import CASES
from midguard.engine.ensembles import Ensemble
from midguard.engine.errors import InputError
from midguard.engine.formats import DataFormat, ModelFormat
from midguard.engine.measure import Measure, Reads
from midguard.engine.observation import Goal, Predictions
from midguard.engine.plan import parameters_of
from midguard.engine.policy import load_policy
from midguard.engine.recipe import load_recipe
from midguard.engine.target import Access, Exposure, Records, Release, Target

ROOT = Path(midguard.__file__).resolve().parent
SOURCES = sorted(p for part in ("engine", "attacks", "reports", "policies") for p in (ROOT / part).rglob("*.py"))
POLICIES = sorted((ROOT / "policies").glob("*.yaml"))
#: What the demo lays out.
DEMO = ROOT / "policies" / "demo"
SECTIONS = sorted((ROOT / "reports" / "templates" / "sections").glob("*.j2"))
HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "sklearn",
    "opacus",
    "dp_accounting",
    "pandas",
    "pyarrow",
    "weasyprint",
    "pyhanko",
    "sqlalchemy",
)

PROTOCOLS: dict[Goal, type] = {
    Goal.MEMBERSHIP: MembershipAttack,
    Goal.RISK: RecordSeparation,
    Goal.CLASS: ClassInversion,
    Goal.RECORD: RecordInversion,
    Goal.UPDATE: UpdateInversion,
}
#: Which goals a folder of attacks may have.
FOLDERS = {"membership": {Goal.MEMBERSHIP, Goal.RISK}, "inversion": {Goal.CLASS, Goal.RECORD, Goal.UPDATE}}


def plugins(*kinds: str) -> list[Any]:
    found = [(kind, name) for kind in kinds for name in registry.names(kind)]
    return [pytest.param(kind, name, id=f"{kind}:{name}") for kind, name in found]


# The guards: a list that is empty by mistake passes every test over it


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("attacks", "membership.loss"),
        ("measures", "membership.advantage"),
        ("defenses", "dp_sgd"),
        ("formats", "state_dict"),
        ("accountants", "pld"),
        ("architectures", "mlp"),
        ("ensembles", "sequential"),
        ("audits", "noise_meter"),
    ],
)
def test_the_registry_finds_what_is_there(kind: str, known: str) -> None:
    assert known in registry.names(kind)


def test_every_kind_of_plugin_is_guarded_here() -> None:
    assert set(registry.KINDS) == {
        "attacks", "measures", "defenses", "formats", "accountants", "architectures", "ensembles", "audits"
    }  # fmt: skip


def test_there_are_sources_policies_and_sections_to_look_at() -> None:
    assert len(SOURCES) > 30
    assert {path.stem for path in POLICIES} >= {"baseline", "strict"}
    assert len(SECTIONS) > 5


# Every plugin


def public(module: Any) -> list[type]:
    return [
        c for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module.__name__ and n[0] != "_"
    ]


@pytest.mark.parametrize(("kind", "name"), plugins(*registry.KINDS))
def test_a_plugin_is_one_public_class_with_a_line_for_the_report(kind: str, name: str) -> None:
    plugin = registry.load(kind, name)
    assert public(sys.modules[plugin.__module__]) == [plugin]
    line = registry.summary(plugin)
    assert line.endswith(".")
    assert len(line) <= 120
    assert line[0].isupper()


@pytest.mark.parametrize(("kind", "name"), plugins("attacks", "measures", "defenses", "architectures", "audits"))
def test_a_plugin_that_users_set_is_a_frozen_dataclass_with_documented_parameters(kind: str, name: str) -> None:
    plugin = registry.load(kind, name)
    check_frozen(plugin)
    check_parameters(plugin)


def check_frozen(plugin: type) -> None:
    assert dataclasses.is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(plugin)


def check_parameters(plugin: type) -> None:
    words = plugin.__doc__ or ""
    for parameter in registry.parameters(plugin):
        assert re.search(rf"^\s+{parameter.name}: \S", words, re.MULTILINE), f"{parameter.name} is not documented"


def check_line(plugin: type) -> None:
    """One sentence that can stand in a report."""
    line = registry.summary(plugin)
    assert line.endswith(".")
    assert len(line) <= 100, f"{len(line)} characters"
    assert not re.search(r"[.!?] [A-Z]", line), "more than one sentence"


def check_source(plugin: Any) -> None:
    assert re.search(r"\b(19|20)\d\d\b|arXiv \d{4}\.\d{4,5}", plugin.source), plugin.source


@pytest.mark.parametrize("kind", registry.KINDS)
def test_loading_every_plugin_of_a_kind_imports_nothing_heavy(kind: str) -> None:
    code = f"from midguard.engine import registry as r; [r.load({kind!r}, n) for n in r.names({kind!r})]"
    assert imported_heavy(code) == []


def test_loading_every_shipped_policy_imports_nothing_heavy() -> None:
    code = f"""
from pathlib import Path
from midguard.engine.policy import load_policy
from midguard.engine.recipe import load_recipe
[load_policy(Path(p)) for p in {[str(p) for p in POLICIES]!r}]
"""
    assert imported_heavy(code) == []


def imported_heavy(code: str) -> list[str]:
    """Which of the heavy packages are loaded after some code."""
    ending = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, timeout=60, check=True)
    return list(json.loads(done.stdout))


# Attacks


@pytest.mark.parametrize(("kind", "name"), plugins("attacks"))
def test_an_attack_keeps_its_contract(kind: str, name: str) -> None:
    check_attack(registry.load(kind, name), name)


def check_attack(plugin: Any, name: str) -> None:
    check_frozen(plugin)
    check_parameters(plugin)
    check_line(plugin)
    check_source(plugin)
    attack = plugin()  # every parameter has a default, and the defaults are allowed
    assert isinstance(attack, Attack)
    check_threat(attack.threat, name)
    fitting = [protocol for protocol in PROTOCOLS.values() if isinstance(attack, protocol)]
    assert fitting == [PROTOCOLS[attack.threat.goal]]
    check_queries(attack)
    assert json.loads(parameters_of(attack)).keys() == {p.name for p in registry.parameters(plugin)}


def check_threat(threat: ThreatModel, name: str) -> None:
    assert isinstance(threat, ThreatModel)
    assert threat.goal in FOLDERS[name.split(".", maxsplit=1)[0]]
    assert threat.exposures
    assert threat.knowledge
    assert all(threat.knowledge)
    everybody = [(access, exposure) for access in Access for exposure in Exposure]
    assert any(threat.obstacle(access, exposure, True, previous=True) == "" for access, exposure in everybody)
    if threat.watches:
        others = set(Exposure) - threat.watches
        assert all(threat.obstacle(Access.WEIGHTS, Exposure.LOGITS, True, released=other) for other in others)
    if threat.previous:
        assert all(threat.obstacle(access, exposure, auxiliary=True) for access, exposure in everybody)


def check_queries(attack: Attack) -> None:
    counts = [attack.queries(targets, 100) for targets in (1, 10, 100)]
    assert all(type(count) is int and count > 0 for count in counts)
    assert counts == sorted(counts)


@pytest.mark.parametrize(("kind", "name"), plugins("attacks"))
def test_an_attack_that_needs_the_weights_is_out_of_reach_without_them(kind: str, name: str) -> None:
    threat: ThreatModel = registry.load(kind, name).threat  # type: ignore[attr-defined]
    if threat.access is Access.WEIGHTS:
        assert all(threat.obstacle(Access.RELEASE, exposure, auxiliary=True) for exposure in Exposure)
        released = min(threat.watches, default=Exposure.LOGITS)
        assert threat.obstacle(Access.WEIGHTS, Exposure.LOGITS, True, "", released, previous=True) == ""


@pytest.mark.parametrize(("kind", "name"), plugins("attacks"))
def test_a_profile_sets_parameters_that_the_attack_has_and_allows(kind: str, name: str) -> None:
    attack: Any = registry.load(kind, name)()
    assert profile_of(attack) in {"standard", "thorough"}
    assert parameters_under(attack, "standard") == attack
    thorough: Any = parameters_under(attack, "thorough")
    assert {k: getattr(thorough, k) for k in getattr(attack, "thorough", {})} == dict(getattr(attack, "thorough", {}))


# Measures


@pytest.mark.parametrize(("kind", "name"), plugins("measures"))
def test_a_measure_keeps_its_contract(kind: str, name: str) -> None:
    check_measure(registry.load(kind, name))


def check_measure(plugin: Any) -> None:
    check_frozen(plugin)
    check_parameters(plugin)
    check_line(plugin)
    check_source(plugin)
    measure = plugin(**required(plugin))
    assert isinstance(measure, Measure)
    assert isinstance(measure.reads, Reads)
    assert type(measure.higher_is_safer) is bool
    assert isinstance(measure.suffix, str)
    assert all(isinstance(goal, Goal) for goal in measure.goals)
    attacked = measure.reads in (Reads.MEMBERSHIP, Reads.INVERSION)
    assert bool(measure.goals) == attacked
    assert not attacked or measure.goals <= FOLDERS[measure.reads]
    nothing = measure.no_leak()
    assert not math.isnan(nothing)
    assert math.isfinite(nothing) or not attacked


def required(plugin: type) -> dict[str, float]:
    """Values for parameters without a default: a share or probability that is small."""
    missing = dataclasses.MISSING
    fields = [f for f in registry.parameters(plugin) if f.default is missing and f.default_factory is missing]
    return {field.name: 1e-5 for field in fields}


@pytest.mark.parametrize(("kind", "name"), plugins("measures"))
def test_a_measure_refuses_an_observation_that_it_does_not_read(kind: str, name: str) -> None:
    plugin: Any = registry.load(kind, name)
    with pytest.raises(TypeError):
        plugin(**required(plugin)).measure("neither an observation nor an account", 0.05)


# The other plugins


@pytest.mark.parametrize(("kind", "name"), plugins("formats"))
def test_a_format_reads_models_or_data(kind: str, name: str) -> None:
    plugin: Any = registry.load(kind, name)
    protocol = {"model": ModelFormat, "data": DataFormat}[plugin.holds]
    members = {n for n in vars(protocol) if not n.startswith("_")} | set(protocol.__annotations__)
    assert all(hasattr(plugin, member) for member in members)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in plugin.suffixes)


def test_no_two_formats_claim_the_same_files() -> None:
    claims = [
        (plugin.holds, getattr(plugin, "key", ""), suffix)
        for plugin in (registry.load("formats", name) for name in registry.names("formats"))
        for suffix in plugin.suffixes  # type: ignore[attr-defined]
    ]
    assert len(claims) == len(set(claims))


@pytest.mark.parametrize(("kind", "name"), plugins("architectures"))
def test_an_architecture_builds_with_its_defaults(kind: str, name: str) -> None:
    assert isinstance(registry.load(kind, name)(), Architecture)


@pytest.mark.parametrize(("kind", "name"), plugins("accountants"))
def test_an_accountant_bounds_epsilon(kind: str, name: str) -> None:
    assert isinstance(registry.load(kind, name)(), Accountant)


@pytest.mark.parametrize(("kind", "name"), plugins("ensembles"))
def test_an_ensemble_trains(kind: str, name: str) -> None:
    plugin: Any = registry.load(kind, name)
    assert isinstance(plugin(), Ensemble)
    check_frozen(plugin)
    check_source(plugin)


@pytest.mark.parametrize(("kind", "name"), plugins("attacks"))
def test_an_attack_says_how_many_reference_models_it_needs(kind: str, name: str) -> None:
    attack: Any = registry.load(kind, name)()
    assert attack.threat.references == hasattr(attack, "references")
    if attack.threat.references:
        assert attack.references >= 1
        weights, exposure = Access.WEIGHTS, min(attack.threat.exposures)
        assert attack.threat.obstacle(weights, exposure, auxiliary=True) == ""
        assert "no recipe" in attack.threat.obstacle(weights, exposure, auxiliary=True, no_references="no recipe")


@pytest.mark.parametrize(("kind", "name"), plugins("audits"))
def test_an_evidence_test_is_planned_before_training_from_its_key_alone(kind: str, name: str) -> None:
    plugin: Any = registry.load(kind, name)
    check_line(plugin)
    check_source(plugin)
    assert isinstance(plugin(), EvidenceTest)
    planned = Planned((4,), 3, (0.0, 1.0), 1000, b"key")
    first, again = (plugin().plan(planned).canaries() for _ in range(2))
    assert (first is None) == (again is None)
    if first is not None:
        np.testing.assert_array_equal(first.x, again.x)
        np.testing.assert_array_equal(first.y, again.y)
        assert set(np.unique(first.x)) == {0.0, 1.0}


def test_evidence_tests_are_no_attacks_on_a_model() -> None:
    """They watch a training: no requirement is given one, and no report says that a model resisted one."""
    assert not {name for name in registry.names("attacks") if name.startswith("audit.")}
    assert len(registry.names("audits")) >= 6


@pytest.mark.parametrize(("kind", "name"), plugins("defenses"))
def test_a_defense_protects(kind: str, name: str) -> None:
    assert issubclass(registry.load(kind, name), Defense)


# Policies and sections


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem if isinstance(path, Path) else "none")
def test_a_shipped_policy_loads_and_demands_something(path: Path) -> None:
    policy = load_policy(path)
    assert policy.name == path.stem
    assert policy.requirements


def test_the_demo_has_a_policy_and_recipes_that_load() -> None:
    assert load_policy(DEMO / "policy.yaml").requirements
    for case in CASES:
        load_recipe(DEMO / f"{case.name}.yaml")


def test_sections_are_numbered_once_each() -> None:
    found = [re.fullmatch(r"(\d\d)-([a-z-]+)\.html\.j2", path.name) for path in SECTIONS]
    assert all(found), [path.name for path in SECTIONS]
    for group in (1, 2):
        values = [match.group(group) for match in found if match]
        assert len(values) == len(set(values))


# Every file


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_prints_nothing_and_leaves_nothing_undone(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    raised = [ast.unparse(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    assert not [text for text in raised if text.startswith("NotImplementedError")]
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    assert not [t.start for t in tokens if t.type == tokenize.NAME and not t.string.isascii()]
    assert not [t.start for t in tokens if t.type == tokenize.COMMENT and re.search(r"TODO|FIXME|XXX", t.string)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_loads_no_pickle_and_runs_no_text(path: Path) -> None:
    """A model file is hostile until shown otherwise."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {a.name for a in node.names} | {getattr(node, "module", None)}
            assert not modules & {"pickle", "cloudpickle", "dill", "joblib.numpy_pickle", "shelve", "marshal"}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "yaml.load", "torch.jit.load", "torch.export.load"}
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name != "torch.load" or words.get("weights_only") == "True"
            assert words.get("allow_pickle", "False") == "False"


def tool(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.mark.skipif(tool("lint-imports") is None, reason="import-linter is not installed")
@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the contracts stand in the repository alone")
def test_data_flow_one_way() -> None:
    command = [str(tool("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# The command line stays light

BUDGET = 0.3
BASELINE = str(ROOT / "policies" / "baseline.yaml")
COMMANDS = [["--help"], ["policy", "validate", BASELINE]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_light_command_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "midguard.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "midguard.cli" in modules or "typer" in modules
    assert not modules & set(HEAVY)


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_light_command_stays_within_its_budget(arguments: list[str], tmp_path: Path) -> None:
    """Processor time, the best of five: what else the machine does is not the command's fault.

    Modules are compiled by the first run, as an installation compiles them, wherever this environment forbids it.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONHASHSEED": "0", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    command = [sys.executable, "-m", "midguard.cli", *arguments]
    assert min(seconds(command, environment) for _ in range(6)) < BUDGET


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, timeout=60, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# The examples of CONTRIBUTING.md work as they stand

GUIDE = ROOT / "CONTRIBUTING.md"
guide = pytest.mark.skipif(not GUIDE.exists(), reason="CONTRIBUTING.md stands in the repository alone")


def example(path: str) -> str:
    """The code block that the guide gives for a file."""
    found = re.search(
        rf"^`{re.escape(path)}`:\n\n```\w+\n(.*?)^```", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found, f"CONTRIBUTING.md has no block for {path}"
    return found.group(1)


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts an example into a folder of its own, where the registry finds it by its path."""
    registry.names.cache_clear()
    registry.load.cache_clear()
    planted: list[str] = []

    def put(path: str) -> Any:
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(example(path), encoding="utf-8")
        package = "midguard." + ".".join(Path(path).parent.parts)
        monkeypatch.setattr(importlib.import_module(package), "__path__", [str(file.parent)], raising=True)
        monkeypatch.setattr(registry, "_ROOT", tmp_path)
        planted.append(f"{package}.{file.stem}")
        kind = next(kind for kind, folder in registry.KINDS.items() if path.startswith(f"{folder}/"))
        (name,) = registry.names(kind)
        return registry.load(kind, name)

    yield put
    registry.names.cache_clear()
    registry.load.cache_clear()
    for module in planted:
        sys.modules.pop(module, None)


def asked(answers: Any) -> Target:
    """A target that gives these answers, one row for each record."""
    release = Release(Exposure.LOGITS)
    return Target(release, Access.RELEASE, (1,), answers.shape[1], (0.0, 1.0), None, lambda x: answers, _no_module)


def _no_module() -> Any:
    raise AssertionError("this adversary does not hold the weights")


@guide
def test_the_example_attack_keeps_the_contract_and_scores_margins(plant: Any) -> None:
    plugin = plant("attacks/membership/margin.py")
    check_attack(plugin, "membership.margin")
    answers = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0], [1.0, np.nan, 0.0]])
    records = Records(np.zeros((3, 1), dtype=np.float32), np.array([0, 1, 0]))
    scores = plugin().score(asked(answers), records, 0, lambda share: None)
    np.testing.assert_allclose(scores[:2], [2.0, -3.0])
    assert np.isnan(scores[2])
    np.testing.assert_allclose(
        plugin(rivals=2).score(asked(answers[:2]), records.take(np.arange(2)), 0, print), [2.5, -0.5]
    )
    assert answers[0, 0] == 3.0
    with pytest.raises(ValueError, match="rivals=0"):
        plugin(rivals=0)


@guide
def test_the_example_measure_keeps_the_contract_and_has_an_exact_interval(plant: Any) -> None:
    plugin = plant("engine/measures/utility/worst_class.py")
    check_measure(plugin)
    labels = np.array([0] * 20 + [1] * 10)
    predicted = np.array([0] * 19 + [1] * 1 + [1] * 7 + [0] * 3)
    found = plugin().measure(Predictions(labels, predicted), 0.1)
    expected = stats.binomtest(7, 10).proportion_ci(0.95, method="exact")
    assert (found.value, found.records) == (0.7, 30)
    assert found.low == pytest.approx(expected.low)
    assert found.high == pytest.approx(min(expected.high, stats.binomtest(19, 20).proportion_ci(0.95, "exact").high))
    nothing = plugin().measure(Predictions(labels[:0], predicted[:0]), 0.1)
    assert math.isnan(nothing.value)


@guide
def test_the_example_format_reads_and_refuses(plant: Any, tmp_path: Path) -> None:
    plugin = plant("engine/formats/jsonl.py")
    check_frozen(plugin)
    file = tmp_path / "members.jsonl"
    file.write_text('{"x": [1, 2, 3, 4], "y": 1}\n{"x": [5, 6, 7, 8], "y": 0}\n')
    raw = plugin().read(file, (1, 2, 2))
    np.testing.assert_array_equal(raw.x, np.arange(1, 9).reshape(2, 1, 2, 2))
    np.testing.assert_array_equal(raw.y, [1, 0])
    for text in ('{"x": [1]}', "no", '{"x": [1, 2], "y": 1}\n{"x": [1], "y": 1}', '{"x": [1, 2, 3], "y": 1}'):
        file.write_text(text)
        with pytest.raises(InputError, match="not JSON lines"):
            plugin().read(file, (1, 2, 2))


@guide
def test_the_example_architecture_builds(plant: Any) -> None:
    import torch

    plugin = plant("engine/architectures/bottleneck.py")
    check_frozen(plugin)
    check_parameters(plugin)
    assert plugin(width=3).build((1, 4, 4), 5)(torch.zeros(2, 1, 4, 4)).shape == (2, 5)
    with pytest.raises(ValueError, match="width=0"):
        plugin(width=0)


@guide
def test_the_example_policy_loads(tmp_path: Path) -> None:
    file = tmp_path / "label-only.yaml"
    file.write_text(example("policies/label-only.yaml"), encoding="utf-8")
    (requirement,) = load_policy(file).requirements
    assert requirement.limit == 0.1


@guide
def test_the_example_section_escapes_what_it_is_given() -> None:
    path = "reports/templates/sections/97-environment.html.j2"
    assert not [section for section in SECTIONS if section.name.startswith("97-")]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(example(path))
    text = template.render(report={"evidence": {"environment": {"python": "<3.11>"}}})
    assert "<td>&lt;3.11&gt;</td>" in text
    assert 'set title = "Environment"' in example(path)
