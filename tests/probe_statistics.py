"""Shares and AUCs with their intervals, and two attackers that look for a difference between classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, norm
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ALPHA = 0.001  # of every interval: a world without leaks passes, whatever its seed


@dataclass(frozen=True)
class Share:
    """A share of trials with its exact interval (Clopper-Pearson)."""

    hits: float
    trials: float  # fewer than were made where they depend on each other

    @property
    def value(self) -> float:
        """The share, 0..1."""
        return self.hits / self.trials

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return float(beta.ppf(ALPHA / 2, self.hits, self.trials - self.hits + 1)) if self.hits else 0.0

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        missed = self.trials - self.hits
        return float(beta.ppf(1 - ALPHA / 2, self.hits + 1, missed)) if missed else 1.0

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.trials:.0f}"


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve; `margin` is the half width of its interval where the truth is 0.5."""

    value: float
    margin: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.margin:.3f}"


def share(flags: Sequence) -> Share:
    """The share of true values."""
    flags = np.asarray(flags, bool)
    return Share(int(flags.sum()), len(flags))


def auc(truth: Sequence, scores: Sequence, weight: float = 1.0) -> Auc:
    """AUC with the normal interval of the rank-sum test.

    Args:
        truth: 0 or 1, both present.
        scores: Higher means more likely 1.
        weight: Variance inflation where rows are dependent (rows a group).
    """
    truth = np.asarray(truth, bool)
    ones, zeros = truth.sum(), (~truth).sum()
    deviation = np.sqrt(weight * (len(truth) + 1) / (12 * ones * zeros))
    return Auc(float(roc_auc_score(truth, scores)), float(norm.ppf(1 - ALPHA / 2) * deviation))


def separation(rows: np.ndarray, truth: np.ndarray, groups: np.ndarray | None = None) -> dict[str, Auc]:
    """How well two attackers tell the classes apart, each half of the rows being asked after training on the other.

    Args:
        rows: Features, (n, d).
        truth: Labels, (n,).
        groups: Rows of one group stay together and count as dependent; None if all are independent.

    Returns:
        AUC of "linear" (logistic regression) and "boosted" (gradient-boosted trees).
    """
    groups = np.arange(len(rows)) if groups is None else groups
    members = np.unique(groups, return_inverse=True)[1]
    half = members % 2 == 0
    weight = min(len(rows) / (members.max() + 1), 4.0) ** 0.5
    found = {}
    for name, model in {
        "linear": make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=300)),
        "boosted": HistGradientBoostingClassifier(max_iter=80, learning_rate=0.08, max_leaf_nodes=12, random_state=0),
    }.items():
        asked = [
            auc(truth[~known], model.fit(rows[known], truth[known]).predict_proba(rows[~known])[:, 1], weight)
            for known in (half, ~half)
        ]
        value, margin = np.mean([one.value for one in asked]), np.mean([one.margin for one in asked]) / 2**0.5
        found[name] = Auc(float(value), float(margin))
    return found
