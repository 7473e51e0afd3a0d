"""Chance that nobody can repeat, from a key of the operating system that is used once and told to nobody.

ChaCha20 keystream (RFC 8439; `cryptography`) instead of a generator whose state a few hundred of its numbers give away.
"""

from __future__ import annotations

import hashlib
import math
import os
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray

from ..errors import MidguardError

_KEY_BYTES = 32
_BLOCK_BYTES = 64
#: A stream is left long before its counter of 32 bits could begin again, for another nonce.
_STREAM_BYTES = 2**37
#: Pairs of normals that are made at once: their parts stay in the cache.
_PAIRS = 2**15
#: A pair is made of a word of 64 bits and one of 32.
_PAIR_BYTES = 12
#: Zeros that are encrypted at once, and again and again, so that they stay in the cache too.
_SLICE_BYTES = 2**17
#: Bits of a full turn that the table of directions resolves; 32 more turn on from there.
_TURN_BITS = 13
#: By which a turn is multiplied to be in radians.
_TURN = 2.0 * math.pi * 2.0 ** -(_TURN_BITS + 32)
#: Bits of a record's draw of which most are decided by the first, and all by both.
_COARSE_BITS, _FINE_BITS = 16, 32


class Secret:
    """Standard normals and Poisson samples from one key, which is made here and kept nowhere.

    Attributes:
        digest: SHA-256 of the key: tells two keys apart, and neither of them.

    Not to be shared by processes: a copy would repeat the noise, and the difference of two sums with the same noise has
    none. It refuses that after a fork, and cannot be pickled.
    """

    def __init__(self) -> None:
        key = os.urandom(_KEY_BYTES)
        self.digest = hashlib.sha256(key).hexdigest()
        self._algorithms = (algorithms.ChaCha20(key, _nonce(i)) for i in range(2**32))
        self._zeros = memoryview(bytes(_SLICE_BYTES))
        self._bytes = memoryview(bytearray(_PAIR_BYTES * _PAIRS + _BLOCK_BYTES))
        self._radius, self._angle, self._turned = np.empty(_PAIRS), np.empty(_PAIRS), np.empty(_PAIRS, np.complex128)
        self._process = os.getpid()
        self._cipher, self._left = self._next_stream()

    def __reduce__(self) -> str:
        raise MidguardError("a secret cannot be copied: its noise would be repeated")

    def _next_stream(self) -> tuple[CipherContext, int]:
        """A stream of the same key under another nonce, and how many bytes it is good for."""
        return Cipher(next(self._algorithms), mode=None).encryptor(), _STREAM_BYTES

    def _drawn(self, size: int) -> memoryview:
        """So many bytes of the stream, at most those of a batch of pairs; written over by the next call."""
        if os.getpid() != self._process:
            raise MidguardError("a secret cannot be used by another process: its noise would be repeated")
        if self._left < size:
            self._cipher, self._left = self._next_stream()
        self._left -= size
        for start in range(0, size, _SLICE_BYTES):
            self._cipher.update_into(self._zeros[: size - start], self._bytes[start:])
        return self._bytes[:size]

    def fill(self, out: NDArray[np.float64], deviation: float) -> None:
        """Write independent normals of mean zero, by Box and Muller (1958), in double precision.

        The radius is that of a uniform in [2^-53, 1] in steps of 2^-54 or finer: the largest is 8.57, and larger ones
        are missing with a probability of 2^-53 a pair. The angle has 45 bits: 13 choose a direction from a table, 32
        turn on from it along the tangent, by at most 3.9e-4. That makes the radius too large by a share of up to
        7.4e-8, never too small, and leaves gaps of 3.8e-11 between directions, which are narrower than the grid that
        noise is rounded to however far out. The 13 are the last bits of the radius' word, of which it shows nothing
        above a share of 2^-50. Single precision would leave rays between which no noise falls, and so show where they
        start.

        Args:
            out: `(n,)`, contiguous.
            deviation: Standard deviation.
        """
        even = len(out) // 2 * 2
        for start in range(0, even, 2 * _PAIRS):
            self._fill_pairs(out[start : min(even, start + 2 * _PAIRS)].view(np.complex128), deviation)
        if even < len(out):
            last = np.empty(1, np.complex128)
            self._fill_pairs(last, deviation)
            out[-1] = last.real[0]

    def _fill_pairs(self, out: NDArray[np.complex128], deviation: float) -> None:
        """Each number a pair of normals. Args: out `(p,)`, p <= _PAIRS."""
        n = len(out)
        drawn = self._drawn(_PAIR_BYTES * n)
        words, turns = np.frombuffer(drawn, np.int64, n), np.frombuffer(drawn, np.int32, n, 8 * n)
        radius, angle, turned = self._radius[:n], self._angle[:n], self._turned[:n]
        np.copyto(radius, words)
        radius *= 2.0**-64
        radius += 0.5 + 2.0**-53  # of which 1 is the nearest to the largest
        np.log(radius, out=radius)
        radius *= -2.0 * deviation * deviation
        np.sqrt(radius, out=radius)
        np.copyto(angle, turns)
        np.multiply(radius, 1 / _TURN, out=turned.real)  # the table is as much smaller
        np.multiply(radius, angle, out=turned.imag)
        chosen = np.bitwise_and(words, 2**_TURN_BITS - 1, out=angle.view(np.int64))
        # All are in the table: nothing is clipped, and so nothing is checked.
        np.take(_directions(), chosen, out=out, mode="clip")
        out *= turned

    def normal(self) -> float:
        """One standard normal."""
        out = np.empty(1)
        self.fill(out, 1.0)
        return float(out[0])

    def poisson_sample(self, n: int, probability: float) -> NDArray[np.int64]:
        """Positions of a sample of n records that each enters with this probability, independently of the others.

        The probability is rounded down to a multiple of 2^-48, so that no record enters more often than accounted.

        Returns: `(k,)`, ascending.
        """
        coarse, fine = divmod(math.floor(probability * 2.0 ** (_COARSE_BITS + _FINE_BITS)), 2**_FINE_BITS)
        if coarse >= 2**_COARSE_BITS:
            return np.arange(n, dtype=np.int64)
        found = []
        most = _PAIR_BYTES * _PAIRS // 4
        for start in range(0, n, most):
            drawn = np.frombuffer(self._drawn(2 * min(most, n - start)), np.uint16)
            inside = drawn < coarse
            (tied,) = np.nonzero(drawn == coarse)
            if len(tied):
                inside[tied] = np.frombuffer(self._drawn(4 * len(tied)), np.uint32) < fine
            found.append(np.flatnonzero(inside) + start)
        return np.concatenate([np.empty(0, np.int64), *found])


def _nonce(number: int) -> bytes:
    """The counter at zero, and a number that is used once a key."""
    return bytes(4) + number.to_bytes(12, "little")


@cache
def _directions() -> NDArray[np.complex128]:
    """Points of a circle, evenly spread, whose radius is one turn."""
    angles = 2 * math.pi * np.arange(2**_TURN_BITS) / 2**_TURN_BITS
    found = np.empty(2**_TURN_BITS, np.complex128)
    found.real, found.imag = _TURN * np.cos(angles), _TURN * np.sin(angles)
    return found
