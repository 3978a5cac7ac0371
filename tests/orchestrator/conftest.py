"""A world for a supervisor, and an MLflow database that need not be migrated."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from supervised import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """In which a supervisor runs jobs that end as the test says."""
    return World(monkeypatch, str(tmp_path))


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: making one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def put_database(fresh_database: Path) -> Callable[[Path], None]:
    """`put_database(folder)`: a storage there tracks into a database that is there already."""

    def put(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(fresh_database, folder / "mlflow.db")

    return put
