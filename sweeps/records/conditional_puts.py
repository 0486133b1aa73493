"""Whether a bucket's store keeps its promises: it creates once, and replaces only the version that was named.

One owner of an experiment depends on both. Some servers that speak S3 reject such requests, and some older ones ignore
the condition, which is worse.
"""

import contextlib
import errno
import secrets

from sweeps.records.object_storage import Outdated, Version
from sweeps.records.store import Store
from sweeps.spec.errors import UsageError


def check_conditional_puts(store: Store) -> None:
    """Tries both below the store's root and leaves nothing. Raises UsageError, and OSError if storage fails."""
    bucket, probe = store.bucket, f".probe-{secrets.token_hex(8)}.tmp"
    try:
        first = bucket.create(probe, b"first")
        if not _is_created_once(store, probe):
            raise _refused(store, "a file was created twice")
        bucket.replace(probe, b"second", first)
        if not _is_replaced_by_version(store, probe, first):
            raise _refused(store, "a version was replaced that was not there any more")
    except Outdated:
        raise _refused(store, "the present version could not be replaced") from None
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        raise _refused(store, str(error.strerror)) from error
    finally:
        with contextlib.suppress(OSError):
            store.delete(probe)


def _is_created_once(store: Store, probe: str) -> bool:
    with contextlib.suppress(FileExistsError):
        store.create(probe, b"again")
        return False
    return True


def _is_replaced_by_version(store: Store, probe: str, old: Version) -> bool:
    with contextlib.suppress(Outdated):
        store.bucket.replace(probe, b"third", old)
        return False
    return True


def _refused(store: Store, seen: str) -> UsageError:
    return UsageError(
        f"the server of {store.uri} does not serve conditional puts (If-None-Match, If-Match), without which two "
        f"launches could run one experiment: {seen}; update that server, or give --storage a folder or another bucket"
    )
