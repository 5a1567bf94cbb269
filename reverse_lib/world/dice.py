"""Chance in the miniature world: everything is a function of a seed and a key, the same on every machine.

`stream` is the only source of randomness in `reverse_lib.world`; `Dice` throws its numbers faster, for drawing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def stream(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but `key` (ints, floats, strings), the same in every process."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


class Dice:
    """The draws of a NumPy generator that drawing needs, ten times as fast: it draws in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        """`rng` is where every number comes from."""
        self._rng = rng
        self._pool: list[float] = []

    def random(self) -> float:
        """A number in 0..1."""
        if not self._pool:
            self._pool = self._rng.random(256).tolist()
        return self._pool.pop()

    def uniform(self, low: float, high: float) -> float:
        """A number between two others."""
        return low + (high - low) * self.random()

    def integers(self, low: int, high: int | None = None) -> int:
        """An integer from `low` to `high` - 1, or from 0 to `low` - 1."""
        if high is None:
            low, high = 0, low
        return low + int((high - low) * self.random())

    def permutation(self, n: int) -> list[int]:
        """The numbers 0..n-1 in some order."""
        return self._rng.permutation(n).tolist()


Chance = np.random.Generator | Dice


def pick(rng: Chance, options: Sequence):
    """One of `options`, uniformly (faster than `Generator.choice` and blind to element types)."""
    return options[int(rng.integers(len(options)))]


def pick_weighted(dice: Dice, shares: dict[str, float]) -> str:
    """One key, with the given shares."""
    number = dice.random()
    for key, share in shares.items():
        number -= share
        if number < 0:
            return key
    return next(iter(shares))
