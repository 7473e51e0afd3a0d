"""Policies: every error with its place, the schema and the loader of one mind, nothing that fails open."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from midguard.engine import parameters, registry
from midguard.engine.document import read, violations
from midguard.engine.errors import InputError
from midguard.engine.policy import (
    Direction,
    Policy,
    Requirement,
    Severity,
    explain,
    ids_and_lines,
    load_policy,
    schema,
)
from midguard.engine.target import Access

SHIPPED = sorted((Path(__file__).parents[1] / "policies").glob("*.yaml"))

HEAD = """\
apiVersion: midguard.dev/v1
kind: PrivacyPolicy
metadata: {name: images, version: 1.0.0, owner: office@example.org}
spec:
  adversary: {access: weights}
  confidence: 0.9
  requirements:
"""
ADVANTAGE = "    - {id: adv, severity: high, measure: membership.advantage, max: 0.1}\n"
FULL = """\
    - id: dp-budget
      title: Budget
      severity: critical
      measure: privacy.epsilon
      at: {delta: 1e-5}
      max: 8
      references: [gdpr:25]
    - id: distance
      severity: low
      measure: inversion.distance
      at: {metric: ssim, quantile: 0.5}
      min: 0.8
      attacks: [inversion.mi_face, {name: inversion.gradient, steps: 600}, {name: inversion.gradient, steps: 601}]
    - id: advantage
      severity: medium
      measure: membership.advantage
      max: 0.1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str) -> Policy:
    return load_policy(written(folder, text))


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        loaded(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def first_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("    ")]


def requirement(**fields: str) -> str:
    """One requirement on the advantage, with some fields changed and those that are empty left out."""
    given = {"id": "adv", "severity": "high", "measure": "membership.advantage", "max": "0.1"} | fields
    return HEAD + "    - {" + ", ".join(f"{name}: {value}" for name, value in given.items() if value) + "}\n"


class TestLoading:
    def test_every_value_arrives(self, tmp_path: Path) -> None:
        text = HEAD + FULL
        policy = loaded(tmp_path, text)
        assert (policy.name, policy.version, policy.owner) == ("images", "1.0.0", "office@example.org")
        assert (policy.access, policy.confidence, policy.text) == (Access.WEIGHTS, 0.9, text)
        budget, distance, advantage = policy.requirements
        assert (budget.title, budget.severity, budget.measure_name) == ("Budget", Severity.CRITICAL, "privacy.epsilon")
        assert (budget.direction, budget.limit, budget.references) == (Direction.MAX, 8.0, ("gdpr:25",))
        assert budget.measure == registry.load("measures", "privacy.epsilon")(delta=1e-5)
        assert budget.attacks is None
        assert (distance.direction, distance.limit) == (Direction.MIN, 0.8)
        assert distance.measure == registry.load("measures", "inversion.distance")(metric="ssim", quantile=0.5)
        assert distance.attacks is not None
        gradient = registry.load("attacks", "inversion.gradient")
        assert [choice.name for choice in distance.attacks] == ["inversion.mi_face"] + ["inversion.gradient"] * 2
        assert [choice.attack for choice in distance.attacks[1:]] == [gradient(steps=600), gradient(steps=601)]
        assert advantage.title == registry.summary(type(advantage.measure)).rstrip(".")
        assert ids_and_lines(policy) == {"dp-budget": 8, "distance": 15, "advantage": 21}
        assert distance.place.text == "    - id: distance"

    def test_confidence_may_be_left_out(self, tmp_path: Path) -> None:
        assert loaded(tmp_path, HEAD.replace("  confidence: 0.9\n", "") + ADVANTAGE).confidence == 0.95

    def test_whole_numbers_are_limits_too(self, tmp_path: Path) -> None:
        limit = loaded(tmp_path, requirement(max="0")).requirements[0].limit
        assert (limit, type(limit)) == (0.0, float)

    @pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
    def test_the_shipped_policies(self, path: Path) -> None:
        policy = load_policy(path)
        assert policy.name == path.stem
        assert violations(read(path), schema()) == []

    def test_the_limits_of_the_shipped_policies(self) -> None:
        limits = {p.stem: {r.id: r.limit for r in load_policy(p).requirements} for p in SHIPPED}
        assert limits["baseline"] == {"dp-budget": 8, "membership-advantage": 0.2, "inversion-distance": 0.75}
        assert limits["strict"] == {
            "dp-budget": 3,
            "membership-advantage": 0.1,
            "membership-low-fpr": 0.01,
            "membership-auc": 0.6,
            "inversion-distance": 0.8,
            "inversion-identification": 0.1,
        }

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no such file"):
            load_policy(tmp_path / "policy.yaml")

    def test_only_what_is_named_is_imported(self, tmp_path: Path) -> None:
        path = written(tmp_path, HEAD + ADVANTAGE)
        code = (
            "import sys; from pathlib import Path; from midguard.engine.policy import load_policy;"
            "load_policy(Path(sys.argv[1])); print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        modules = set(done.stdout.split())
        assert not modules & {"torch", "numpy", "scipy", "sklearn", "opacus"}
        assert "midguard.engine.measures.membership.advantage" in modules
        assert "midguard.engine.measures.membership.auc" not in modules
        assert not any(module.startswith("midguard.attacks.") for module in modules)


LETTERS = "expected 2 to 64 lower-case letters, digits and hyphens, a letter first"


class TestErrors:
    def test_exact_words(self, tmp_path: Path) -> None:
        text = HEAD + "    - id: adv\n      maxx: 0.1\n      severity: high\n      measure: membership.advantage\n"
        assert refusal(tmp_path, text) == (
            "policy.yaml:9:7: unknown field 'maxx', did you mean 'max'?\n          maxx: 0.1\n          ^^^^"
        )

    def test_several_in_one_go_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        text = (
            HEAD.replace("weights", "weigths").replace("0.9", "95").replace("1.0.0", "1.0")
            + "    - {id: A, severity: hihg, measure: membership.advntage, max: 0.1}\n"
            + "    - {id: tpr, severity: high, measure: membership.tpr, at: {fprr: 0.1}, min: 0.1}\n"
            + "    - {id: tpr, severity: high, measure: privacy.epsilon, max: 3, attacks: [membership.loss]}\n"
        )
        assert first_lines(refusal(tmp_path, text)) == [
            'policy.yaml:3:35: expected text, found 1.0, put it in quotes: "1.0"',
            "policy.yaml:5:23: unknown value 'weigths', did you mean 'weights'?",
            "policy.yaml:6:15: expected a value < 1, found 95",
            f"policy.yaml:8:12: 'A' is not acceptable, {LETTERS}",
            "policy.yaml:8:25: unknown value 'hihg', did you mean 'high'?",
            "policy.yaml:8:40: unknown measure 'membership.advntage', did you mean 'membership.advantage'?",
            "policy.yaml:9:63: unknown field 'fprr', did you mean 'fpr'?",
            "policy.yaml:9:75: 'min' bounds the wrong side: membership.tpr is safer the lower it is, write 'max'",
            "policy.yaml:10:12: the id 'tpr' is given twice, it already stands in line 9",
            "policy.yaml:10:42: privacy.epsilon needs 'delta', add at: {delta: ...}",
            "policy.yaml:10:67: privacy.epsilon is not measured by attacks, take 'attacks' out",
        ]

    def test_a_file_of_another_kind(self, tmp_path: Path) -> None:
        text = "apiVersion: midguard.dev/v1\nkind: Subject\nmetadata: {name: x}\n"
        assert first_lines(refusal(tmp_path, text)) == [
            "policy.yaml:2:7: this file is a 'Subject', not a policy, expected kind: PrivacyPolicy"
        ]

    def test_very_many_problems_end_somewhere(self, tmp_path: Path) -> None:
        text = HEAD + "".join(f"    - {{id: a{i}, max: 1, measure: membership.advntage}}\n" for i in range(1200))
        lines = first_lines(refusal(tmp_path, text))
        assert lines[0] == "policy.yaml:8:5: expected at most 200 entries, found 1200"
        assert len(lines) == 21


#: What both the loader and the schema must refuse: a name, the policy, what the loader says of it.
BAD: dict[str, tuple[str, str]] = {
    "list instead of a policy": ("- 1\n", "expected a mapping, found a list"),
    "other version of the language": (
        HEAD.replace("dev/v1", "dev/v2") + ADVANTAGE,
        "1:13: unknown value 'midguard.dev/v2', did you mean 'midguard.dev/v1'?",
    ),
    "no version of the language": (HEAD.split("\n", 1)[1] + ADVANTAGE, "the field 'apiVersion' is missing"),
    "misspelt kind": (HEAD.replace("PrivacyPolicy", "PrivacyPolice") + ADVANTAGE, "did you mean 'PrivacyPolicy'?"),
    "no metadata": (HEAD.replace("metadata", "metedata") + ADVANTAGE, "3:1: unknown field 'metedata'"),
    "no owner": (HEAD.replace(", owner: office@example.org", "") + ADVANTAGE, "the field 'owner' is missing"),
    "no spec": (HEAD.split("spec:", maxsplit=1)[0], "the field 'spec' is missing"),
    "no adversary": (HEAD.replace("  adversary: {access: weights}\n", "") + ADVANTAGE, "'adversary' is missing"),
    "no requirements": (HEAD.replace("  requirements:\n", ""), "the field 'requirements' is missing"),
    "requirements without a value": (HEAD, "expected a list, found nothing"),
    "empty requirements": (HEAD.replace("requirements:", "requirements: []"), "7:17: this list is empty"),
    "requirement that is text": (HEAD + "    - adv\n", "8:7: expected a mapping, found the text 'adv'"),
    "confidence of a coin": (HEAD.replace("0.9", "0.5") + ADVANTAGE, "6:15: expected a value > 0.5, found 0.5"),
    "certainty": (HEAD.replace("0.9", "1") + ADVANTAGE, "6:15: expected a value < 1, found 1"),
    "no id": (requirement(id=""), "the field 'id' is missing"),
    "id of one letter": (requirement(id="a"), "'a' is not acceptable"),
    "id with a line end": (requirement(id='"adv\\n"'), "is not acceptable"),
    "id that is a number": (requirement(id="1.0"), 'put it in quotes: "1.0"'),
    "no severity": (requirement(severity=""), "the field 'severity' is missing"),
    "unknown severity": (requirement(severity="hgih"), "did you mean 'high'?"),
    "no measure": (requirement(measure=""), "the field 'measure' is missing"),
    "unknown measure": (
        requirement(measure="membership.advntage"),
        "unknown measure 'membership.advntage', did you mean 'membership.advantage'?",
    ),
    "measure that is a number": (requirement(measure="3"), "expected text, found 3"),
    "neither limit": (requirement(max=""), "one of the fields 'max' or 'min' is missing"),
    "both limits": (requirement(min="0"), "'max' and 'min' cannot both stand here"),
    "min where lower is safer": (
        requirement(max="", min="0.1"),
        "8:64: 'min' bounds the wrong side: membership.advantage is safer the lower it is, write 'max'",
    ),
    "max where higher is safer": (
        requirement(measure="inversion.distance"),
        "'max' bounds the wrong side: inversion.distance is safer the higher it is, write 'min'",
    ),
    "max on accuracy": (requirement(measure="utility.accuracy"), "'max' bounds the wrong side"),
    "limit in quotes": (requirement(max='"0.1"'), "expected a number, found the text '0.1', write it without quotes"),
    "limit that is true": (requirement(max="true"), "expected a number, found true"),
    "limit without a value": (requirement(max="~"), "expected a number, found nothing"),
    "unknown field": (requirement(waived="true"), "unknown field 'waived'"),
    "at without a value": (requirement(at="~"), "expected a mapping, found nothing"),
    "parameter of a measure without any": (requirement(at="{fpr: 0.1}"), "unknown field 'fpr', expected no field here"),
    "misspelt parameter": (
        requirement(measure="membership.tpr", at="{fpt: 0.1}"),
        "unknown field 'fpt', did you mean 'fpr'?",
    ),
    "parameter of another type": (
        requirement(measure="membership.tpr", at="{fpr: low}"),
        "expected a number, found the text 'low'",
    ),
    "parameter of another choice": (
        requirement(measure="inversion.distance", at="{metric: mze}", max="", min="0.8"),
        "unknown value 'mze', did you mean 'mse'?",
    ),
    "needed parameter left out": (
        requirement(measure="privacy.epsilon"),
        "8:42: privacy.epsilon needs 'delta', add at: {delta: ...}",
    ),
    "needed parameter left out of at": (
        requirement(measure="privacy.epsilon", at="{unit: record}"),
        "the field 'delta' is missing",
    ),
    "no attacks": (requirement(attacks="[]"), "this list is empty"),
    "attacks that are no list": (requirement(attacks="membership.loss"), "write a list: [membership.loss]"),
    "unknown attack": (
        requirement(attacks="[membership.losss]"),
        "unknown attack 'membership.losss', did you mean 'membership.loss'?",
    ),
    "unknown attack with parameters": (requirement(attacks="[{name: membership.losss}]"), "unknown attack"),
    "attack without a name": (requirement(attacks="[{steps: 3}]"), "the field 'name' is missing"),
    "attack that is a number": (requirement(attacks="[3]"), "found 3"),
    "attack of another kind": (
        requirement(attacks="[inversion.gradient]"),
        "inversion.gradient is after class-representative, membership.advantage judges membership",
    ),
    "attack of another goal": (
        requirement(measure="inversion.identification", attacks="[inversion.knowledge_alignment]"),
        "inversion.knowledge_alignment is after record-reconstruction, inversion.identification judges class-repr",
    ),
    "misspelt parameter of an attack": (
        requirement(measure="inversion.identification", attacks="[{name: inversion.gradient, steeps: 3}]"),
        "unknown field 'steeps', did you mean 'steps'?",
    ),
    "parameter of an attack of another type": (
        requirement(measure="inversion.identification", attacks="[{name: inversion.gradient, steps: 1.5}]"),
        "expected a whole number, found 1.5",
    ),
    "attacks where none is read": (
        requirement(measure="privacy.epsilon", at="{delta: 1e-5}", attacks="[membership.loss]"),
        "privacy.epsilon is not measured by attacks, take 'attacks' out",
    ),
    "the same attack twice": (requirement(attacks="[membership.loss, membership.loss]"), "is given twice"),
    "no references": (requirement(references="[]"), "this list is empty"),
    "empty title": (requirement(title='""'), "this text is empty"),
}

#: What a JSON Schema cannot say, and the loader refuses.
BAD_FOR_THE_LOADER: dict[str, tuple[str, str]] = {
    "impossible parameter": (requirement(measure="membership.tpr", at="{fpr: 2}"), "8:78: expected 0 < fpr=2.0 < 1"),
    "impossible parameter of an attack": (
        requirement(measure="inversion.identification", attacks="[{name: inversion.gradient, steps: 0}]"),
        "expected steps=0 >= 1",
    ),
    "the same id twice": (
        HEAD + ADVANTAGE + ADVANTAGE,
        "9:12: the id 'adv' is given twice, it already stands in line 8",
    ),
    "the same attack twice, written in two ways": (
        requirement(attacks="[membership.loss, {name: membership.loss}]"),
        "membership.loss is given twice with the same parameters",
    ),
    "limit that no model can meet": (
        requirement(max="-0.1"),
        "8:69: no model can meet this limit: one that leaks nothing has membership.advantage 0",
    ),
    "limit that no model can meet, the other way": (
        requirement(measure="inversion.distance", max="", min="1.1"),
        "no model can meet this limit: one that leaks nothing has inversion.distance 1",
    ),
}

GOOD: dict[str, str] = {
    "one line": HEAD + ADVANTAGE,
    "everything": HEAD + FULL,
    "empty at": requirement(at="{}"),
    "several attacks": requirement(attacks="[membership.loss, {name: membership.label}]"),
    "accuracy": requirement(measure="utility.accuracy", max="", min="0.9"),
    "declared": requirement(measure="privacy.epsilon", at="{delta: 1e-5, unit: record, basis: declared}"),
    "list parameter": requirement(
        measure="inversion.distance",
        max="",
        min="0.8",
        attacks="[{name: inversion.knowledge_alignment, hidden: [64, 64], decoder: conv}]",
    ),
}


class TestLoaderAndSchemaAgree:
    @pytest.fixture(scope="class")
    def whole(self) -> dict[str, object]:
        return schema()

    @pytest.mark.parametrize("name", GOOD)
    def test_good(self, tmp_path: Path, whole: dict[str, object], name: str) -> None:
        assert loaded(tmp_path, GOOD[name]).requirements
        assert violations(read(tmp_path / "policy.yaml"), whole) == []

    @pytest.mark.parametrize("name", BAD)
    def test_bad(self, tmp_path: Path, whole: dict[str, object], name: str) -> None:
        text, words = BAD[name]
        assert words in refusal(tmp_path, text)
        assert violations(read(tmp_path / "policy.yaml"), whole) != []

    @pytest.mark.parametrize("name", BAD_FOR_THE_LOADER)
    def test_bad_for_the_loader(self, tmp_path: Path, name: str) -> None:
        text, words = BAD_FOR_THE_LOADER[name]
        assert words in refusal(tmp_path, text)

    def test_the_schema_is_one(self, whole: dict[str, object]) -> None:
        Draft202012Validator.check_schema(whole)
        assert whole["$id"] == "https://midguard.dev/schema/policy-v1.json"
        assert json.loads(json.dumps(whole, allow_nan=False)) == whole

    def test_every_plugin_is_in_it(self, whole: dict[str, Any]) -> None:
        text = json.dumps(whole)
        for kind in ("measures", "attacks"):
            assert registry.names(kind)
            for name in registry.names(kind):
                assert json.dumps(name) in text
                assert json.dumps(registry.summary(registry.load(kind, name))) in text

    def test_it_describes_parameters(self, whole: dict[str, Any]) -> None:
        steps = whole["$defs"]["attack.inversion.gradient"]["properties"]["steps"]
        assert steps == {"type": "integer", "default": 300, "description": "Adam steps."}

    @pytest.mark.parametrize("name", registry.names("measures"))
    def test_every_measure_with_the_wrong_side(self, tmp_path: Path, whole: dict[str, object], name: str) -> None:
        """By the measure's own word, not by this file's list."""
        plugin = registry.load("measures", name)
        at = "{" + ", ".join(f"{field}: 0.05" for field in parameters.needed(plugin)) + "}"
        safe, wrong = ("min", "max") if plugin.higher_is_safer else ("max", "min")  # type: ignore[attr-defined]
        good = requirement(measure=name, at=at, max="", LIMIT="0.9")
        assert loaded(tmp_path, good.replace("LIMIT", safe)).requirements[0].direction == safe
        assert violations(read(tmp_path / "policy.yaml"), whole) == []
        assert "bounds the wrong side" in refusal(tmp_path, good.replace("LIMIT", wrong))
        assert violations(read(tmp_path / "policy.yaml"), whole) != []


class TestValues:
    """Types that cannot be built wrong, whoever builds them."""

    def test_limits_sides_and_attacks(self, tmp_path: Path) -> None:
        good = loaded(tmp_path, HEAD + ADVANTAGE).requirements[0]
        for wrong in ({"limit": float("nan")}, {"limit": float("inf")}, {"direction": Direction.MIN}, {"attacks": ()}):
            with pytest.raises(ValueError, match=r"finite|side|empty"):
                dataclasses.replace(good, **wrong)  # type: ignore[arg-type]

    def test_an_empty_policy_is_no_policy(self, tmp_path: Path) -> None:
        good = loaded(tmp_path, HEAD + ADVANTAGE)
        with pytest.raises(ValueError, match="met by every model"):
            dataclasses.replace(good, requirements=())
        for confidence in (0.5, 1.0, float("nan")):
            with pytest.raises(ValueError, match="confidence"):
                dataclasses.replace(good, confidence=confidence)

    def test_a_dropped_requirement_is_a_crash_not_a_shorter_policy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("midguard.engine.policy._Loader._requirement", lambda *_: None)
        with pytest.raises(RuntimeError, match="dropped"):
            loaded(tmp_path, HEAD + ADVANTAGE)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin with a parameter of every type.

    Attributes:
        count: How many,
            at least.
        colour: Of what colour: red
            or blue.
    """

    needed: float
    count: int = 3
    flag: bool = False
    word: str = "x"
    choice: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    several: tuple[int, ...] = (1, 2)
    maybe: float | None = None
    made: str = field(default_factory=str)


class TestParameters:
    def test_the_schema_of_every_type(self) -> None:
        found = parameters.mapping_schema(Plugin)
        assert found["required"] == ["needed"]
        assert found["additionalProperties"] is False
        assert found["properties"] == {
            "needed": {"type": "number"},
            "count": {"type": "integer", "default": 3, "description": "How many, at least."},
            "flag": {"type": "boolean", "default": False},
            "word": {"type": "string", "default": "x"},
            "choice": {"enum": ["a", "b"], "default": "a"},
            "colour": {"enum": ["red", "blue"], "default": "red", "description": "Of what colour: red or blue."},
            "several": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "default": [1, 2]},
            "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            "made": {"type": "string"},
        }

    def test_plain_values_become_the_plugins_own(self) -> None:
        plain = {"needed": 1, "count": 2.0, "colour": "blue", "several": [3, 4.0], "maybe": 5, "choice": "b"}
        built = parameters.build(Plugin, plain)
        assert built == Plugin(1.0, 2, colour=Colour.BLUE, several=(3, 4), maybe=5.0, choice="b")
        assert isinstance(built, Plugin)
        assert [type(v) for v in (built.needed, built.count, built.maybe, built.several[1])] == [float, int, float, int]
        assert parameters.build(Plugin, {"needed": 1, "maybe": None}) == Plugin(1.0)

    def test_a_type_that_no_file_can_write(self) -> None:
        made: Callable[..., type] = dataclasses.make_dataclass
        with pytest.raises(TypeError, match="cannot set a parameter"):
            parameters.mapping_schema(made("Odd", [("x", dict)]))

    @pytest.mark.parametrize(
        ("kind", "name"), [(kind, name) for kind in ("measures", "attacks") for name in registry.names(kind)]
    )
    def test_every_plugin_can_be_set_by_a_policy(self, kind: str, name: str) -> None:
        plugin = registry.load(kind, name)
        Draft202012Validator.check_schema(parameters.mapping_schema(plugin))
        defaults = {p.name: parameters.plain(p.default) for p in registry.parameters(plugin)}
        defaults |= dict.fromkeys(parameters.needed(plugin), 0.5)
        assert Draft202012Validator(parameters.mapping_schema(plugin)).is_valid(defaults)
        assert isinstance(parameters.build(plugin, defaults), plugin)


class TestExplain:
    def test_every_requirement_in_plain_words(self, tmp_path: Path) -> None:
        told = explain(loaded(tmp_path, HEAD + FULL))
        assert "Policy images 1.0.0, of office@example.org" in told
        assert "Holds the model file itself" in told
        assert "0.9 of the policy as a whole, 3 requirements together" in told
        assert "is at most 0.1." in told
        assert "1. Budget [dp-budget, critical, line 8]" in told
        assert "privacy.epsilon (delta 1e-05, unit record, basis proved, adjacency add-or-remove-one," in told
        assert "delta_above_one_in_n False, evidence ledger) at most 8\n" in told
        assert "inversion.distance (metric ssim, quantile 0.5) at least 0.8\n" in told
        assert "the whole interval lies at or below 8\n" in told
        assert "the whole interval lies at or above 0.8\n" in told
        assert "the whole interval lies below 0.8\n" in told
        assert "References       gdpr:25" in told
        assert max(map(len, told.splitlines())) <= 130

    def test_which_attacks_will_be_tried(self, tmp_path: Path) -> None:
        told = explain(loaded(tmp_path, HEAD + FULL))
        assert told.count("Tried            inversion.gradient") == 2
        assert "inversion.knowledge_alignment" not in told
        for name in registry.names("attacks"):
            # One that only another measure reads, one that reads less than there is; of inversion those that are named.
            untried = {"membership.separation", "membership.boundary"}
            named = name in {"inversion.gradient", "inversion.mi_face"} or name.startswith("membership.")
            assert (f"Tried            {name}:" in told or f"Tried            {name} (" in told) is (
                named and name not in untried
            )
        assert "Only if named    membership.boundary" in told
        assert "membership.lira (given the recipe of the training)" in told
        assert "no attack: it is computed from what training did to the records" in told

    def test_what_an_adversary_without_the_weights_cannot_try(self, tmp_path: Path) -> None:
        text = HEAD.replace("weights", "release") + FULL.replace("      attacks: [inv", "      # [inv")
        told = explain(loaded(tmp_path, text))
        assert "Can only ask the deployed model" in told
        assert "Cannot be tried  inversion.gradient: it needs the weights, which this adversary does not hold" in told
        assert "Tried            inversion.knowledge_alignment (given a release of" in told

    def test_what_must_pass_by_and_what_is_costly_is_told(self, tmp_path: Path) -> None:
        told = explain(loaded(tmp_path, HEAD + FULL.replace("      attacks: [inv", "      # [inv")))
        assert "Tried            inversion.split (given a release of activations and auxiliary records)" in told
        assert "Tried            inversion.gradient_leakage (given a release of gradients)" in told
        assert "Only if named    inversion.plg_mi: or under --profile thorough" in told

    def test_limits_that_are_read_the_other_way_round_are_told_so(self, tmp_path: Path) -> None:
        told = explain(loaded(tmp_path, requirement(measure="utility.accuracy", max="", min="0.9")))
        assert "no attack: it is counted on records that the model never saw" in told
        assert "1 requirement together" in told


def test_a_requirement_is_what_it_says() -> None:
    """The names that reports and plans rely on."""
    assert [f.name for f in dataclasses.fields(Requirement)] == [
        "id",
        "title",
        "severity",
        "measure_name",
        "measure",
        "direction",
        "limit",
        "attacks",
        "references",
        "place",
    ]


@pytest.mark.parametrize(
    ("measure", "limit", "worst"),
    [
        ("membership.advantage", "max: 10", "1"),
        ("membership.advantage", "max: 1.0", "1"),
        ("membership.auc", "max: 60", "1"),
        ("inversion.distance", "min: 0.0", "0"),
        ("utility.accuracy", "min: -5", "0"),
    ],
)
def test_a_limit_that_no_model_can_violate_is_refused(tmp_path: Path, measure: str, limit: str, worst: str) -> None:
    """A slip into percent would pass every model there is."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        "apiVersion: midguard.dev/v1\nkind: PrivacyPolicy\nmetadata: {name: a, version: 1.0.0, owner: o}\nspec:\n"
        "  adversary: {access: release}\n  requirements:\n"
        f"    - {{id: slip, severity: high, measure: {measure}, {limit}}}\n"
    )
    with pytest.raises(InputError, match=f"no model can violate this limit: the worst {measure} is {worst}"):
        load_policy(path)
