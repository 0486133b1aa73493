"""pyarrow, loaded on first use: it takes a quarter of a second, and most commands on local storage never need it.

The library has no type stubs, so its modules are handed out as Any here, once, and not import by import.
"""

import importlib
from typing import Any


def arrow() -> Any:
    """The module `pyarrow`."""
    return importlib.import_module("pyarrow")


def arrow_fs() -> Any:
    """The module `pyarrow.fs`."""
    return importlib.import_module("pyarrow.fs")


def arrow_parquet() -> Any:
    """The module `pyarrow.parquet`."""
    return importlib.import_module("pyarrow.parquet")


def arrow_json() -> Any:
    """The module `pyarrow.json`."""
    return importlib.import_module("pyarrow.json")


def arrow_compute() -> Any:
    """The module `pyarrow.compute`."""
    return importlib.import_module("pyarrow.compute")


def arrow_ipc() -> Any:
    """The module `pyarrow.ipc`."""
    return importlib.import_module("pyarrow.ipc")
