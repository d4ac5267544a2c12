"""What was written, held against what it was written from."""

from collections.abc import Sequence

from pipeline.core.errors import UserError
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.rows import lookup, packed, places
from pipeline.judgments.rows.reading import WRONG, Prefix, Reader
from pipeline.judgments.schema import EARLIER, VERSION, Judgment

Group = tuple[int, int, int]  # settings, attempt and limit of answers that are asked for together


def check(database: OpenDatabase, reader: Reader, answers: Sequence[Judgment]) -> None:
    """Raise UserError unless the tables of today have each of these, as it is."""
    wanted: dict[Group, list[tuple[lookup.Wanted, Judgment]]] = {}
    for one in answers:
        asked = places.settings_of(one)
        number = reader.settings.number(asked)
        group = wanted.setdefault((number, one.attempt, one.token_limit), [])
        first = places.first_seed(one.seed, one.sample)
        place = (len(group), packed.prompt(one.prompt), first, one.sample)
        group.append((place, one._replace(sampler=asked.sampler)))  # written as all are
    for (number, attempt, limit), group in wanted.items():
        with database.reading() as connection:
            some = [place for place, _ in group]
            rows = lookup.serving(connection, number, attempt, limit, some)
        there = {row[0]: row for row in rows if row[1] == limit}
        for (n, prompt, first, _), one in group:
            prefix = Prefix(-1, number, prompt, attempt, first, limit, -1)
            if n not in there or _read(reader, prefix, there[n][2:]) != one:
                raise UserError(
                    f"{database.name}: the answer {one.key[:12]} is another one in version "
                    f"{VERSION} than in version {EARLIER}. Nothing was removed. Please report "
                    "this: it is a mistake in the program."
                )


def _read(reader: Reader, prefix: Prefix, row: Sequence[object]) -> Judgment | None:
    try:
        return reader.judgment(prefix, row)
    except WRONG:
        return None
