"""A launch without a place for its workers is rejected by one sentence, before anything is started."""

import shutil
from pathlib import Path

import pytest

from nanochat.config import with_overrides
from sweeps.engine.cluster.checks import (
    LOCAL,
    Resources,
    check_address,
    check_disk,
    check_plan,
    device_of,
    free_bytes,
    num_visible_gpus,
)
from sweeps.engine.cluster.places import Node
from sweeps.spec.errors import NoCluster, UsageError
from sweeps.spec.find import load_sweep
from sweeps.spec.plan import Plan, make_plan
from sweeps.spec.preset import apply_preset, apply_settings

LAPTOP = Resources(num_cpus=None, num_gpus=0, where="this machine")


def full_size() -> Plan:
    return make_plan(load_sweep("capacity"))


def tiny(*sets: str) -> Plan:
    return make_plan(apply_settings(apply_preset(load_sweep("capacity"), "tiny"), sets=sets))


def test_the_tiny_preset_runs_on_the_cpu_whatever_there_is() -> None:
    check_plan(tiny(), 2, LAPTOP)
    one = Resources(num_cpus=None, num_gpus=1, where="this machine")
    check_plan(tiny(), 2, one)
    check_plan(make_plan(load_sweep("smoke")), 2, one)


def test_a_full_size_sweep_without_gpus_names_the_two_ways_out() -> None:
    with pytest.raises(NoCluster, match=r"8 GPUs; this machine has none.*--preset tiny.*--num-workers") as caught:
        check_plan(full_size(), 8, LAPTOP)
    assert caught.value.exit_code == 69


def test_fewer_gpus_than_workers_are_named_with_the_number_that_would_fit() -> None:
    two = Resources(num_cpus=None, num_gpus=2, where="this machine")
    with pytest.raises(NoCluster, match=r"wants 8 GPUs.*this machine has 2.*--num-workers 2.*--preset tiny"):
        check_plan(full_size(), 8, two)
    check_plan(full_size(), 2, two)


def test_a_cpu_that_was_asked_for_by_name_is_taken_at_any_size() -> None:
    plan = make_plan(apply_settings(load_sweep("capacity"), sets=["run.device=cpu"]))
    check_plan(plan, 8, LAPTOP)


def test_gpus_that_were_asked_for_must_be_there() -> None:
    with pytest.raises(NoCluster, match="wants 2 GPUs"):
        check_plan(tiny("run.device=cuda"), 2, LAPTOP)


def test_an_attention_that_only_gpus_have_is_refused_on_a_cpu() -> None:
    with pytest.raises(UsageError, match=r"leg moe_fp8_experts_static_cap0p0 has model\.attention=flash.*leave it at"):
        check_plan(tiny("model.attention=flash"), 2, LAPTOP)
    check_plan(tiny("model.attention=flash", "run.device=cuda"), 2, Resources(None, 2, where="this machine"))


def test_a_clusters_cpus_are_counted() -> None:
    small = Resources(num_cpus=1, num_gpus=0, where="the cluster at host:6379")
    with pytest.raises(NoCluster, match="wants 2 CPUs, one per worker; the cluster at host:6379 has 1"):
        check_plan(tiny(), 2, small)


def test_a_wait_that_could_never_end_is_refused_before_it_begins() -> None:
    exact = Resources(num_cpus=2, num_gpus=0, where="the cluster at host:6379", nodes=(Node(2.0, 0.0),))
    with pytest.raises(NoCluster, match=r"wants 2 workers.*beside its driver.*has place for 1 \(nodes with 2 C"):
        check_plan(tiny(), 2, exact)
    check_plan(tiny(), 1, exact)


def test_workers_go_to_gpus_where_there_are_any_unless_the_config_says_otherwise() -> None:
    config = full_size().trials[0].config
    assert device_of(config, 0) == "cpu"
    assert device_of(config, 1) == "cuda"
    assert device_of(with_overrides(config, {"run.device": "cpu"}), 1) == "cpu"


def test_without_a_head_a_private_cluster_is_used() -> None:
    assert check_address(None, []) == LOCAL
    assert check_address("host:6379", ["other:6379"]) == "host:6379"
    assert check_address(LOCAL, ["other:6379"]) == LOCAL


def test_a_running_head_that_nobody_named_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"10\.0\.0\.1:6379.*--address 10\.0\.0\.1:6379.*--address local"):
        check_address(None, ["10.0.0.1:6379"])


@pytest.mark.parametrize("address", ["HOST:0", "127.0.0.1:65536", "[::1]:99999999", f"host:{'9' * 5000}"])
def test_an_address_that_no_head_can_have_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="has no port from 1 to 65535"):
        check_address(address, [])
    assert check_address("[::1]:6379", []) == "[::1]:6379"
    assert check_address("auto", []) == "auto"


def test_a_ray_clients_address_is_refused() -> None:
    with pytest.raises(UsageError, match="ray://host:10001"):
        check_address("ray://host:10001", [])


@pytest.mark.parametrize(
    ("chosen", "number"), [("", 0), ("-1", 0), ("97", 0), ("97,98", 0), ("GPU-aa,GPU-bb", 0), ("MIG-aa,MIG-bb", 2)]
)
def test_a_gpu_counts_where_cuda_visible_devices_names_one_that_is_there(
    chosen: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert num_visible_gpus() == number


def test_checkpoints_that_do_not_fit_the_disk_are_refused_with_both_sizes() -> None:
    plan = make_plan(load_sweep("capacity"))
    check_disk(plan, "all", "/data", 10**14)
    check_disk(plan, "all", "s3://bucket", None)
    with pytest.raises(UsageError, match=r"storage /data has 1.0 GiB free; the checkpoints of \d+ trials take up to"):
        check_disk(plan, "none", "/data", 2**30)


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    free = free_bytes(str(tmp_path / "not" / "there"))
    assert free is not None
    assert abs(free - shutil.disk_usage(tmp_path).free) < 2**30
    assert free_bytes("s3://bucket/x") is None


def test_a_size_that_does_not_fit_into_the_machines_memory_is_refused_also_on_a_cpu_asked_for_by_name() -> None:
    plan = make_plan(apply_settings(load_sweep("capacity"), sets=["run.device=cpu"]))
    small = Resources(num_cpus=None, num_gpus=0, where="this machine", num_free_bytes=2**33)
    with pytest.raises(NoCluster, match=r"8 ranks need at least [\d.]+ GiB of memory .* 8\.0 GiB are free\. Try it"):
        check_plan(plan, 8, small)
    check_plan(tiny(), 2, small)
