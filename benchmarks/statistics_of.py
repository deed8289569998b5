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
        return f"{self.median:.2f} ({self.p10:.2f}-{self.p90:.2f})"
