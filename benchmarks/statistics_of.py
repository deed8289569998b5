"""Numbers with their spread."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and the middle eighty percent."""

    median: float
    p10: float
    p90: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Return the spread of *values*."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1], len(values))

    def __str__(self) -> str:
        digits = 2 if self.median >= 0.1 else 4
        low, high = f"{self.p10:.{digits}f}", f"{self.p90:.{digits}f}"
        return f"{self.median:.{digits}f} ({low}-{high})"
