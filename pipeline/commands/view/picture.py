"""A look as a picture: counts, arms by rounds, what runs and how it goes, time and money."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.commands.status.look import STATES, Look, State, Told
from pipeline.commands.status.shown import duration, progress, training
from pipeline.commands.view import grid, time_left

SIGNS: dict[State, str] = {
    "running": "▶",
    "failed": "✗",
    "ready": "○",
    "waiting": "·",
    "cached": "↻",
    "done": "✓",
}
PLAIN: dict[State, str] = dict(zip(SIGNS, (">", "!", "o", ".", "~", "+"), strict=True))
STYLES: dict[State, str] = {
    "running": "bold yellow",
    "failed": "bold red",
    "ready": "",
    "waiting": "dim",
    "cached": "cyan",
    "done": "green",
}
ORDER: tuple[State, ...] = ("done", "cached", "running", "failed", "ready", "waiting")
NAME, BOX = 20, 15  # columns of an arm's name, and of its cells in a round
WIDE = 110  # columns from which bars are drawn
BAR = 24
NARROW = 20  # losses of a curve where there is less room
CURVE = "▁▂▃▄▅▆▇█"
BESIDE = 7  # lines: title, counts, names of rounds, arms left out, three empty ones


class Sheet(NamedTuple):
    """What a picture is drawn on."""

    width: int
    height: int
    plain: bool = False  # no signs of Unicode

    @property
    def signs(self) -> Mapping[State, str]:
        return PLAIN if self.plain else SIGNS

    @property
    def cut(self) -> Literal["crop", "ellipsis"]:
        """How a line ends that is too long."""
        return "crop" if self.plain else "ellipsis"

    def line(self, *parts: str | tuple[str, str] | Text, style: str = "") -> Text:
        """A line that is not broken."""
        return Text.assemble(*parts, style=style, no_wrap=True, overflow=self.cut)

    def table(self, columns: int) -> Table:
        """An empty one, whose lines are not broken."""
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(columns):
            table.add_column(no_wrap=True, overflow=self.cut)
        return table

    def joined(self, parts: Iterable[str], indent: str = "", style: str = "") -> Iterator[Text]:
        """Parts that say anything in one line, or in several where they are too long for that."""
        line = ""
        for part in filter(None, parts):
            longer = f"{line}; {part}" if line else f"{indent}{part}"
            if line and cell_len(longer) > self.width:
                yield self.line(line, style=style)
                longer = f"{indent}{part}"
            line = longer
        if line:
            yield self.line(line, style=style)


def picture(look: Look, sheet: Sheet, passed: float | None = None) -> RenderableType:
    """A look on a sheet, and below it its `passed` seconds."""
    foot = [*_foot(look, sheet, passed)]
    for note in look.notes:
        foot += [sheet.line(line, style="dim") for line in textwrap.wrap(note, sheet.width)]
    rows = max(sheet.height - len(foot) - BESIDE, 2)
    now = _now(look, sheet, max(rows // 2, 1))
    columns = max((sheet.width - NAME) // BOX, 1)
    shown = grid.grid(look, columns, max(rows - len(now), 1))
    parts: list[RenderableType] = [*_head(look, sheet), "", _table(shown, sheet)]
    parts += [sheet.line(f"and {shown.more} more", style="dim")] if shown.more else []
    return Group(*parts, *(["", *now] if now else []), "", *foot)


def _head(look: Look, sheet: Sheet) -> Iterator[Text]:
    yield sheet.line(look.title, style="bold")
    counts, parts = look.counts, list[str | tuple[str, str]]()
    for state in (one for one in ORDER if one in counts):
        parts += ["  ", (f"{sheet.signs[state]} {counts[state]} {state}", STYLES[state])]
    yield sheet.line(f"{len(look.cells)} cells", *parts)


def _table(shown: grid.Grid, sheet: Sheet) -> Table:
    table = sheet.table(len(shown.rounds) + 1)
    first, *others = table.columns
    first.max_width = NAME - 2 if sheet.width < WIDE else None
    for column in others:
        column.min_width = BOX - 2
    table.add_row("", *(Text(name, style="dim") for name in shown.rounds))
    for arm, counts in shown.arms.items():
        table.add_row(Text(arm), *(_box(one, sheet) for one in counts))
    return table


def _box(counts: grid.Counts, sheet: Sheet) -> Text:
    own = [state for state in ORDER if state in counts]
    return sheet.line(*((f"{sheet.signs[one]}{counts[one]} ", STYLES[one]) for one in own))


def _now(look: Look, sheet: Sheet, most: int) -> list[RenderableType]:
    """A line for each cell that runs or failed, and how a train cell goes."""
    moving = [one for one in look.cells if one.state in ("running", "failed")]
    moving.sort(key=lambda one: STATES.index(one.state))
    found: list[RenderableType] = []
    for place, one in enumerate(moving):
        left = len(moving) - place
        room = most - len(found) - (left > 1)
        if room < 1:
            return [*found, sheet.line(f"  and {left} more that run or failed", style="dim")]
        found += [*_lines(one, sheet)][:room]
    return found


def _lines(one: Told, sheet: Sheet) -> Iterator[RenderableType]:
    place = " ".join(part for part in (one.arm, one.seed.replace("-", " ")) if part)
    sign = (f"{sheet.signs[one.state]} {one.what}", STYLES[one.state])
    reason = " ".join(one.reason.split())
    if one.state == "failed":
        yield sheet.line(sign, f"  {place}: {reason}")
        return
    bar = progress(one.writer.state) if one.writer is not None else None
    row: list[RenderableType] = [Text.assemble(sign, f"  {place}")]
    if bar is None:
        row.append(Text(reason or ("" if one.seconds is None else duration(one.seconds))))
    else:
        of = f" of {bar['total']:,}" if bar["total"] else ""
        left = "" if bar["left_seconds"] is None else f"  {duration(bar['left_seconds'])} left"
        if sheet.width >= WIDE and bar["total"] and not sheet.plain:
            row.append(ProgressBar(total=bar["total"], completed=bar["done"], width=BAR))
        row.append(Text(f"{bar['what']} {bar['done']:,}{of}  {bar['per_second']:.3g}/s{left}"))
    table = sheet.table(len(row))
    table.add_row(*row)
    yield table
    own, learns = training(one.training)
    curve = "" if sheet.plain else _curve(one.training.get("losses", ()), sheet.width)
    yield from sheet.joined([f"{own}{curve}" if own else "", learns], "    ", "italic")


def _curve(losses: Iterable[float], width: int) -> str:
    """Losses of the last steps; nothing where they are all the same."""
    found = [loss for loss in losses if math.isfinite(loss)]
    found = found if width >= WIDE else found[-NARROW:]
    low, high = min(found, default=0.0), max(found, default=0.0)
    if not high > low:
        return ""
    steps = (round((one - low) / (high - low) * (len(CURVE) - 1)) for one in found)
    return f" {''.join(CURVE[step] for step in steps)}"


def _foot(look: Look, sheet: Sheet, passed: float | None) -> Iterator[Text]:
    parts = [] if passed is None else [f"{duration(passed)} so far"]
    if (found := time_left.left(look)) is not None:
        about = "at least" if found.unknown else "about"
        some = f"{found.unknown} cell{'s' * (found.unknown > 1)}"
        without = f" (without {some} of a new kind)" if found.unknown else ""
        parts.append(f"{about} {duration(found.seconds)} left{without}")
    if look.spent is not None:
        parts.append(f"teachers ${look.spent.usd:.2f}")
        if look.spent.requests or look.spent.bought:
            parts.append(f"{look.spent.requests:,} requests, {look.spent.bought:,} answers bought")
    if failed := sum(look.failures.values()):
        parts.append(f"{failed:,} draws failed")
    yield from sheet.joined(parts)
