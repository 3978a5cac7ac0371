"""Pieces of a table of encoded images: an Arrow file of Hugging Face's `datasets`, or Parquet.

`datasets` writes Arrow's stream format without compression, so that a mapping of the file gives
any row without reading the others. Every piece of an Arrow file is checked before it is used: its
numbers say where each image is, and false ones would read other memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from slimctl.jobs.base.errors import UserError

ARROW = ".arrow"
GROUP_LIMIT = 2**30
"""Bytes of the largest piece of a column that has to be in memory at once."""


def schema_of(path: Path) -> tuple[Any, int]:
    """The schema of a file, and its number of rows.

    Raises:
        UserError: it is damaged.
    """
    with _refused(path):
        if path.suffix != ARROW:
            with pq.ParquetFile(path) as file:
                return file.schema_arrow, file.metadata.num_rows
        rows = sum(batch.num_rows for batch in _arrow_batches(path))
        return _arrow_schema(path), rows


def column_pieces(path: Path, column: str, rows: range, size: int) -> Iterator[Any]:
    """Some rows of a column, as arrays of up to `size`.

    Raises:
        UserError: the file is damaged.
    """
    with _refused(path):
        pieces = _arrow_column if path.suffix == ARROW else _parquet_column
        first = 0
        for piece in pieces(path, column, rows, size):
            length = len(piece)
            begin, end = max(rows.start - first, 0), min(rows.stop - first, length)
            if begin < end:
                yield piece.slice(begin, end - begin)
            first += length
            if first >= rows.stop:
                return


def _arrow_column(path: Path, column: str, rows: range, size: int) -> Iterator[Any]:
    first = 0
    for batch in _arrow_batches(path):
        array = batch.column(column)
        if first + len(array) > rows.start:
            array.validate(full=True)
        for begin in range(0, len(array), size):
            yield array.slice(begin, size)
        first += len(array)


def _parquet_column(path: Path, column: str, rows: range, size: int) -> Iterator[Any]:
    """Row groups before the rows are not read; their length is known, so nulls stand for them."""
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            last = first + about.num_rows
            if last <= rows.start:
                yield pa.nulls(about.num_rows)
            elif first < rows.stop:
                _check_group(file, group, column, path)
                for batch in file.iter_batches(size, row_groups=[group], columns=[column]):
                    yield batch.column(0)
            first = last


def _check_group(file: Any, group: int, column: str, path: Path) -> None:
    """Refuses what would not fit into memory, before it is unpacked."""
    about = file.metadata.row_group(group)
    sizes = [
        about.column(number).total_uncompressed_size
        for number in range(about.num_columns)
        if about.column(number).path_in_schema.split(".")[0] == column
    ]
    if sum(sizes) > GROUP_LIMIT:
        what = f"has {sum(sizes):,} bytes of `{column}` in row group {group}, unpacked"
        raise UserError(str(path), what, f"write it with row groups below {GROUP_LIMIT:,} bytes")


def _arrow_schema(path: Path) -> Any:
    with pa.memory_map(str(path)) as mapped:
        return _reader(mapped).schema


def _arrow_batches(path: Path) -> Iterator[Any]:
    with pa.memory_map(str(path)) as mapped:
        reader = _reader(mapped)
        if isinstance(reader, ipc.RecordBatchFileReader):
            yield from map(reader.get_batch, range(reader.num_record_batches))
        else:
            yield from reader


def _reader(mapped: Any) -> Any:
    """Of the stream format, which `datasets` writes, or of the file format."""
    if mapped.read(6) == b"ARROW1":
        mapped.seek(0)
        return ipc.open_file(mapped)
    mapped.seek(0)
    return ipc.open_stream(mapped)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What pyarrow says of a damaged file, as our error."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        kind = "Arrow" if path.suffix == ARROW else "Parquet"
        what = f"is no readable {kind} file: {reason}"
        raise UserError(str(path), what, "fetch the file again") from error
