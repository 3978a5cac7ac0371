"""A storage that behaves like an object store, on a folder."""

from pathlib import Path

import pytest
from pyarrow import fs

from jobs.storage.blobs import RemoteBlobs


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
