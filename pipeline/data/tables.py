"""Tables between the stages: of one declared schema each, written atomically, read strictly.

Values, row order and writer settings are deterministic, so equal inputs give equal bytes. The
tables of a cell of several steps have a column `step` more, which is read only where it is named.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core import verified
from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.data import parquet
from pipeline.data.schemas import STEP

REMEDY = "Run `omniopd verify --repair`, which restores it, or says which cell to rerun."
ROWS_PER_GROUP = 1024  # rows in a row group: what a streaming reader holds at once


def read(path: str | Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """The whole table, or some of its columns.

    Raises UserError if the file is missing, damaged, or another table.
    """
    path = Path(path)
    file = _open(path, schema)
    try:
        table = file.read(columns=columns or schema.names)
    except parquet.BROKEN as error:
        raise _damaged(path, error) from error
    return _cast(table, path, schema)


def stream(
    path: str | Path,
    schema: pa.Schema,
    columns: list[str] | None = None,
    most: int | None = None,
) -> Iterator[pa.Table]:
    """The table, or some of its columns, by row groups: memory does not grow with it.

    With `most`, at most so many rows at a time, decoded as they are asked for.
    """
    path = Path(path)
    file = _open(path, schema)
    for index in range(file.num_row_groups):
        try:
            for part in _parts(file, index, columns or schema.names, most):
                yield _cast(part, path, schema)
        except parquet.BROKEN as error:
            raise _damaged(path, error) from error
        pa.default_memory_pool().release_unused()  # or what stays behind adds up over many groups


def _parts(
    file: parquet.File, index: int, columns: list[str], most: int | None
) -> Iterator[pa.Table]:
    """A row group."""
    if most is None:  # on one thread, as there
        yield file.read_row_group(index, columns=columns, use_threads=False)
        return
    for batch in parquet.batches(file, most, index, columns):
        yield pa.Table.from_batches([batch])


def merge(paths: Sequence[Path], out: Path, schema: pa.Schema) -> None:
    """One table of those of several steps, with column `step` after the others; by row group."""
    with writer(out, schema.append(STEP)) as merged:
        for step, path in enumerate(paths, 1):
            for group in stream(path, schema):
                steps = pa.repeat(pa.scalar(step, STEP.type), len(group))
                merged.write_table(group.append_column(STEP, steps), row_group_size=ROWS_PER_GROUP)


def split(path: Path, step: int, out: Path, schema: pa.Schema) -> None:
    """The rows of one step of a merged table as a table of their own."""
    import pyarrow.compute as pc

    with writer(out, schema) as own:
        for group in stream(path, schema, [*schema.names, STEP.name]):
            own.write_table(group.filter(pc.equal(group[STEP.name], step)).select(schema.names))


def rows(path: str | Path, schema: pa.Schema) -> int:
    """Number of rows, from the footer alone."""
    return int(_open(Path(path), schema).metadata.num_rows)


def write(table: pa.Table, path: str | Path, schema: pa.Schema) -> None:
    """Write `table` to `path` whole or not at all."""
    with writer(path, schema) as out:
        out.write_table(table.select(schema.names).cast(schema), row_group_size=ROWS_PER_GROUP)


def parts(rows: Iterable[dict[str, Any]], schema: pa.Schema, most: int = 128) -> Iterator[pa.Table]:
    """Rows as tables of at most so many: as lists they take ten times the memory."""
    rest = iter(rows)
    while block := list(itertools.islice(rest, most)):
        yield pa.Table.from_pylist(block, schema=schema)


@contextmanager
def growing(path: str | Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A function that adds rows. The file is that which `write` makes of all of them at once.

    At most a row group is held, beside what is being added.
    """
    with writer(path, schema) as out:
        held, empty = schema.empty_table(), True

        def add(table: pa.Table) -> None:
            nonlocal held, empty
            held = pa.concat_tables([held, table.select(schema.names).cast(schema)])
            whole = len(held) - len(held) % ROWS_PER_GROUP
            if whole:
                found = held.slice(0, whole).combine_chunks()
                out.write_table(found, row_group_size=ROWS_PER_GROUP)
                held, empty = held.slice(whole).combine_chunks(), False

        yield add
        if len(held) or empty:
            out.write_table(held.combine_chunks(), row_group_size=ROWS_PER_GROUP)


@contextmanager
def writer(path: str | Path, schema: pa.Schema) -> Iterator[parquet.Writer]:
    """A Parquet writer whose file appears under `path` only when the block ends well."""
    with (
        replacing(Path(path)) as temporary,
        parquet.writing(temporary, schema) as out,
    ):
        yield out


def _open(path: Path, schema: pa.Schema) -> parquet.File:
    if not path.is_file():
        raise UserError(f"{path}: no such table. Run `dvc repro` to make it, or check the path.")
    verified.once(path)
    try:
        file = parquet.opened(path, pre_buffer=False)
    except parquet.BROKEN as error:
        raise UserError(f"{path}: not a whole Parquet file ({error}). {REMEDY}") from error
    found = file.schema_arrow
    if len(set(found.names)) < len(found.names):
        twice = sorted({name for name in found.names if found.names.count(name) > 1})
        raise UserError(
            f"{path}: found the columns {twice} twice, wanted each once. Rerun the stage that "
            "wrote it."
        )
    missing = [name for name in schema.names if name not in found.names]
    extra = [name for name in found.names if name not in (*schema.names, STEP.name)]
    if missing or extra:
        raise UserError(
            f"{path}: wrong table; missing {missing}, unexpected {extra}. "
            "Rerun the stage that wrote it, or pass the right table."
        )
    for field in schema:
        if _kind(found.field(field.name).type) != _kind(field.type):
            raise UserError(
                f"{path}: column {field.name} is {found.field(field.name).type}, "
                f"wanted {field.type}. Rerun the stage that wrote it."
            )
    return file


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: damaged Parquet file ({error}), wanted a whole one. {REMEDY}")


def _kind(type_: pa.DataType) -> str:
    """Types that cast into each other without loss of meaning: int64 written by pandas is fine."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"list of {_kind(type_.value_type)}"
    if pa.types.is_integer(type_):
        return "integer"
    if pa.types.is_floating(type_):
        return "float"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "string"
    return str(type_)


def _cast(table: pa.Table, path: Path, schema: pa.Schema) -> pa.Table:
    fields = schema.append(STEP)
    wanted = pa.schema([fields.field(name) for name in table.column_names])
    try:
        return table.cast(wanted)
    except ValueError as error:  # ArrowInvalid: out of range, or a null where none may be
        raise UserError(
            f"{path}: {error}, wanted values of its column's type. Rerun the stage that wrote it."
        ) from error
