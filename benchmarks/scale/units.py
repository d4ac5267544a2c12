"""Unit costs from what was measured at three sizes, and what the fourth should then be.

How a cost grows is read from the code and stated in FORMS, never chosen by how well it fits.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

HERE = Path(__file__).parent.parent
REPORT, STORE = HERE / "scale.json", HERE / "judgments.json"
Form = Literal["line", "flat", "square"]

# component: what was measured, how it grows, and with which count
FORMS: dict[str, dict[str, tuple[Form, str]]] = {
    "dag": {
        "noop_cpu": ("line", "size"),
        "noop_mib": ("line", "size"),
        "plan_cpu": ("line", "size"),
        "plan_mib": ("line", "size"),
        "folder_push_cpu": ("line", "files"),
        "folder_fetch_cpu": ("line", "files"),
    },
    "s3": {
        "s3_push_cpu": ("line", "size"),
        "s3_status_cpu": ("line", "size"),
        "s3_fetch_cpu": ("line", "size"),
    },
    "flow": {"cpu": ("line", "size"), "mib": ("line", "size")},
    "schedule": {"cpu": ("line", "size")},
    "prefect": {"cpu": ("line", "size"), "mib": ("line", "size"), "bytes": ("line", "size")},
    "offer": {
        "folder_offer_cpu": ("flat", "size"),
        "folder_bring_cpu": ("flat", "size"),
        "s3_offer_cpu": ("flat", "size"),
        "s3_bring_cpu": ("flat", "size"),
    },
    "postgres": {"server_cpu": ("line", "size"), "client_cpu": ("line", "size")},
    "ray": {"cpu": ("line", "size"), "mib": ("line", "size")},
    "store": {
        "bytes": ("flat", "size"),
        "find": ("flat", "size"),
        "prefixes": ("flat", "size"),
        "add": ("flat", "size"),
        "claim": ("line", "size"),
        "stats": ("line", "size"),
        "verify": ("line", "size"),
    },
}
RATES = ("find", "prefixes", "add")  # kept as answers a second; a cost is seconds an answer


@dataclass(frozen=True)
class Unit:
    """A cost by a count: `start` + `each` * count ** `power`."""

    start: float
    each: float
    power: int = 1

    def at(self, count: float) -> float:
        return float(self.start + self.each * count**self.power)


@dataclass(frozen=True)
class Check:
    """A unit from three sizes beside what was measured at a fourth."""

    name: str
    unit: Unit
    size: int
    measured: float

    @property
    def predicted(self) -> float:
        return self.unit.at(self.size)

    @property
    def off(self) -> float:
        """Share by which the prediction misses."""
        return self.predicted / self.measured - 1


def fit(points: Mapping[int, float], form: Form) -> Unit:
    """Least squares of relative errors; neither start nor slope is below 0."""
    counts = np.array(list(points), dtype=float)
    values = np.array(list(points.values()))
    if form == "flat":
        return Unit(float(np.median(values)), 0.0)
    power = 2 if form == "square" else 1
    columns = np.stack([np.ones_like(counts), counts**power], axis=1) / values[:, None]
    start, each = np.linalg.lstsq(columns, np.ones_like(values), rcond=None)[0]
    if start < 0:
        each = float(np.sum(columns[:, 1]) / np.sum(columns[:, 1] ** 2))
        start = 0.0
    if each < 0:
        start, each = float(np.median(values)), 0.0
    return Unit(float(start), float(each), power)


def read() -> dict[str, dict[str, dict[str, float]]]:
    """What was measured: component, size, name. Costs, in seconds where they were rates."""
    found: dict[str, Any] = json.loads(REPORT.read_text())
    store = json.loads(STORE.read_text())["scale"]
    found["store"] = {
        name.removeprefix("sqlite-"): {"size": int(name.removeprefix("sqlite-")), **_costs(one)}
        for name, one in store.items()
        if name.startswith("sqlite-")
    }
    return found


def _costs(one: dict[str, Any]) -> dict[str, float]:
    """By CPU time."""
    found = {}
    for name, value in one.items():
        first = float(value[0] if isinstance(value, list) else value)
        found[name] = 1 / first if name in RATES else first
    return found


Measured = dict[str, dict[str, dict[str, float]]]


def _points(measured: Measured) -> Iterator[tuple[str, Form, dict[int, float]]]:
    """Name, form, and what was measured by count."""
    for component, sizes in measured.items():
        for name, (form, by) in FORMS.get(component, {}).items():
            points = {int(one[by]): one[name] for one in sizes.values() if name in one}
            yield f"{component}.{name}", form, dict(sorted(points.items()))


def calibrated(measured: Measured) -> dict[str, Unit]:
    """Every unit, from the three sizes below the largest, or from all where there are three."""
    found = {}
    for name, form, points in _points(measured):
        some = list(points.items())[:-1][-3:] if len(points) > 3 else list(points.items())
        if len(some) == 3 or (some and form == "flat"):
            found[name] = fit(dict(some), form)
    return found


def checks(measured: Measured) -> list[Check]:
    """The units of four sizes and more, each held against the largest."""
    known = calibrated(measured)
    return [
        Check(name, known[name], max(points), points[max(points)])
        for name, _, points in _points(measured)
        if len(points) > 3
    ]
