"""A storage that behaves like an object store, on a folder."""

import secrets
from pathlib import Path

import pytest
from pyarrow import fs
from s3 import BUCKET, s3_server

from slimctl.jobs.storage.blobs import RemoteBlobs


class ObjectStore:
    """pyarrow's local file system, with S3's habit of making folders out of names."""

    def __init__(self, inner):
        self._inner = inner
        self.reads = []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def open_output_stream(self, path):
        self._inner.create_dir(path.rpartition("/")[0], recursive=True)
        return self._inner.open_output_stream(path)

    def open_input_file(self, path):
        if not Path(path).is_file():
            raise FileNotFoundError(path)  # there are no folders to find
        self.reads.append(path)
        return self._inner.open_input_file(path)


@pytest.fixture
def remote(tmp_path):
    """Blobs that the program takes for remote."""
    blobs = RemoteBlobs((tmp_path / "bucket").as_uri())
    assert isinstance(blobs._fs, fs.LocalFileSystem)
    blobs._fs = ObjectStore(blobs._fs)
    blobs._cache = tmp_path / "copies"
    return blobs


@pytest.fixture(scope="package")
def s3_environment():
    """A real S3 protocol on loopback."""
    with s3_server() as environment:
        yield environment


@pytest.fixture
def s3(s3_environment, tmp_path):
    """A fresh folder of an S3 bucket."""
    blobs = RemoteBlobs(f"s3://{BUCKET}/{secrets.token_hex(8)}")
    blobs._cache = tmp_path / "copies of s3"
    return blobs
