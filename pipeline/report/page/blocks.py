"""The blocks of a section of the page; template.html.j2 knows how each looks."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.analysis import intervals

Row = dict[str, Any]


@dataclass(frozen=True)
class Forest:
    """A value with its interval as a mark on a scale, from 0 to 100 % of its width."""

    low: float
    value: float
    high: float
    zero: float
    dots: tuple[float, ...] = ()  # of single seeds
    text: str = ""
    kind = "forest"


@dataclass(frozen=True)
class Cell:
    text: str
    kind: str = "number"  # number, text, arm, badge
    small: str = ""  # the interval, beside the value
    field: str = ""  # name in results.json
    tone: str = ""  # of a badge: good, bad, flat


@dataclass(frozen=True)
class Table:
    head: list[str]
    rows: list[list[Cell | Forest]]
    caption: str = ""
    keys: list[Row] = field(default_factory=list)  # data attributes of the rows
    scale: tuple[str, str] | None = None  # what the ends of the forest column are
    closed: bool = False  # opens on a click
    kind = "table"


@dataclass(frozen=True)
class Chart:
    name: str
    spec: Row
    title: str
    alt: str  # what a reader who does not see it is told
    note: str = ""
    picks: list[Row] = field(default_factory=list)  # {name, label, options}: signals of the chart
    kind = "chart"


@dataclass(frozen=True)
class Charts:
    charts: list[Chart]
    legend: list[str] = field(default_factory=list)  # arms; each can be left out by a click
    picks: list[Row] = field(default_factory=list)  # signals of all its charts
    kind = "charts"


@dataclass(frozen=True)
class Card:
    badge: str
    tone: str  # good, bad, flat
    title: str
    numbers: str
    text: str
    forest: Forest | None = None


@dataclass(frozen=True)
class Cards:
    cards: list[Card]
    kind = "cards"


@dataclass(frozen=True)
class Text:
    text: str
    tone: str = ""  # good, bad or flat: said loudly
    kind = "text"


@dataclass(frozen=True)
class Pairs:
    """Settings by name, with the arm that they belong to."""

    title: str
    pairs: list[tuple[str, str]]
    arm: str = ""
    text: str = ""
    closed: bool = False
    kind = "pairs"


@dataclass(frozen=True)
class Quotes:
    """Texts side by side, to the letter, each under its label."""

    title: str
    quotes: list[tuple[str, str]]
    kind = "quotes"


@dataclass(frozen=True)
class Words:
    """What names mean, behind a click."""

    title: str
    words: list[tuple[str, str]]
    arms: bool = False  # the names are arms and have their marks
    kind = "words"


@dataclass(frozen=True)
class Browser:
    kind = "browser"


@dataclass(frozen=True)
class Answers:
    kind = "answers"


Block = Table | Charts | Cards | Text | Pairs | Quotes | Words | Browser | Answers


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: list[Block]
    lead: str = ""


class Scale:
    """A scale from the lowest to the highest of some values and zero, with a little room."""

    def __init__(self, values: list[float]) -> None:
        low, high = min([0.0, *values]), max([0.0, *values])
        room = 0.04 * (high - low) or 0.05
        self.low, self.high = low - room * (low < 0), high + room
        if low < 0 or high == 0:
            self.low = low - room

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def forest(self, value: float, low: float, high: float, dots: tuple[float, ...] = ()) -> Forest:
        return Forest(
            self.place(low),
            self.place(value),
            self.place(high),
            self.place(0.0),
            tuple(self.place(dot) for dot in dots),
            intervals.interval(value, low, high, "+"),
        )

    def ends(self) -> tuple[str, str]:
        return f"{self.low:+.2f}", f"{self.high:+.2f}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
