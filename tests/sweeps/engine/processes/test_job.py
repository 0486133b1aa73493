"""In a submitted job a relative place is rejected; elsewhere it is not."""

import json

import pytest

from sweeps.engine.processes.job import check_place, submitted_job
from sweeps.spec.errors import UsageError

IN_JOB = {
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1"}})
}


def test_a_job_is_known_by_what_ray_gives_its_entry_point() -> None:
    assert submitted_job(IN_JOB) == "raysubmit_1"


@pytest.mark.parametrize("value", [None, "", "{", "[]", "null", '{"metadata": {}}', '{"metadata": null}'])
def test_anything_else_is_no_job(value: str | None) -> None:
    environment = {"RAY_ADDRESS": "1.2.3.4:6379"} | ({} if value is None else {"RAY_JOB_CONFIG_JSON_ENV_VAR": value})
    assert submitted_job(environment) is None


@pytest.mark.parametrize("place", ["results", "./results", "../results"])
def test_a_relative_place_is_refused_in_a_job_only(place: str) -> None:
    check_place("--storage", place, None)
    with pytest.raises(UsageError, match=f"--storage {place} is relative, and job raysubmit_1 runs in a folder"):
        check_place("--storage", place, "raysubmit_1")


@pytest.mark.parametrize("place", [None, "/data/results", "~/results", "s3://bucket/results", "file:///data"])
def test_an_absolute_place_is_fine_in_a_job(place: str | None) -> None:
    check_place("--storage", place, "raysubmit_1")
