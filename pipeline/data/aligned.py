"""Tables of one round read side by side: forks, answers, scores and targets follow the rollouts.

Every stage writes its rows in the order of the rows that it read, so what belongs to a response
can be taken from the front of each table, and no more than a row group of each is held.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables

ROWS = 128  # responses whose tokens stand as Python lists at a time


def blocks(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The table by row groups, joined where one ends within a response."""
    held: pa.Table | None = None
    for group in tables.stream(path, schema, columns):
        if held is None or not len(held):
            held = group
        elif len(group) and group["rollout_id"][0] == held["rollout_id"][-1]:
            held = pa.concat_tables([held, group])
        else:
            yield held
            held = group
    if held is not None and len(held):
        yield held


def responses(path: Path, columns: list[str] | None = None, rows: int = ROWS) -> Iterator[pa.Table]:
    """The rollouts, so many at a time."""
    yield from tables.stream(path, schemas.ROLLOUTS, columns, rows)


class Side:
    """A table whose rows are taken from the front, response by response.

    `beside` says in errors what it is read beside, `stage` what made it.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, beside: str, columns: list[str] | None = None
    ) -> None:
        self.path, self.beside = path, beside
        self._groups = tables.stream(path, schema, columns)
        names = columns or schema.names
        self._empty = pa.schema([schema.field(name) for name in names]).empty_table()
        self._rest = self._empty

    def of(self, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
        """The next rows, as far as they are of the responses `ids`, in their order.

        Raises UserError for another order.
        """
        values = pc.unique(ids)
        found = [self._empty]
        while True:
            if not len(self._rest):
                group = next(self._groups, None)
                if group is None:
                    break
                self._rest = group
                continue
            end = pc.index(pc.is_in(self._rest["rollout_id"], values), False).as_py()
            taken = self._rest if end < 0 else self._rest.slice(0, end)
            found.append(taken)
            self._rest = self._rest.slice(len(taken))
            if end >= 0:
                break
        taken = pa.concat_tables(found).combine_chunks()
        order = pc.index_in(taken["rollout_id"], values).to_numpy()
        if (early := np.diff(order) < 0).any():
            raise self._wrong(taken["rollout_id"][int(np.argmax(early)) + 1].as_py())
        return taken

    def end(self) -> None:
        """Raise UserError if a row is left: of a response that `beside` has not, or not there."""
        while not len(self._rest):
            group = next(self._groups, None)
            if group is None:
                return
            self._rest = group
        raise self._wrong(self._rest["rollout_id"][0].as_py())

    def _wrong(self, name: str) -> UserError:
        return UserError(
            f"{self.path}: {name} is not among the {self.beside}, or not in their order, wanted "
            f"rows of these {self.beside} alone. Rerun its stage on them."
        )
