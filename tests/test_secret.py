"""Secret chance: normal to the tail, never repeated, told to nobody; and the grid that it is rounded to."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import pickle
import struct
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from midguard.engine.defenses import _secret
from midguard.engine.defenses._noise import SPARE, Noise
from midguard.engine.defenses._secret import Secret
from midguard.engine.errors import MidguardError


def normals(n: int, secret: Secret | None = None, deviation: float = 1.0) -> Any:
    out = np.empty(n)
    (secret or Secret()).fill(out, deviation)
    return out


class Told:
    """A cipher whose keystream is given."""

    def __init__(self, words: list[int], turns: list[int]) -> None:
        self._stream = struct.pack(f"<{len(words)}q", *words) + struct.pack(f"<{len(turns)}i", *turns)

    def update_into(self, zeros: memoryview, out: memoryview) -> int:
        out[: len(zeros)], self._stream = self._stream[: len(zeros)], self._stream[len(zeros) :]
        return len(zeros)


def told(words: list[int], turns: list[int], deviation: float = 1.0) -> Any:
    secret = Secret()
    secret._cipher = Told(words, turns)  # type: ignore[assignment]
    out = np.empty(len(words), np.complex128)
    secret._fill_pairs(out, deviation)
    return out


# Normals


@pytest.mark.parametrize("n", [1, 2, 100_001, 2 * _secret._PAIRS + 3])
def test_normals_of_any_number_are_normal(n: int) -> None:
    """Kolmogorov-Smirnov at 1e-6."""
    assert stats.kstest(normals(n, deviation=3.0) / 3, "norm").pvalue > 1e-6


def test_moments_tails_and_pairs() -> None:
    """Two million normals: four moments, tails as far as 4.5 deviations, no correlation; each at about 1e-6."""
    n = 2_000_000
    x = normals(n)
    assert abs(x.mean()) * math.sqrt(n) < 4.9
    assert abs(x.var() - 1) / math.sqrt(2 / n) < 4.9
    assert abs((x**3).mean()) / math.sqrt(15 / n) < 4.9
    assert abs((x**4).mean() - 3) / math.sqrt(96 / n) < 4.9
    for far in (2.0, 3.0, 4.0, 4.5):
        assert stats.binomtest(int((abs(x) > far).sum()), n, 2 * stats.norm.sf(far)).pvalue > 1e-6
    for lag in (1, 2, 2 * _secret._PAIRS):
        assert abs((x[lag:] * x[:-lag]).mean()) * math.sqrt(n - lag) < 4.9
        assert abs(((x[lag:] ** 2 - 1) * (x[:-lag] ** 2 - 1)).mean()) * math.sqrt((n - lag) / 4) < 4.9
    angles = np.arctan2(x[1::2], x[::2]) / (2 * math.pi) % 1
    assert stats.kstest(angles, "uniform").pvalue > 1e-6


def test_a_pair_is_that_of_box_and_muller() -> None:
    """Against the formula, for given bits: u = word / 2^64 + 1/2, and the angle of 13 + 32 bits."""
    rng = np.random.default_rng(0)
    words = [int(w) for w in rng.integers(-(2**63), 2**63, 4000)]
    turns = [int(t) for t in rng.integers(-(2**31), 2**31, 4000)]
    found = told(words, turns, deviation=2.5)
    u = np.array([w / 2**64 + 0.5 for w in words])
    angle = 2 * math.pi * np.array([(w % 2**13) / 2**13 + t / 2**45 for w, t in zip(words, turns, strict=True)])
    expected = 2.5 * np.sqrt(-2 * np.log(u)) * np.exp(1j * angle)
    assert abs(found / expected - 1).max() < 1e-7
    assert (abs(found) >= abs(expected) * (1 - 1e-12)).all(), "never too small"


def test_the_largest_and_the_smallest_are_finite() -> None:
    far, near, middle = told([-(2**63), 2**63 - 1, 0], [2**31 - 1, -(2**31), 0])
    assert abs(far) == pytest.approx(math.sqrt(2 * 53 * math.log(2)), rel=1e-6)
    assert abs(near) == 0
    assert abs(middle) == pytest.approx(math.sqrt(2 * math.log(2)))


def test_directions_leave_gaps_smaller_than_the_grid() -> None:
    """The last turn of one direction and the first of the next."""
    last, first = told([2**40, 2**40 + 1], [2**31 - 1, -(2**31)])
    gap = np.angle(first / last) - 2 * math.pi / 2**45  # what lies between neighbours anyway
    assert abs(gap) * 8.6 < 2.0**-31


# Nobody repeats it


def test_every_secret_has_a_key_of_its_own() -> None:
    one, other = Secret(), Secret()
    assert one.digest != other.digest
    assert not (normals(1000, one) == normals(1000, other)).any()
    again = normals(1000, one)
    assert not (again == normals(1000, one)).any()


def test_the_key_is_from_the_operating_system_and_only_its_hash_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    key, asked = bytes(range(32)), []
    monkeypatch.setattr(os, "urandom", lambda n: asked.append(n) or key)
    secret = Secret()
    assert asked == [32]
    assert secret.digest == hashlib.sha256(key).hexdigest()
    assert key not in [value for value in vars(secret).values() if isinstance(value, bytes)]


def test_the_stream_is_chacha20(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 8439, appendix A.1, first test vector: the key of zeros, the nonce of zeros, the counter at zero."""
    monkeypatch.setattr(os, "urandom", bytes)
    drawn = Secret()._drawn(64)
    assert bytes(drawn).hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")


def test_a_stream_that_is_used_up_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_secret, "_STREAM_BYTES", 100)
    secret = Secret()
    first, second, third = (bytes(secret._drawn(64)) for _ in range(3))
    assert len({first, second, third}) == 3


def test_a_secret_is_not_copied() -> None:
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(MidguardError, match="repeated"):
            take(Secret())  # type: ignore[operator]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_does_not_repeat_the_noise() -> None:
    secret = Secret()
    child = os.fork()
    if child == 0:
        try:
            secret.normal()
        except MidguardError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_torchs_seed_and_numpys_do_not_matter() -> None:
    found = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            np.random.seed(1)
            found.append(normals(100))
    assert not (found[0] == found[1]).any()


# Samples


def test_a_sample_of_everybody_and_of_nobody() -> None:
    secret = Secret()
    assert (secret.poisson_sample(50, 1.0) == np.arange(50)).all()
    assert len(secret.poisson_sample(50, 2.0**-49)) == 0
    assert len(secret.poisson_sample(0, 0.5)) == 0


@pytest.mark.parametrize("probability", [0.3, 256 / 60_000, 1 - 1e-4])
def test_samples_are_poisson(probability: float) -> None:
    """Sizes and how often each record takes part, each at 1e-6; more records than are drawn for at once."""
    secret, n, times = Secret(), 200_000, 40
    samples = [secret.poisson_sample(n, probability) for _ in range(times)]
    assert all((np.diff(s) > 0).all() for s in samples)
    sizes = np.array([len(s) for s in samples])
    spread = float(((sizes - n * probability) ** 2).sum() / (n * probability * (1 - probability)))
    assert 5e-7 < stats.chi2.cdf(spread, times) < 1 - 5e-7
    often = np.bincount(np.concatenate(samples), minlength=n)
    expected = stats.binom.pmf(np.arange(times + 1), times, probability) * n
    seen = np.bincount(often, minlength=times + 1)
    kept = expected > 10
    assert (
        stats.chisquare(
            np.append(seen[kept], seen[~kept].sum()), np.append(expected[kept], n - expected[kept].sum())
        ).pvalue
        > 1e-6
    )


def test_a_record_enters_by_its_whole_draw() -> None:
    """Ties of the first 16 bits are decided by 32 more: a probability between two steps of the first."""
    secret, n = Secret(), 400_000
    probability = (3 + 0.5) / 2**16
    taken = sum(len(secret.poisson_sample(n, probability)) for _ in range(200))
    assert stats.binomtest(taken, 200 * n, probability).pvalue > 1e-6
    assert stats.binomtest(taken, 200 * n, 3 / 2**16).pvalue < 1e-6
    assert stats.binomtest(taken, 200 * n, 4 / 2**16).pvalue < 1e-6


# The grid


class Fixed:
    """Noise that is always the same."""

    def __init__(self, value: float) -> None:
        self._value = value

    def fill(self, out: Any, deviation: float) -> None:
        out[:] = self._value


@pytest.mark.parametrize(("norm", "multiplier"), [(1.0, 1.1), (0.3, 0.5), (0.3, 40.0), (1e-4, 1.0), (1e6, 2.0)])
def test_sum_and_noise_lie_on_one_grid(norm: float, multiplier: float) -> None:
    """Whatever the sum was, the result is a multiple of one step, at most 2^-30 of the norm or the noise."""
    step = 2.0 ** math.floor(math.log2(2.0**-30 * max(norm, norm * multiplier)))
    for sums in (torch.zeros(70_001), torch.rand(70_001) * norm / 3):
        found = sums.double()
        Noise(Secret(), multiplier, found).add(norm)
        assert torch.equal(found / step, torch.round(found / step))
    with_noise = torch.rand(70_001, generator=torch.Generator().manual_seed(0)) * norm
    apart = with_noise.clone().double()
    Noise(Fixed(norm / 7), multiplier, apart).add(norm)
    expected = torch.round(with_noise.double() / step) * step + round(norm / 7 / step) * step
    assert torch.equal(apart, expected), "each is rounded by itself"


def test_the_noise_is_a_little_more_than_accounted() -> None:
    """A million normals: their deviation at 1e-6."""
    found = torch.zeros(1_000_000)
    Noise(Secret(), 1.7, found).add(0.3)
    spread = float((found.double() ** 2).sum()) / (1.7 * 0.3 * (1 + SPARE)) ** 2
    assert 5e-7 < stats.chi2.cdf(spread, 1_000_000) < 1 - 5e-7
    assert SPARE > 0
