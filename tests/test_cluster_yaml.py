"""ray_cluster.yaml is what Ray's own launcher accepts, and starts Ray where a job finds this project."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parent.parent / "ray_cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_rays_own_validator_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["provider"]["worker_ips"] == ["192.0.2.2", "192.0.2.3"]
    assert prepared["max_workers"] == 2


def test_the_validator_would_say_so_if_it_were_wrong(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="setup_command"):
        validate_config(prepare_config(cluster | {"setup_command": []}))


def test_the_addresses_are_no_machines_that_exist(cluster: dict[str, Any]) -> None:
    documentation_only = "192.0.2."  # RFC 5737
    addresses = [cluster["provider"]["head_ip"], *cluster["provider"]["worker_ips"]]
    assert [address for address in addresses if not address.startswith(documentation_only)] == []


@pytest.mark.parametrize("kind", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_in_the_projects_environment_with_the_token_asked_for(cluster: dict[str, Any], kind: str) -> None:
    *_, start = cluster[kind]
    assert start.startswith(". /shared/nanochat-sweep/.venv/bin/activate && ")
    assert "RAY_AUTH_MODE=token ray start " in start
