"""Every class of attack that a reader could ask about, and which of them a run tested.

Identifiers: MITRE ATLAS 5.6.0 (May 2026), NIST AI 100-2 E2025, OWASP Machine Learning Security Top Ten (2023) and the
tests that EDPB Opinion 28/2024 names in paragraph 55. They say what a class is called elsewhere, not that a framework's
demand is met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..engine import registry
from ..engine.observation import Goal


@dataclass(frozen=True, slots=True)
class AttackClass:
    """One row of the taxonomy.

    Attributes:
        id: Short, stable name.
        title: What the literature calls it.
        question: What the adversary wants to learn, in plain words.
        goals: Goals of attacks that test it; empty where midguard holds no such attack.
        kind: The folder of attacks that belong to it, empty likewise.
        untested: Why nothing tests it, for a class without attacks.
        attacks: Names of the attacks that belong to it and to no other class; empty for all of its goals that belong to
            no such class.
        atlas: MITRE ATLAS technique, empty where there is none.
        nist: NIST AI 100-2 E2025 identifier, likewise.
        owasp: OWASP ML 2023 entry, likewise.
        edpb: Number in EDPB Opinion 28/2024, paragraph 55, likewise.
    """

    id: str
    title: str
    question: str
    goals: frozenset[Goal] = frozenset()
    kind: str = ""
    untested: str = ""
    atlas: str = ""
    nist: str = ""
    owasp: str = ""
    edpb: str = ""
    attacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.goals) == bool(self.untested):
            raise ValueError(
                f"{self.id}: a class is tested towards goals, or says why it is not: expected one of the two"
            )


_NO_ATTACK = "midguard holds no attack of this class"
_NOT_ASKED = "no requirement of the policy asked for an attack of this class"

TAXONOMY: tuple[AttackClass, ...] = (
    AttackClass(
        "membership-inference",
        "Membership inference",
        "Was this record used to train the model?",
        goals=frozenset({Goal.MEMBERSHIP}),
        kind="membership",
        atlas="AML.T0024.000",
        nist="NISTAML.033",
        owasp="ML04:2023",
        edpb="(i)",
    ),
    AttackClass(
        "record-risk",
        "Membership risk of the most exposed records",
        "Would single records stand out far more than the average suggests, in models trained as this one was?",
        goals=frozenset({Goal.RISK}),
        atlas="AML.T0024.000",
        nist="NISTAML.033",
        owasp="ML04:2023",
        edpb="(i)",
    ),
    AttackClass(
        "person-level-membership",
        "Membership of a person with several records",
        "Was anything of this person used, over all of their records together?",
        untested="every attack here judges single records; intervals are by person where the data say whose a record "
        "is, but no attack puts a person's records together",
        atlas="AML.T0024.000",
        nist="NISTAML.033",
        owasp="ML04:2023",
        edpb="(i)",
    ),
    AttackClass(
        "attribute-inference",
        "Attribute inference",
        "What is the unknown attribute of a person whose other attributes are known?",
        goals=frozenset({Goal.ATTRIBUTE}),
        kind="attribute",
        atlas="AML.T0024.000",
        nist="NISTAML.034",
        owasp="ML03:2023",
        edpb="(i)",
    ),
    AttackClass(
        "property-inference",
        "Property inference",
        "What holds for the training data as a whole, such as the share of a group?",
        untested=_NO_ATTACK,
        atlas="AML.T0024.000",
        nist="NISTAML.034",
        owasp="ML04:2023",
    ),
    AttackClass(
        "model-inversion",
        "Model inversion (class)",
        "What do the people or things of one class look like?",
        goals=frozenset({Goal.CLASS}),
        kind="inversion",
        atlas="AML.T0024.001",
        nist="NISTAML.032",
        owasp="ML03:2023",
        edpb="(iv)",
    ),
    AttackClass(
        "output-reconstruction",
        "Reconstruction from outputs (record)",
        "What was the record behind this one answer of the model?",
        goals=frozenset({Goal.RECORD}),
        kind="inversion",
        atlas="AML.T0024.001",
        nist="NISTAML.032",
        owasp="ML03:2023",
        edpb="(v)",
    ),
    AttackClass(
        "gradient-leakage",
        "Gradient leakage",
        "What were the records behind a gradient that was shared, as in federated learning?",
        goals=frozenset({Goal.RECORD}),
        kind="inversion",
        attacks=("inversion.gradient_leakage",),
        atlas="AML.T0024.001",
        nist="NISTAML.032",
        owasp="ML03:2023",
        edpb="(v)",
    ),
    AttackClass(
        "update-leakage",
        "Update leakage",
        "What was learned, or deleted, between two versions of the model?",
        goals=frozenset({Goal.UPDATE}),
        kind="inversion",
        atlas="AML.T0024.001",
        nist="NISTAML.032",
        owasp="ML03:2023",
        edpb="(v)",
    ),
    AttackClass(
        "split-inference",
        "Inversion of intermediate activations",
        "What was the record behind the activations that a split model sends on?",
        goals=frozenset({Goal.RECORD}),
        kind="inversion",
        attacks=("inversion.split",),
        atlas="AML.T0024.001",
        nist="NISTAML.032",
        owasp="ML03:2023",
        edpb="(v)",
    ),
    AttackClass(
        "memorisation",
        "Memorisation and extraction of training data",
        "Does a generative model repeat what it was trained on?",
        untested=f"{_NO_ATTACK}; the subject is a classifier and generates nothing",
        atlas="AML.T0057",
        nist="NISTAML.037, NISTAML.038",
        edpb="(iii)",
    ),
    AttackClass(
        "model-extraction",
        "Model extraction",
        "Can the model be copied through its answers, and then be attacked as one that is held?",
        untested=f"{_NO_ATTACK}; an adversary with a copy is tested under access: weights",
        atlas="AML.T0024.002",
        nist="NISTAML.031",
        owasp="ML05:2023",
        edpb="(ii)",
    ),
    AttackClass(
        "poisoning",
        "Data poisoning that amplifies leakage",
        "Can someone who slips records into training make the model tell more of the others?",
        untested=f"{_NO_ATTACK}; training is taken to have been honest",
        atlas="AML.T0020",
        nist="NISTAML.013",
        owasp="ML02:2023",
    ),
    AttackClass(
        "side-channels",
        "Side channels and the deployed system",
        "What do timing, logs, caches, backups or the service around the model give away?",
        untested="midguard looks at the model and its release, not at the system around it",
    ),
)


@dataclass(frozen=True, slots=True)
class Missed:
    """Attacks of this run that told nothing, for one and the same reason."""

    attacks: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """A row of the taxonomy with what this run did about it.

    Attributes:
        row: The class of attack.
        ran: Attacks that ran to their end.
        missed: Attacks of the class that did not, with the reason.
    """

    row: AttackClass
    ran: tuple[str, ...]
    missed: tuple[Missed, ...]

    @property
    def tested(self) -> bool:
        """Whether at least one attack of the class ran to its end."""
        return bool(self.ran)

    @property
    def reason(self) -> str:
        """Why the class was not tested; empty where it was, or where each missed attack has its own reason."""
        if self.tested or (self.missed and not self.row.untested):
            return ""
        return self.row.untested or (_NOT_ASKED if _held(self.row) else _NO_ATTACK)


def coverage(evidence: Mapping[str, Any]) -> tuple[Coverage, ...]:
    """The whole taxonomy, row by row, with what this run tested and what it did not."""
    return tuple(Coverage(row, _ran(row, evidence), _missed(row, evidence)) for row in TAXONOMY)


def _held(row: AttackClass) -> bool:
    """Whether midguard holds an attack of this class."""
    return any(_belongs(name, row) for name in registry.names("attacks"))


def _ran(row: AttackClass, evidence: Mapping[str, Any]) -> tuple[str, ...]:
    """Attacks of this class that ran to their end."""
    ran = (a for a in evidence["attacks"] if a["status"] == "ran")
    return tuple(dict.fromkeys(a["name"] for a in ran if a["threat"]["goal"] in row.goals and _owns(row, a["name"])))


def _owns(row: AttackClass, name: str) -> bool:
    """Whether an attack with such a goal belongs here, and not to a class of its own."""
    if row.attacks:
        return name in row.attacks
    return not any(name in other.attacks for other in TAXONOMY)


def _missed(row: AttackClass, evidence: Mapping[str, Any]) -> tuple[Missed, ...]:
    """Attacks of this class that did not, by reason."""
    stopped = [(a["name"], a["reason"] or a["status"]) for a in evidence["attacks"] if a["status"] != "ran"]
    absent = [(n["attack"], n["reason"]) for n in evidence["notTested"]]
    reasons: dict[str, list[str]] = {}
    for name, reason in dict.fromkeys(stopped + absent):
        if _belongs(name, row):
            reasons.setdefault(reason, []).append(name)
    return tuple(Missed(tuple(names), reason) for reason, names in reasons.items())


def _belongs(name: str, row: AttackClass) -> bool:
    """By the goal that the attack declares; one that this version does not know, by the folder in its name."""
    if name in registry.names("attacks"):
        return registry.load("attacks", name).threat.goal in row.goals and _owns(row, name)  # type: ignore[attr-defined]
    return bool(row.kind) and not row.attacks and name.split(".", maxsplit=1)[0] == row.kind
