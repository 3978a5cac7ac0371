"""An S3 server on loopback, in this process."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

BUCKET = "bucket"


@contextmanager
def counted_requests() -> Iterator[list[tuple[str, str]]]:
    """Method and path of every request that reaches a server of this process meanwhile."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    asked: list[tuple[str, str]] = []
    answer = DomainDispatcherApplication.__call__

    def counting(app: Any, environ: dict[str, Any], start: Any) -> Any:
        asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return answer(app, environ, start)

    with patch.object(DomainDispatcherApplication, "__call__", counting):
        yield asked


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serves an empty bucket; gives the environment that leads to it, which is set meanwhile."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "canary-of-s3",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with patch.dict(os.environ, environment):
            from pyarrow import fs

            system, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}/x?allow_bucket_creation=true")
            system.create_dir(BUCKET)
            yield environment
    finally:
        server.stop()
