"""Kernels written in Triton run on a CPU in its interpreter; with a GPU the tests in tests/gpu/ run them."""

import os

import pytest


@pytest.fixture(scope="session")
def interpreted() -> None:
    """Skips a test where Triton compiles for a GPU (tests/conftest.py chooses)."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton compiles for a GPU in this process")
