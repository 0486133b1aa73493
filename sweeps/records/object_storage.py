"""Files as objects of a bucket: one request writes one, one request reads one.

So a reader gets all of one version, whatever a writer does meanwhile. `create` and `replace` let the store decide who
was first: of several writers exactly one succeeds. A request can take effect although its answer was lost, and then
fail at its repetition. Who must know puts something into the data that only he can have written, and reads it back.
"""

# Listings can be of Arrow's types too, which are not installed.
# pyright: reportUnknownMemberType=false

import contextlib
import errno
import re
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Version = Mapping[str, str]
"""What identifies an object's contents, and changes with them; equal contents can have equal versions."""

_PIECE_BYTES = 64 * 2**20  # of a download: what one request brings has to come within its time limit
_MIN_PART_BYTES, _MAX_PARTS = 8 * 2**20, 9_000  # of an upload
_NUM_AT_ONCE = 4
_SHORT = 300
_BODY = re.compile(r"<\?xml|<Error>")


class Outdated(OSError):
    """The object is not the version that was to be replaced: another writer was faster, or it is gone."""


class ObjectStorage:
    """The objects of a bucket below one prefix. Raises OSError for whatever the store does not do."""

    def __init__(self, bucket: "ObjectStore", base: str, uri: str = "") -> None:
        """`uri`: the prefix' address, by which errors name files."""
        self._bucket, self._base, self._uri = bucket, base.strip("/"), uri.rstrip("/")

    def read(self, rel: str) -> bytes:
        """Returns a whole file. Raises FileNotFoundError."""
        return self.read_version(rel)[0]

    def read_version(self, rel: str) -> tuple[bytes, Version]:
        """A whole file, and which version of it this is. Raises FileNotFoundError."""
        import obstore

        with self._errors_of(rel):
            found = obstore.get(self._bucket, self._at(rel))
            return bytes(found.bytes()), _version(found.meta)

    def write(self, rel: str, data: bytes, *, lasting: bool = True) -> None:
        """Replaces a file as a whole. It lasts either way."""
        self._put(rel, data, "overwrite")

    def create(self, rel: str, data: bytes) -> Version:
        """Writes a new file. Raises FileExistsError if there is one, also if an earlier try of this call wrote it."""
        return self._put(rel, data, "create")

    def replace(self, rel: str, data: bytes, version: Version) -> Version:
        """Replaces a file if it is that version. Raises Outdated if it is not, as `create` if this call was faster."""
        try:
            return self._put(rel, data, dict(version))
        except FileExistsError as error:  # how a store says that another write is under way
            raise Outdated(errno.ESTALE, "is being changed by another writer", error.filename) from None

    def upload(self, path: Path, rel: str) -> None:
        """Stores a file of this machine, of any size; it appears whole."""
        import obstore

        part_bytes = max(_MIN_PART_BYTES, path.stat().st_size // _MAX_PARTS + 1)
        with self._errors_of(rel):
            obstore.put(self._bucket, self._at(rel), path, chunk_size=part_bytes, max_concurrency=_NUM_AT_ONCE)

    def download(self, rel: str, path: Path) -> None:
        """Writes a file of any size to this machine, all of one version. Raises FileNotFoundError."""
        import obstore

        with self._errors_of(rel):
            meta = obstore.head(self._bucket, self._at(rel))
            with path.open("wb") as file:
                for begin in range(0, meta["size"], _PIECE_BYTES):
                    end = min(begin + _PIECE_BYTES, meta["size"])
                    piece = obstore.get(
                        self._bucket, self._at(rel), options={"range": (begin, end), "if_match": meta["e_tag"]}
                    )
                    for chunk in piece.stream():
                        file.write(chunk)

    def names(self, rel: str) -> list[str]:
        """Returns the names in a folder, none if it does not exist."""
        found = self._listed(rel)
        prefixes, objects = found["common_prefixes"], found["objects"]
        return [self._name(path, rel) for path in prefixes] + [self._name(m["path"], rel) for m in objects]

    def stamps(self, rel: str) -> dict[str, tuple[int, int]]:
        """Returns size and time of change of each file in a folder."""
        metas = self._listed(rel)["objects"]
        return {
            self._name(meta["path"], rel): (meta["size"], int(meta["last_modified"].timestamp() * 1e9))
            for meta in metas
        }

    def exists(self, rel: str) -> bool:
        """True for a file or a folder."""
        import obstore

        try:
            with self._errors_of(rel):
                obstore.head(self._bucket, self._at(rel))
        except FileNotFoundError:
            return bool(self.names(rel))
        return True

    def delete(self, rel: str) -> None:
        """Deletes a file if it exists."""
        import obstore

        with contextlib.suppress(FileNotFoundError), self._errors_of(rel):
            obstore.delete(self._bucket, self._at(rel))

    def delete_tree(self, rel: str) -> None:
        """Deletes a folder with everything in it if it exists."""
        import obstore

        with self._errors_of(rel):
            for metas in obstore.list(self._bucket, self._at(rel)):
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._bucket, [meta["path"] for meta in metas])

    def _put(self, rel: str, data: bytes, mode: Any) -> Version:
        import obstore

        with self._errors_of(rel):
            return _version(obstore.put(self._bucket, self._at(rel), data, mode=mode, use_multipart=False))

    def _listed(self, rel: str) -> Any:
        """What is directly in a folder, without the empty object of its own name that some programs make for it."""
        import obstore

        place = self._at(rel)
        with self._errors_of(rel):
            found = obstore.list_with_delimiter(self._bucket, place or None)
        return {**found, "objects": [meta for meta in found["objects"] if meta["path"] != place]}

    def _name(self, path: str, rel: str) -> str:
        return path.removeprefix(self._at(rel)).strip("/")

    def _errors_of(self, rel: str) -> contextlib.AbstractContextManager[None]:
        return _as_os_errors(f"{self._uri}/{rel}".rstrip("/") if self._uri else self._at(rel))

    def _at(self, rel: str) -> str:
        return f"{self._base}/{rel}".strip("/")


def _version(meta: Any) -> Version:
    return {key: cast("str", meta[key]) for key in ("e_tag", "version") if meta.get(key)}


@contextlib.contextmanager
def _as_os_errors(path: str) -> Generator[None]:
    """Raises what the store says as the OSError that a disk would raise, in one line."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise OSError(errno.EINVAL, "the bucket does not exist", path) from None
        raise FileNotFoundError(errno.ENOENT, "no such object", path) from None
    except exceptions.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, "exists already", path) from None
    except exceptions.PreconditionError:
        raise Outdated(errno.ESTALE, "was changed by another writer", path) from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, _in_short(error), path) from None
    except exceptions.NotSupportedError as error:
        raise OSError(errno.ENOTSUP, _in_short(error), path) from None
    except exceptions.BaseError as error:
        is_refused = "501 Not Implemented" in str(error) or "NotImplemented" in str(error)
        raise OSError(errno.ENOTSUP if is_refused else errno.EIO, _in_short(error), path) from None


def _in_short(error: Exception) -> str:
    """What the store said, without the library's own account of it."""
    text = str(error).partition("\n\nDebug source:")[0]
    code, message = (text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0] for tag in ("Code", "Message"))
    line = " ".join(_BODY.split(text)[0].split()).removesuffix(":")
    return f"{line}: {code} ({message})"[:_SHORT] if code else line[:_SHORT]
