"""A store of version 2 that is only read: somebody else's, whose release may be an older one."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pipeline.core.errors import UserError
from pipeline.judgments.earlier import layout
from pipeline.judgments.opened import CHUNK, OpenDatabase
from pipeline.judgments.retries import RESTORE
from pipeline.judgments.schema import Judgment


class EarlierStore:
    """Use it as a context manager. Raises UserError for damage."""

    def __init__(self, database: OpenDatabase) -> None:
        self.database, self.name = database, database.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.database.close()

    def stream(self) -> Iterator[list[Judgment]]:
        """All answers, each held against its checksum and its key, a chunk at a time."""
        for rows in layout.stream(self.database, CHUNK):
            yield [self._judgment(row) for _, row in rows]

    def _judgment(self, row: tuple[object, ...]) -> Judgment:
        try:
            return layout.judgment(row)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.name}: the answer {str(row[0])[:12]} of {row[2]} {row[3]} is damaged: "
                f"{error}. {RESTORE}"
            ) from error
