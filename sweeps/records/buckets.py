"""Opens the bucket that an address names: s3://, gs:// or gcs://, abfs://, abfss:// or az://.

Settings and credentials come from the environment, as each cloud's own tools read them; for S3 also from ~/.aws.
"""

import functools
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sweeps.records.arrow import arrow_fs
from sweeps.records.aws_profile import Profile
from sweeps.spec.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

S3, GOOGLE, AZURE = ("s3",), ("gs", "gcs"), ("abfs", "abfss", "az")
_AZURE_HOSTS = (".blob.core.windows.net", ".dfs.core.windows.net")
_SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "HOME")
_CLIENT = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "120s"}
_RETRIES: Any = {  # short ones: callers know how long an outage may take
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}


def open_bucket(uri: str) -> "tuple[ObjectStore, str]":
    """The bucket and the path in it. Raises UsageError if there is no such kind of storage, or it cannot be reached."""
    parts = urlsplit(uri)
    bucket, path = parts.netloc, parts.path.strip("/")
    if parts.scheme in AZURE and bucket.endswith(_AZURE_HOSTS):
        account, (container, _, path) = bucket.partition(".")[0], path.partition("/")
        bucket = f"{account}/{container}"
    try:
        settings = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_SETTINGS)))
        return _opened(parts.scheme, bucket, settings), path
    except Exception as error:  # obstore raises its own kinds, OSError comes from asking where a bucket is
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"storage {uri} cannot be opened: {reason}; give a folder or an address like s3://bucket/path"
        ) from error


@functools.lru_cache(maxsize=64)
def _opened(scheme: str, bucket: str, settings: tuple[tuple[str, str], ...]) -> "ObjectStore":
    """One client per bucket, as each has its own connections; `settings` are those that it reads by itself."""
    from obstore.store import AzureStore, GCSStore

    client: Any = dict(_CLIENT)
    if scheme in S3:
        return _s3(bucket, client)
    if scheme in GOOGLE:
        return GCSStore(bucket, client_options=client, retry_config=_RETRIES)
    if scheme in AZURE:
        account, _, container = bucket.rpartition("/")
        config: Any = {"account_name": account} if account else {}
        return AzureStore(container, config=config, client_options=client, retry_config=_RETRIES)
    raise UsageError(f"{scheme}:// is no kind of storage that is known (s3, gs, abfs)")


def _s3(bucket: str, client: Any) -> "ObjectStore":
    from obstore.store import S3Store

    profile = Profile.chosen()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or profile.endpoint
    if endpoint:
        named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        config: Any = {"endpoint": endpoint, "region": named or profile.region or "us-east-1"}
        client["allow_http"] = endpoint.startswith("http://")
    else:
        config = {"region": arrow_fs().resolve_s3_region(bucket)}  # a bucket's own, whatever the user's is
    provider: Any = profile.credentials if profile.has_credentials else None
    return S3Store(bucket, config=config, client_options=client, retry_config=_RETRIES, credential_provider=provider)
