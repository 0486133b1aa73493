"""`doctor` names what is wrong and what to do; measured numbers are judged by pure functions."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import checks
from cli.checks import (
    Check,
    commands_on_path,
    compile_cache,
    compiler,
    corpus,
    gpus,
    packages,
    ray_session,
    ray_token,
    storage_folder,
)
from cli.doctor import check_lines
from sweeps.engine.cluster import private


def probe(*speeds: float | None, **changes: Any) -> dict[str, Any]:
    """What a probe of H100s says; None: in use."""
    found = [
        {
            "index": i,
            "name": "NVIDIA H100",
            "memory_mib": 81559.0,
            "used_mib": 500.0 if speed else 40000.0,
            "pids": [] if speed else [4711],
            "is_busy": speed is None,
            "bf16_tflop_per_s": speed,
        }
        for i, speed in enumerate(speeds)
    ]
    reduced = 350.0 if None not in speeds and len(speeds) > 1 else None
    seen = {"torch": "2.13.0", "cuda_build": "13.0", "driver": "580.1", "num_driver_gpus": len(speeds), "gpus": found}
    return {**seen, "all_reduce_gb_per_s": reduced, "no_faster_kernels": [], **changes}


def test_good_gpus_are_two_lines_and_a_bandwidth() -> None:
    torch, cards, reduce, _ = gpus(probe(650.2, 652.0, 648.9, 649.0))
    assert (torch.level, torch.seen) == ("ok", "2.13.0, built for CUDA 13.0, driver 580.1")
    assert (cards.level, cards.advice) == ("ok", None)
    assert cards.seen == "4 x NVIDIA H100; bf16 matmul 650 652 649 649 TFLOP/s"
    assert (reduce.level, reduce.seen) == ("ok", "350 GB/s over 4 GPUs")


def test_a_gpu_more_than_3_percent_under_the_median_is_named() -> None:
    _, cards, *_ = gpus(probe(650.0, 650.0, 624.0, 650.0))
    assert cards.advice == "GPU 2 is 4.0 % under the median: look at its clocks and temperature"
    assert (cards.level, cards.values["slow"]) == ("warning", [2])
    _, cards, *_ = gpus(probe(650.0, 650.0, 631.0, 650.0))
    assert (cards.level, cards.values["slow"]) == ("ok", [])


def test_a_gpu_in_use_is_named_with_its_process_and_nothing_is_reduced() -> None:
    _, cards, reduce, _ = gpus(probe(650.0, None))
    assert cards.level == "warning"
    assert cards.advice == "GPU 1 is in use (process 4711), so it was not measured"
    assert (reduce.level, reduce.seen) == ("warning", "not measured, because GPUs are in use")


def test_one_gpu_has_no_bandwidth() -> None:
    _, card, _ = gpus(probe(650.0))
    assert card.seen == "NVIDIA H100; bf16 matmul 650 TFLOP/s"


def test_the_kernels_are_named_and_what_is_missing_for_faster_ones() -> None:
    *_, kernels = gpus(probe(650.0))
    assert (kernels.level, kernels.seen, kernels.advice) == ("ok", "faster ones (QuACK, FlashAttention-4)", None)
    missing = "quack-kernels is not installed: pip install 'nanochat-sweep[hopper]'"
    *_, kernels = gpus(probe(650.0, no_faster_kernels=[missing]))
    assert (kernels.level, kernels.seen, kernels.advice) == ("ok", "torch's own", missing)


def test_without_a_gpu_it_says_what_works() -> None:
    torch, none = gpus(probe(cuda_build=None, driver=None))
    assert torch.seen == "2.13.0, built without CUDA, no NVIDIA driver"
    assert none.level == "warning"
    assert "--preset tiny" in (none.advice or "")


def test_a_driver_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _, cards = gpus(probe(num_driver_gpus=8))
    assert (cards.level, cards.seen) == ("problem", "the driver has 8, torch sees none")
    assert "driver 580.1" in (cards.advice or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus(probe(num_driver_gpus=8))[1].level == "warning"


def test_a_probe_that_dies_or_hangs_is_a_problem_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (torch,) = gpus(checks.run_probe())
    assert (torch.level, torch.seen) == ("problem", "exit code 1")
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nsleep 600 & echo $! >&2; sleep 600\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr(checks, "PROBE_TIMEOUT_S", 0.2)
    assert "did not end within 0.2 s" in gpus(checks.run_probe())[0].seen


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages().level == "ok"
    monkeypatch.setattr(checks, "PACKAGES", ("torch", "no-such-package"))
    found = packages()
    assert (found.level, found.seen) == ("problem", "missing: no-such-package")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = compiler()
    assert found.level == "problem"
    assert "the compiler no-such-compiler" in found.seen


def test_commands_of_another_environment_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = Path(sys.prefix) / "bin"
    monkeypatch.setenv("PATH", f"{own}:/usr/bin")
    assert commands_on_path().level == "ok"
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{own}")
    found = commands_on_path()
    assert (found.level, found.seen) == ("warning", f"python is {other}")
    assert f"{own}/nanochat-sweep" in (found.advice or "")


def test_storage_is_tried_and_nothing_is_left(tmp_path: Path) -> None:
    assert storage_folder(str(tmp_path)).level in ("ok", "warning")
    assert storage_folder(str(tmp_path / "a" / "b")).level in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        found = storage_folder(str(tmp_path / place))
        assert found.level == "problem"
        assert "--storage" in (found.advice or "")
    assert storage_folder("nonsense://x").level == "problem"


def test_little_room_is_a_warning_and_none_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def left(gib: float) -> Check:
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(gib * 2**30)))
        return storage_folder(str(tmp_path))

    assert [left(gib).level for gib in (100, 5, 0.5)] == ["ok", "warning", "problem"]
    assert left(5).values == {"free_gib": 5.0}


def test_the_compile_cache_is_where_torch_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "graphs"))
    assert compile_cache().seen.startswith(f"{tmp_path}/graphs, ")
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs").chmod(0o777)
    found = compile_cache()
    assert found.level == "problem"
    assert found.seen.startswith(f"{tmp_path}/graphs is not safe: other users can write into it")
    assert (found.advice or "").startswith(f"chmod 700 {tmp_path}/graphs, or set TORCHINDUCTOR_CACHE_DIR to a folder")


def test_a_cache_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NANOCHAT_CACHE", str(tmp_path / "file"))
    found = corpus()
    assert found.level == "problem"
    assert "NANOCHAT_CACHE" in found.seen


def test_a_check_is_one_line_and_its_advice_below_the_text() -> None:
    found = Check(name="storage", level="problem", seen="full", advice="make room")
    assert check_lines(found) == "problem  storage     full\n                     make room"
    assert check_lines(found, colour=True).startswith("\x1b[1;31mproblem  \x1b[0mstorage")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the measurement, which is tested by itself."""
    monkeypatch.setattr(checks, "run_probe", lambda: probe(650.0, 600.0))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/no/token")


@pytest.mark.usefixtures("quick")
def test_the_report_has_a_line_per_check_and_exit_code_0_with_warnings(program: Callable) -> None:
    done = program("doctor")
    assert done.code == 0, done.out
    names = [line.split()[1] for line in done.out.splitlines() if not line.startswith(" ")]
    assert names == [
        "Python",
        "packages",
        "compiler",
        "torch",
        "GPUs",
        "all-reduce",
        "kernels",
        "Ray",
        "session",
        "PATH",
        "storage",
        "graphs",
        "data",
    ]


@pytest.mark.usefixtures("quick")
def test_json_and_exit_code_1_with_a_problem(program: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = program("doctor", "--json", "--storage", tmp_path / "file")
    document = json.loads(done.out)
    assert (done.code, document["schema"]) == (1, "nanochat-sweep/doctor/1")
    by_name = {check["name"]: check for check in document["checks"]}
    assert by_name["storage"]["level"] == "problem"
    assert by_name["GPUs"]["values"] == {"bf16_tflop_per_s": {"0": 650.0, "1": 600.0}, "slow": [1]}


def test_a_token_that_others_can_read_is_named_with_the_way_to_close_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "my token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert ray_token() == []
    token.write_text("secret")
    token.chmod(0o644)
    (check,) = ray_token()
    assert (check.level, check.advice) == ("warning", f"chmod 600 '{token}'")
    assert check.seen.startswith(f"{token} has mode 0644")
    assert "secret" not in check.seen
    token.chmod(0o600)
    (check,) = ray_token()
    assert check.level == "ok"


def test_a_machine_without_a_place_for_a_session_has_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_session().level == "ok"
    monkeypatch.setattr(private, "MAX_SOCKET_BYTES", 20)
    check = ray_session()
    assert check.level == "problem"
    assert "/tmp is" in check.seen
    assert check.advice == "set TMPDIR to a short path of yours"
