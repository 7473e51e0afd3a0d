"""Runs the peers' own attacks on what midguard's models answered, in an environment without midguard.

    python _peers.py SKIP CASE.npz... OUT

Methods whose name holds the word SKIP are left out, and listed as left out; empty for none.

Each CASE.npz holds, of one subject and its reference models over one pool of n records:
    members (n,) bool, y (n,) int64, subject (n, classes) float64 logits,
    references (k, n, classes) float64 logits, inside (k, n) bool.
OUT, an .npz, gets the scores `(n,)` of every method and case; OUT.json what each took, and why one did not run.

No peer trains anything here: all are given the same answers of the same models, through the parts of their code that
turn answers into scores.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import logsumexp, softmax


@dataclass(frozen=True)
class Case:
    """The answers of one subject and its reference models."""

    members: np.ndarray
    y: np.ndarray
    subject: np.ndarray
    references: np.ndarray
    inside: np.ndarray

    def log_odds(self, logits: np.ndarray) -> np.ndarray:
        """log p_y - log(1 - p_y), float64. Args: `(..., n, classes)`. Returns: `(..., n)`."""
        rows = np.arange(len(self.y))
        rest = logits.copy()
        rest[..., rows, self.y] = -np.inf
        return logits[..., rows, self.y] - logsumexp(rest, axis=-1)

    def own(self, logits: np.ndarray) -> np.ndarray:
        """p_y. Returns: `(..., n)`."""
        return softmax(logits, axis=-1)[..., np.arange(len(self.y)), self.y]

    def merged(self, members: np.ndarray, nonmembers: np.ndarray) -> np.ndarray:
        """Scores that came back by side, in the order of the pool."""
        if (len(members), len(nonmembers)) != (self.members.sum(), (~self.members).sum()):
            raise ValueError("records were dropped on the way")
        scores = np.empty(len(self.y))
        scores[self.members], scores[~self.members] = members, nonmembers
        return scores


# PrivacyGuard: data frames of scores, as its shadow_model_training.training.prepare_lira_data and prepare_rmia_data
# build them (that module needs torchvision, which does not load beside a CPU build of torch).


def privacyguard_lira(case: Case, online: bool, fixed: bool, spread: str) -> np.ndarray:
    import pandas as pd
    from privacy_guard.analysis.mia.aggregate_analysis_input import AggregationType
    from privacy_guard.attacks.lira_attack import LiraAttack

    phi = case.log_odds(case.references)
    columns = {"score_orig": case.log_odds(case.subject)}
    for side, mask in (("in", case.inside), ("out", ~case.inside)):
        answers = np.where(mask, phi, np.nan)
        columns[f"score_mean_{side}"] = np.nan_to_num(np.nanmean(answers, axis=0))
        columns[f"score_std_{side}"] = np.nan_to_num(np.nanstd(answers, axis=0) + 1e-8, nan=1e-8)
    columns |= {"score_mean": columns["score_mean_out"], "score_std": columns["score_std_out"]}
    frame = pd.DataFrame(columns)
    frame["user_id"] = np.arange(len(frame))
    sides = frame[case.members].reset_index(drop=True), frame[~case.members].reset_index(drop=True)
    found = LiraAttack(
        *sides, AggregationType.NONE, use_fixed_variance=fixed, std_dev_type=spread, online_attack=online
    ).run_attack()
    return case.merged(found.df_train_user["score"].to_numpy(), found.df_test_user["score"].to_numpy())


def privacyguard_rmia(case: Case, online: bool, tuned: bool = False) -> np.ndarray:
    """Its population is the pool: with no records beside it there is no other."""
    import pandas as pd
    from privacy_guard.analysis.mia.aggregate_analysis_input import AggregationType
    from privacy_guard.attacks.rmia_attack import RmiaAttack

    subject, references = case.own(case.subject), case.own(case.references)
    columns: dict[str, np.ndarray] = {"score_orig": subject}
    columns |= {f"score_ref_{i}": answers for i, answers in enumerate(references)}
    population = pd.DataFrame(
        columns | {f"member_ref_{i}": np.zeros(len(subject), bool) for i in range(len(references))}
    )
    frame = pd.DataFrame(columns | {f"member_ref_{i}": mask for i, mask in enumerate(case.inside)})
    frame["user_id"] = np.arange(len(frame))
    sides = frame[case.members].reset_index(drop=True), frame[~case.members].reset_index(drop=True)
    found = RmiaAttack(*sides, population, AggregationType.NONE, online=online, enable_auto_tuning=tuned).run_attack()
    return case.merged(found.df_train_user["score"].to_numpy(), found.df_test_user["score"].to_numpy())


# SACRO-ML trains shadow models itself, scikit-learn ones; its scoring is fed with the answers of ours.


def sacro_lira(case: Case, mode: str, fixed: bool) -> np.ndarray:
    from sacroml.attacks import utils
    from sacroml.attacks.likelihood_attack import LIRAAttack

    records, own = range(len(case.y)), case.own(case.references)
    out: dict[int, list[float]] = {i: [] for i in records}
    into: dict[int, list[float]] = {i: [] for i in records}
    for answers, inside in zip(own, case.inside, strict=True):
        for i, answer in enumerate(answers):
            (into if inside[i] else out)[i].append(utils.logit(float(answer)))
    attack = LIRAAttack(write_report=False, n_shadow_models=len(own), mode=mode, fix_variance=fixed)
    found, _ = attack._compute_scores(case.y, softmax(case.subject, axis=1), out, into)
    return np.array(found)[:, 1]


# ART: its learned black-box attack, taught on the answers of the reference models.


def art_black_box(case: Case, kind: str, probabilities: bool) -> np.ndarray:
    import torch
    from art.attacks.inference.membership_inference import MembershipInferenceBlackBox
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(0)  # ART and scikit-learn draw from here
    torch.manual_seed(0)
    answer: Callable[[np.ndarray], np.ndarray] = (lambda z: softmax(z, axis=-1)) if probabilities else (lambda z: z)
    classes = case.subject.shape[1]
    # All predictions are handed over, so that of the estimator only the number of classes is asked.
    estimator = PyTorchClassifier(torch.nn.Identity(), torch.nn.CrossEntropyLoss(), (classes,), classes)
    attack = MembershipInferenceBlackBox(estimator, attack_model_type=kind)
    taught, y = answer(case.references), np.tile(case.y, (len(case.references), 1))
    attack.fit(pred=taught[case.inside], y=y[case.inside], test_pred=taught[~case.inside], test_y=y[~case.inside])
    found = np.asarray(attack.infer(None, case.y, pred=answer(case.subject), probabilities=True))
    return found[:, 1] if found.ndim == 2 and found.shape[1] == 2 else found.reshape(len(case.y))


METHODS: dict[tuple[str, str], Callable[[Case], np.ndarray]] = {
    ("privacyguard-platform", "LiRA online, fixed variance"): lambda c: privacyguard_lira(c, True, True, "mix"),
    ("privacyguard-platform", "LiRA online, own variance"): lambda c: privacyguard_lira(c, True, False, "mix"),
    ("privacyguard-platform", "LiRA offline"): lambda c: privacyguard_lira(c, False, True, "shadows_out"),
    ("privacyguard-platform", "RMIA online"): lambda c: privacyguard_rmia(c, online=True),
    ("privacyguard-platform", "RMIA offline"): lambda c: privacyguard_rmia(c, online=False),
    ("privacyguard-platform", "RMIA offline, tuned"): lambda c: privacyguard_rmia(c, online=False, tuned=True),
    ("sacroml", "LiRA online, fixed variance"): lambda c: sacro_lira(c, "online-carlini", True),
    ("sacroml", "LiRA offline, fixed variance"): lambda c: sacro_lira(c, "offline", True),
    ("sacroml", "LiRA offline"): lambda c: sacro_lira(c, "offline", False),
    ("adversarial-robustness-toolbox", "shadow, forest on probabilities"): lambda c: art_black_box(c, "rf", True),
    ("adversarial-robustness-toolbox", "shadow, forest on logits"): lambda c: art_black_box(c, "rf", False),
    ("adversarial-robustness-toolbox", "shadow, network on logits"): lambda c: art_black_box(c, "nn", False),
}


#: Loaded before the clock starts.
MODULES = {
    "privacyguard-platform": ("privacy_guard.attacks.lira_attack", "privacy_guard.attacks.rmia_attack"),
    "sacroml": ("sacroml.attacks.likelihood_attack",),
    "adversarial-robustness-toolbox": ("art.attacks.inference.membership_inference", "art.estimators.classification"),
}


def main() -> None:
    logging.disable(logging.INFO)
    skip, *files, out = sys.argv[1:]
    cases = {}
    for file in files:
        with np.load(file) as arrays:
            cases[Path(file).stem] = Case(**{name: arrays[name] for name in arrays.files})
    scores, told = {}, []
    for (package, method), attack in METHODS.items():
        for name, case in cases.items():
            row: dict[str, object] = {"package": package, "method": method, "case": name}
            try:
                row["version"] = importlib.metadata.version(package)
                if skip and skip in method:
                    raise RuntimeError("left out by --skip")
                for module in MODULES[package]:
                    importlib.import_module(module)
                started = time.process_time()
                found = np.asarray(attack(case), dtype=np.float64)
                row["seconds"] = time.process_time() - started
                if found.shape != case.y.shape or np.isnan(found).any():
                    raise ValueError(f"not one score for each record: shape {found.shape}, NaN {np.isnan(found).sum()}")
                scores[f"{package}|{method}|{name}"] = found
            except Exception as error:  # a peer that fails is a row of the table
                row["failed"] = f"{type(error).__name__}: {error}"
            told.append(row)
            print(".", end="", file=sys.stderr, flush=True)
    np.savez(out, **scores)
    Path(f"{out}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
