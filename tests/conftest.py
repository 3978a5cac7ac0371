"""Switches on shape checks for `models` and finds the optional development data."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

_hook = install_import_hook("slimctl.models", "beartype.beartype")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images and reference outputs, where the environment names one."""
    folder = os.environ.get("SLIMCTL_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SLIMCTL_TEST_DATA names no folder with the development data")
    return Path(folder)
