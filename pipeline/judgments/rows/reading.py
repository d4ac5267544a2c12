"""Answers read from an open store: by request, or all of them. Each is held against its checksum.

A look-up takes a prefix by prompt and settings and its answers by id: two queries for a chunk.
"""

import functools
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments.keys import Request
from pipeline.judgments.opened import CHUNK, OpenDatabase
from pipeline.judgments.retries import DAMAGED
from pipeline.judgments.rows import lookup, named, packed, places
from pipeline.judgments.rows.lookup import Wanted
from pipeline.judgments.rows.named import Settings
from pipeline.judgments.schema import ANSWERS, NO_SEED, PLACE, PREFIXES, SAMPLE_BITS, Judgment

_PLACE = [PREFIXES.c[name] for name in PLACE]
PREFIX = [PREFIXES.c.id, *_PLACE, PREFIXES.c.answers]
UNSUMMED = "its checksum is not that of its answer"
HOMELESS = "it continues no prefix that is there"
WRONG = (ValueError, TypeError, struct.error)  # what reading a damaged row raises


class Prefix(NamedTuple):
    """A row of prefixes."""

    id: int
    settings: int
    prompt: bytes
    attempt: int
    first_seed: int
    token_limit: int
    answers: int


class Reader:
    """The answers of one open store; threads may share it. Raises UserError for damaged ones."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self.settings, self.outcomes = named.settings(database), named.outcomes(database)
        self._keys = functools.lru_cache(maxsize=1024)(self._made_keys)

    def find(self, requests: Sequence[Request], limit: int) -> Iterator[Judgment]:
        """The answers that serve `limit` tokens, in the order of the requests."""

        def smallest(connection: sa.Connection) -> dict[int, tuple[Sequence[Any], Settings]]:
            best: dict[int, tuple[Sequence[Any], Settings]] = {}  # the row with the smallest limit
            for (number, attempt), wanted in self._wanted(requests).items():
                asked = self.settings.value(number)
                for row in lookup.serving(connection, number, attempt, limit, wanted):
                    n = row[0]
                    if n not in best or row[1] < best[n][0][1]:
                        best[n] = row, asked
            return best

        best = self._database.read(smallest)
        for n, request in enumerate(requests):
            if n in best:
                (_, token_limit, *row), asked = best[n]
                place = (request.prompt_hash, request.attempt, request.seed)
                try:
                    found = self._judgment(request.key, asked, place, token_limit, row)
                except WRONG as error:
                    what = _name(request.key, asked)
                    raise self._damaged(what, str(error)) from error
                yield found

    def known(self, connection: sa.Connection, requests: Sequence[Request], limit: int) -> set[str]:
        """Keys of those that have an answer which serves `limit` tokens, within a transaction."""
        return {
            requests[n].key
            for (number, attempt), wanted in self._wanted(requests, connection).items()
            for (n,) in lookup.serving(connection, number, attempt, limit, wanted, "w.n")
        }

    def check(self, requests: Iterable[Request]) -> None:
        """Raise UserError where damage may hide answers to these: a prefix of theirs that has
        another number of answers than were stored, or one that is not what it was."""
        prompts: dict[int, set[bytes]] = {}
        for (number, _), wanted in self._wanted(requests).items():
            prompts.setdefault(number, set()).update(prompt for _, prompt, *_ in wanted)
        for number, some in sorted(prompts.items()):
            where = (PREFIXES.c.settings == number, PREFIXES.c.prompt.in_(sorted(some)))
            for row in self._database.rows(sa.select(*PREFIX).where(*where)):
                self.answers(Prefix._make(row))

    def answers(self, prefix: Prefix) -> list[Judgment]:
        """All answers of a prefix, in the order of the samples. Raises UserError, also where there
        are fewer or more than were stored."""
        while True:
            found = [self._whole(prefix, row) for row in self._rows(prefix.id)]
            if len(found) == prefix.answers:
                return found
            now = self.prefix(prefix.id)
            if now is None or now.answers == prefix.answers:  # nobody has added to it meanwhile
                asked = self.settings.value(prefix.settings)
                raise UserError(
                    f"{self._database.name}: damaged: found {len(found)} answers to prompt "
                    f"{prefix.prompt.hex()[:12]} of {asked.provider} {asked.model}, wanted the "
                    f"{prefix.answers} that were stored. {DAMAGED}"
                )
            prefix = now

    def stream(self) -> Iterator[list[Judgment]]:
        """All answers as they lie, a chunk at a time."""
        for rows, prefixes in self.raw():
            for row in rows:
                if places.parted(row[0])[0] not in prefixes:
                    raise self._damaged(self.name(None, row), HOMELESS)
            yield [self._whole(prefixes[places.parted(row[0])[0]], row) for row in rows]

    def raw(self) -> Iterator[tuple[Sequence[sa.Row[Any]], dict[int, Prefix]]]:
        """All rows as they lie and their prefixes by id, a chunk at a time; nothing is checked."""
        last = -(2**63)
        query = sa.select(ANSWERS).order_by(ANSWERS.c.id).limit(CHUNK)
        while rows := self._database.rows(query.where(ANSWERS.c.id > last)):
            last = rows[-1][0]
            ids = sorted({places.parted(row[0])[0] for row in rows})
            found = self._database.rows(sa.select(*PREFIX).where(PREFIXES.c.id.in_(ids)))
            yield rows, {row[0]: Prefix._make(row) for row in found}

    def ordered(self, without: Collection[str] = ()) -> Iterator[list[Judgment]]:
        """All answers but those of some providers, in an order that is their own: by settings,
        prompt, attempt, seed, limit and sample. So equal stores give equal ones."""
        chunk: list[Judgment] = []
        asked = self.settings.all().items()
        for number, settings in sorted(asked, key=lambda item: named.digest(item[1])):
            for prefix in () if settings.provider in without else self._of_settings(number):
                chunk += self.answers(prefix)
                if len(chunk) >= CHUNK:
                    yield chunk
                    chunk = []
        if chunk:
            yield chunk

    def prefix(self, number: int) -> Prefix | None:
        """A prefix as it is now."""
        rows = self._database.rows(sa.select(*PREFIX).where(PREFIXES.c.id == number))
        return Prefix._make(rows[0]) if rows else None

    def _of_settings(self, number: int) -> Iterator[Prefix]:
        order, last = _PLACE[1:], (b"", 0, 0, 0)
        query = sa.select(*PREFIX).where(PREFIXES.c.settings == number).order_by(*order)
        while rows := self._database.rows(query.where(sa.tuple_(*order) > last).limit(CHUNK)):
            found = [Prefix._make(row) for row in rows]
            last = found[-1][2:6]
            yield from found

    def _wanted(
        self, requests: Iterable[Request], connection: sa.Connection | None = None
    ) -> dict[tuple[int, int], list[Wanted]]:
        """Where the answers to these would lie, by settings and attempt, each with its number among
        the requests; those whose settings the store does not know are left out."""
        numbers: dict[Settings, int | None] = {}
        found: dict[tuple[int, int], list[Wanted]] = {}
        last: Any = None
        for n, one in enumerate(requests):
            # neighbours mostly share the very object, and its JSON takes as long as all the rest
            here = (one.provider, one.model, one.continuation, id(one.sampler), one.epoch)
            if here != last:
                asked, last = places.settings(one), here
                if asked not in numbers:
                    numbers[asked] = self.settings.find(asked, connection)
                number = numbers[asked]
            if number is not None:
                sample, seed = one.sample, one.seed
                first = NO_SEED if seed is None else seed - sample
                wanted = (n, bytes.fromhex(one.prompt_hash), first, sample)
                found.setdefault((number, one.attempt), []).append(wanted)
        return found

    def _rows(self, prefix: int) -> Sequence[sa.Row[Any]]:
        first = prefix << SAMPLE_BITS
        here = ANSWERS.c.id.between(first, first + places.SAMPLES - 1)
        return self._database.rows(sa.select(ANSWERS).where(here).order_by(ANSWERS.c.id))

    def _whole(self, prefix: Prefix, row: Sequence[Any]) -> Judgment:
        try:
            return self.judgment(prefix, row)
        except WRONG as error:
            raise self._damaged(self.name(prefix, row), str(error)) from error

    def _damaged(self, what: str, why: str) -> UserError:
        return UserError(f"{self._database.name}: the answer {what} is damaged: {why}. {DAMAGED}")

    def name(self, prefix: Prefix | None, row: Sequence[Any]) -> str:
        """What an answer is called where it is told of, however damaged it is."""
        try:
            if prefix is not None:
                return _name(self.key(prefix, row), self.settings.value(prefix.settings))
        except (ValueError, UserError):
            pass
        return f"{row[0]:#x}"

    def key(self, prefix: Prefix, row: Sequence[Any]) -> str:
        """The key that the place of a row gives."""
        sample = places.parted(row[0])[1]
        keys = self._keys(prefix.settings, prefix.prompt, prefix.attempt)
        return keys.key(sample, places.seed(prefix.first_seed, sample))

    def _made_keys(self, settings: int, prompt: bytes, attempt: int) -> places.Keys:
        return places.Keys(self.settings.value(settings), prompt, attempt)

    def judgment(self, prefix: Prefix, row: Sequence[Any]) -> Judgment:
        """The answer in a row. Raises WRONG."""
        seed = places.seed(prefix.first_seed, places.parted(row[0])[1])
        place = (prefix.prompt.hex(), prefix.attempt, seed)
        asked = self.settings.value(prefix.settings)
        return self._judgment(self.key(prefix, row), asked, place, prefix.token_limit, row)

    def _judgment(
        self,
        key: str,
        asked: Settings,
        place: tuple[str, int, int | None],
        token_limit: int,
        row: Sequence[Any],
    ) -> Judgment:
        if packed.checksum(key, token_limit, row) != row[-1]:
            raise ValueError(UNSUMMED)
        id_, outcome, prompts, completions, seed_sent, usd, created_at, text, ids, _ = row
        how, (prompt, attempt, seed) = self.outcomes.value(outcome), place
        return Judgment(
            key,
            token_limit,
            asked.provider,
            asked.model,
            prompt,
            asked.continuation,
            asked.sampler,
            id_ & places.SAMPLES - 1,
            seed,
            attempt,
            asked.epoch,
            packed.unpacked_text(text),
            packed.unpacked_ids(ids),
            how.ended,
            how.finish_reason,  # type: ignore[arg-type]
            how.model_returned,
            prompts,
            completions,
            how.failure,
            how.requested_n,
            seed_sent,
            usd,
            created_at,
        )


def _name(key: str, asked: Settings) -> str:
    return f"{key[:12]} of {asked.provider} {asked.model}"
