"""Reads what a checkpoint holds without running any of it.

Digests prove that files are as they were written, not who wrote them. Pickled data can call any function when it is
read. So a rank's state is read by torch's restricted reader, the metadata of the sharded tensors by one with a list of
the few classes that torch writes there, and of the sharded entries only tensors are read, from files of the checkpoint.
"""

import contextlib
import io
import os
import pickle
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.serialization import _get_layout

_KINDS = (
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
    TensorProperties,
    ChunkStorageMetadata,
    _MEM_FORMAT_ENCODING,
    _StorageInfo,
    torch.Size,
)
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
# What numpy's arrays are made of; checkpoints of earlier versions hold some.
_NUMPY: list[Any] = [
    *((np.zeros(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.uint16, np.uint32, np.int32, np.int64)),
]


class UntrustedError(Exception):
    """Stored bytes that are not what a checkpoint of this project holds."""


def _path_text(*parts: str) -> str:
    """Takes the place of a path, of which nothing is needed."""
    return "/".join(map(str, parts))


_ALLOWED: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__qualname__): kind for kind in _KINDS},
    **{("torch", name): value for name, value in _DTYPES.items()},
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    **{(module, kind): _path_text for module in ("pathlib", "pathlib._local") for kind in ("PosixPath", "WindowsPath")},
}


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes of a checkpoint's metadata and no others."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise UntrustedError(f"it asks for {module_name}.{global_name}, which no checkpoint needs") from None


class TensorReader(FileSystemReader):
    """Reads sharded tensors from the files of a checkpoint, and nothing else."""

    def __init__(self, folder: Path, files: Collection[str]) -> None:
        super().__init__(folder)
        self._folder, self._files = folder, files

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What `FileSystemReader` reads, checked. Raises UntrustedError for what is no such thing."""
        path = self._folder / ".metadata"
        try:
            metadata = _MetadataUnpickler(io.BytesIO(plain_bytes(path))).load()
        except UntrustedError as error:
            raise UntrustedError(f"{path}: {error}") from None
        except Exception as error:  # bytes that are no pickle fail in any way
            raise UntrustedError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
        reason = _what_is_wrong(metadata, self._files)
        if reason is not None:
            raise UntrustedError(f"{path}: {reason}")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


def _what_is_wrong(metadata: Any, files: Collection[str]) -> str | None:
    entries, places = getattr(metadata, "state_dict_metadata", None), getattr(metadata, "storage_data", None)
    if not isinstance(metadata, Metadata) or not isinstance(entries, dict) or not isinstance(places, dict):
        return "it is no metadata of a checkpoint"
    for name, entry in entries.items():
        if not isinstance(entry, TensorStorageMetadata):
            return f"entry {name!r} is {type(entry).__name__}, not a tensor"
    for place in places.values():
        name = getattr(place, "relative_path", None)
        if not isinstance(place, _StorageInfo) or not isinstance(name, str) or name not in files:
            return f"it leads to {str(name)[:80]!r}, which is no file of this checkpoint"
        if getattr(place, "transform_descriptors", None):
            return "it asks for a transformation of what is stored"
        offset, length = getattr(place, "offset", None), getattr(place, "length", None)  # it can lack any of them
        if not all(type(number) is int and number >= 0 for number in (offset, length)):
            return f"a part of {name} begins at {offset!r} and has {length!r} bytes"
    return None


def load_rank_state(path: Path) -> tuple[dict[int, Any], dict[str, Any]]:
    """Lanes and random states of one rank. Raises UntrustedError for what is no such thing."""
    content = io.BytesIO(plain_bytes(path))
    try:
        with torch.serialization.safe_globals(_NUMPY):
            state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no archive of torch fail in any way
        first_line = str(error).strip().partition("\n")[0]
        raise UntrustedError(f"{path} cannot be read: {type(error).__name__}: {first_line}") from None
    lanes, random_states = (state.get(name) if isinstance(state, dict) else None for name in ("lanes", "random"))
    if not isinstance(lanes, dict) or not isinstance(random_states, dict):
        raise UntrustedError(f"{path} holds no lanes and random states")
    if not all(type(number) is int for number in lanes):
        raise UntrustedError(f"{path} names lanes {sorted(map(repr, lanes))[:3]}, which are no numbers")
    return with_arrays(lanes), random_states


def with_tensors(value: Any) -> Any:
    """Plain values with tensors in the place of numpy's arrays, which the restricted reader does not know."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: with_tensors(item) for key, item in value.items()}
    return value


def with_arrays(value: Any) -> Any:
    """The inverse of `with_tensors`."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: with_arrays(item) for key, item in value.items()}
    return value


def plain_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises UntrustedError for a link or anything else, OSError if it is not there."""
    descriptor = open_plain(path)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def open_plain(path: Path) -> int:
    """A descriptor of a regular file, to read. Raises UntrustedError for a link or anything else."""
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise UntrustedError(f"{path} is a link, which no file of a checkpoint is")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would be waited for
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UntrustedError(f"{path} is no regular file")
    return descriptor
