"""What was measured, as Markdown, JSON and pictures. Earlier results are kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.statistics_of import Spread

Curves = Mapping[str, Mapping[float, Spread]]
"""By name, what was measured at each size."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    what: str
    spread: Spread
    unit: str = "ms"

    @classmethod
    def of(cls, what: str, values: Sequence[float], unit: str = "ms") -> "Row":
        """Return the row of *values*."""
        return cls(what, Spread.of(list(values)), unit)


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario has found."""

    rows: Sequence[Row]
    curves: Curves | None = None
    sizes: str = ""


def ratios(what: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Return the row of ours by theirs, round by round."""
    pairs = zip(ours, theirs, strict=True)
    return Row.of(what, [our / their for our, their in pairs], "x")


def write(folder: Path, name: str, about: Mapping[str, str], result: Result) -> str:
    """Add a scenario to the results in *folder*; return its Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    rows = {row.what: {"unit": row.unit, **asdict(row.spread)} for row in result.rows}
    picture = bool(result.rows) and _draw(folder / name, name, result)
    known[name] = {**about, "picture": picture, "rows": rows}
    path.write_text(json.dumps(known, indent=2) + "\n")
    texts = [_markdown(*item) for item in known.items()]
    (folder / "results.md").write_text("\n".join(["# Measured", "", *texts]))
    return _markdown(name, known[name])


def _markdown(name: str, found: Mapping[str, Any]) -> str:
    lines = [f"## {name}", "", found["doc"], "", f"{found['machine']}.", ""]
    lines += [
        "| what | median (p10-p90) | unit | rounds |",
        "| --- | --- | --- | --- |",
    ]
    for what, row in found["rows"].items():
        numbers = dict(row)
        unit = numbers.pop("unit")
        spread = Spread(**numbers)
        lines.append(f"| {what} | {spread} | {unit} | {spread.rounds} |")
    if found["picture"]:
        lines += ["", f"![{name}]({name}.svg)"]
    return "\n".join([*lines, ""])


def _draw(path: Path, title: str, result: Result) -> bool:
    """Draw the curves, or the rows as points; False without matplotlib."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = title
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xscale("log")
    if result.curves:
        for name, points in result.curves.items():
            sizes = list(points)
            spreads = list(points.values())
            low, high = [at.p10 for at in spreads], [at.p90 for at in spreads]
            dashes = "--" if name.startswith("total") else "-"
            medians = [at.median for at in spreads]
            axes.plot(sizes, medians, dashes, marker=".", label=name)
            axes.fill_between(sizes, low, high, alpha=0.2)
        axes.set_yscale("log")
        axes.set(xlabel=result.sizes, ylabel="ms")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    else:
        unit = result.rows[0].unit
        rows = [row for row in result.rows if row.unit == unit]
        medians = [row.spread.median for row in rows]
        below = [max(0, row.spread.median - row.spread.p10) for row in rows]
        above = [max(0, row.spread.p90 - row.spread.median) for row in rows]
        names = [row.what for row in rows]
        axes.errorbar(medians, names, xerr=[below, above], fmt="o", capsize=3)
        axes.grid(alpha=0.3)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        figure.set_size_inches(8, 1 + 0.3 * len(rows))
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=120)
    return True
