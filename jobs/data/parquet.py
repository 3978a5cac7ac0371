"""Reads tables of encoded images, Parquet or Arrow: how image data sets are usually published.

A column `image` (or `img`) holds the bytes of the files, plain or as struct(bytes, path); a column
`label` (or `labels`, or the one that the user names) holds whole numbers. Labels are checked before
an image is decoded.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slimctl.jobs.base.errors import UserError, listed
from slimctl.jobs.data.arrow_files import column_pieces, schema_of
from slimctl.jobs.data.collect import BATCH, Item, gather
from slimctl.jobs.data.label_files import LABEL_COLUMNS, no_column
from slimctl.jobs.data.loaded import LoadedImages, check_classes, check_labels
from slimctl.jobs.data.pixels import PixelRules
from slimctl.jobs.data.source import ImageSource

IMAGE_COLUMNS = ("image", "img")


class Table(NamedTuple):
    """One file, looked at but not read."""

    path: Path
    rows: int
    """Number of rows to read, from the first."""
    image_column: str
    label_column: str | None
    class_names: tuple[str, ...]
    """From the metadata of Hugging Face's `datasets`; () = it says nothing of classes."""
    label_columns: tuple[str, ...]
    """Columns that could be the labels, by their names; () = `label_column` is known."""


def read_parquet(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    """Reads the first `max_images` rows of the files, in the order of their names.

    Raises:
        UserError: a file is damaged or has no images, files disagree, or images or labels are bad.
    """
    where = str(source.root)
    tables = [look(path, source.label) for path in source.files]
    total = sum(table.rows for table in tables)
    if not total:
        raise UserError(where, "holds no rows", "name a file with images")
    tables = first_tables(tables, total if max_images is None else max_images)
    count = sum(table.rows for table in tables)
    found = table_labels(tables, where, cut=count < total) if labels else None
    items = (item for table in tables for item in table_items(table, range(table.rows)))
    gathered = gather(items, count, rules, where)
    names = tables[0].class_names if found is not None else ()
    loaded = LoadedImages(gathered.images, found, names, None, source.words)
    return loaded.only(gathered)._replace(label_columns=tables[0].label_columns)


def label_columns(source: ImageSource) -> tuple[str, ...]:
    """Columns that could be the labels where there are none under the usual names.

    Raises:
        UserError: the first file is damaged, has no images, or no column that the user names.
    """
    return look(source.files[0], source.label).label_columns


def look(path: Path, label: str | None) -> Table:
    """What a file holds, by its schema.

    Raises:
        UserError: it is damaged, has no images, or no column that the user names.
    """
    schema, rows = schema_of(path)
    image_column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if image_column is None or not _holds_bytes(schema.field(image_column).type):
        columns = (f"{field.name}: {field.type}" for field in schema)
        raise UserError(
            str(path),
            f"has no column `image` of encoded images; it has {listed(columns, len(schema))}",
            "name the column image; its type is binary, or a struct with a binary field bytes",
        )
    others = [name for name in schema.names if name != image_column]
    if label is not None and label not in others:
        raise no_column(str(path), label, others)
    usual = (name for name in LABEL_COLUMNS if name in schema.names)
    label_column = label or next(usual, None)
    names = _class_names(schema.metadata or {}, label_column)
    likely = tuple(
        name
        for name in others
        if ("label" in name.lower() or "class" in name.lower())
        and pa.types.is_integer(schema.field(name).type)
    )
    return Table(path, rows, image_column, label_column, names, () if label_column else likely)


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _class_names(metadata: dict[bytes, bytes], label_column: str | None) -> tuple[str, ...]:
    """The names that Hugging Face's `datasets` stores in {info: {features: {label: {names}}}}."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError):
        # The names are an extra of one library: a file without them, or with others, is complete.
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def first_tables(tables: Sequence[Table], count: int) -> list[Table]:
    """The tables that hold the first `count` rows, the last one cut."""
    chosen = []
    for table in tables:
        rows = min(table.rows, count)
        if rows:
            chosen.append(table._replace(rows=rows))
        count -= rows
    return chosen


def table_labels(tables: Sequence[Table], where: str, *, cut: bool) -> NDArray[np.int64] | None:
    """Labels of all rows; None = there are none.

    Args:
        tables: the files.
        where: the source, as an error names it.
        cut: whether `max_images` left rows out.

    Raises:
        UserError: files disagree, or a label is no number of a class.
    """
    without = [table.path.name for table in tables if table.label_column is None]
    if len(without) == len(tables):
        return None
    if without:
        raise UserError(
            where,
            f"{len(without):,} of {len(tables):,} files have no column `label`: "
            f"{listed(without, len(without))}",
            "name files that all have labels, or set labels: false",
        )
    names = tables[0].class_names
    other = [table.path.name for table in tables if table.class_names != names]
    if other:
        raise UserError(
            where,
            f"{listed(other, len(other))} has other class names than {tables[0].path.name}",
            "name files of one data set, or set labels: false",
        )
    labels = np.concatenate([_labels_of(table) for table in tables])
    check_classes(labels, names, where, cut=cut)
    return labels


def _labels_of(table: Table) -> NDArray[np.int64]:
    assert table.label_column is not None
    values = list(column_pieces(table.path, table.label_column, range(table.rows), BATCH))
    kind = values[0].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UserError(
            str(table.path),
            f"column `{table.label_column}` holds {kind}, not whole numbers",
            "number the classes 0, 1, 2, ..., or set labels: false",
        )
    column = np.concatenate([value.to_numpy(zero_copy_only=False) for value in values])
    return check_labels(column, table.class_names, str(table.path))


def table_items(table: Table, rows: range) -> Iterator[Item]:
    """The images of some rows of a file."""
    row = rows.start
    for piece in column_pieces(table.path, table.image_column, rows, BATCH):
        for value in piece.to_pylist():
            encoded = value.get("bytes") if isinstance(value, dict) else value
            # No bytes at all are as bad as damaged ones, and are reported along with them.
            yield Item(f"{table.path.name} row {row}", encoded or b"")
            row += 1
