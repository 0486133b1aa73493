"""Whether this process is the entry point of a submitted Ray job, and what follows from that.

A job runs in a folder that Ray unpacks for it and deletes some time after, so a relative path would lead there: results
would be written, found once, and be gone. RAY_ADDRESS proves nothing, people set it too.
"""

import os
from collections.abc import Mapping

from sweeps.engine.ray_private import submission_id
from sweeps.spec.errors import UsageError


def submitted_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The submission id of the job that this process is the entry point of; None outside a job."""
    return submission_id(environment)


def check_place(option: str, place: str | None, job: str | None) -> None:
    """Raises UsageError for a relative path in a submitted job."""
    if job is not None and place and "://" not in place and not os.path.isabs(os.path.expanduser(place)):
        raise UsageError(
            f"{option} {place} is relative, and job {job} runs in a folder that Ray deletes; "
            f"give an absolute path that all nodes reach, or s3://..."
        )
