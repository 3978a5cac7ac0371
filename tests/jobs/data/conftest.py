"""Ways to make tiny images and sources."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def _encode(image, form="PNG", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def encode():
    """encode(image or array, format="PNG", **options) -> bytes of a file."""
    return _encode


@pytest.fixture
def colours():
    """Random colour images (n, height, width, 3)."""

    def make(count, height=6, width=6, seed=0):
        shape = (count, height, width, 3)
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    return make


@pytest.fixture
def write_parquet():
    """write_parquet(path, images, labels=None, names=None, ...) in the usual layout."""

    def write(path, images, labels=None, names=None, column="image", label_type=None):
        encoded = [image if isinstance(image, bytes | None) else _encode(image) for image in images]
        columns = {column: [{"bytes": data, "path": None} for data in encoded]}
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        fields = [pa.field(column, kind)]
        if labels is not None:
            columns["label"] = pa.array(labels, label_type)
            fields.append(pa.field("label", columns["label"].type))
        schema = pa.schema(fields)
        if names is not None:
            feature = {"names": names, "_type": "ClassLabel"}
            text = json.dumps({"info": {"features": {"label": feature}}})
            schema = schema.with_metadata({"huggingface": text})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=schema), path)
        return path

    return write
