"""A private cluster is closed to other users of the host, and leaves nothing behind, however its launcher ends."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.engine.cluster.private import remove_abandoned, session_folder, session_parent
from sweeps.engine.processes import launch_processes
from sweeps.spec.errors import UsageError
from tests.helpers.ports import LOOPBACK, listening

LAUNCHER = """
import sys, threading, time
from pathlib import Path
from sweeps.engine.cluster.session import connected

def wait(values):
    import torch, torch.distributed
    torch.distributed.all_reduce(torch.ones(1))
    Path(values["file"]).touch()
    time.sleep(600)

def start_ranks(place):
    import ray.train
    from sweeps.engine.ranks.process_group import ProcessGroup
    from sweeps.engine.ray_private import lean_trainer

    file = Path(place, "ranks")
    trainer = lean_trainer(
        wait,
        ProcessGroup("gloo"),
        ray.train.ScalingConfig(num_workers=2),
        train_loop_config={"file": str(file)},
        run_config=ray.train.RunConfig(name="r", storage_path=f"{place}/home/train"),
    )
    threading.Thread(target=trainer.fit, daemon=True).start()
    while not file.exists():
        time.sleep(0.1)
    file.unlink()

with connected("local", num_workers=2, mark=sys.argv[1]):
    import ray

    if sys.argv[2:]:
        start_ranks(sys.argv[2])
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
GUESSES = """
import os, sys
os.environ.update(RAY_AUTH_MODE=sys.argv[2], RAY_AUTH_TOKEN=sys.argv[3])
from ray._raylet import GcsClient
if sys.argv[4] != "0":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=None)
    print("in")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def short_place() -> Iterator[Path]:
    """A folder of a short path, as Ray's sockets need it, that everybody can enter."""
    place = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    place.chmod(0o755)
    (place / "home").mkdir()
    yield place
    shutil.rmtree(place, ignore_errors=True)


class Launched:
    """A launcher with a private cluster, on which two ranks can train."""

    def __init__(self, place: Path, *, trains: bool) -> None:
        self.mark = launch_processes.mark_of(str(place), "owner")
        own = {
            "HOME": f"{place / 'home'}",
            "TMPDIR": str(place),
            "CUDA_VISIBLE_DEVICES": "",
            "RAY_AUTH_MODE": "disabled",
        }
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", LAUNCHER, self.mark, *([str(place)] if trains else [])]
        self.process = subprocess.Popen(command, env=os.environ | own, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.session = next(place.glob("nss-*/r/session_2*"))

    def guess(self, mode: str, token: str = "", uid: int = 0) -> str:
        command = [sys.executable, "-c", GUESSES, self.address, mode, token, str(uid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.strip()

    def environment(self) -> dict[str, str]:
        """Of one of Ray's processes."""
        pid = next(pid for pid in launch_processes.members(self.mark) if pid != self.process.pid)
        items = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(item.split("=", 1) for item in items if "=" in item)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def launched(short_place: Path) -> Iterator[Launched]:
    launched = Launched(short_place, trains=True)
    yield launched
    launched.end()


@pytest.mark.integration
def test_nobody_gets_into_a_private_cluster(launched: Launched, short_place: Path) -> None:
    token = launched.environment()["RAY_AUTH_TOKEN"]
    assert launched.guess("token", token) == "in", "the test itself"
    refused = "AuthenticationError"
    assert launched.guess("disabled") == refused, "although the launcher's user had switched tokens off elsewhere"
    assert launched.guess("token", "0" * 64) == refused
    assert list((short_place / "home").rglob("auth_token")) == []
    members = [launched.process.pid, *launch_processes.members(launched.mark)]
    assert all(token not in Path(f"/proc/{pid}/cmdline").read_text() for pid in members)
    stored = subprocess.run(["grep", "-rlI", token, str(short_place)], capture_output=True, text=True)
    assert stored.stdout == ""

    assert listening(members) <= LOOPBACK
    assert listening([launched.process.pid])
    top = short_place / launched.session.relative_to(short_place).parts[0]
    assert stat.S_IMODE(top.stat().st_mode) == 0o700


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")
def test_another_user_reaches_neither_sockets_nor_token(launched: Launched) -> None:
    look = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for attempt in (lambda: os.listdir(sys.argv[1]), lambda: open(f"/proc/{sys.argv[2]}/environ").read()):
    try:
        attempt()
        print("in")
    except PermissionError:
        print("refused")
"""
    command = [sys.executable, "-c", look, str(launched.session / "sockets"), str(launched.process.pid)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.split() == ["refused", "refused"]
    assert launched.guess("token", "0" * 64, uid=65534) == "AuthenticationError"


@pytest.mark.integration
@pytest.mark.parametrize("ends", [signal.SIGKILL, None])
def test_a_session_is_removed_with_its_launcher(
    launched: Launched, short_place: Path, ends: signal.Signals | None
) -> None:
    launched = launched if launched.process.poll() is None else Launched(short_place, trains=False)
    assert launched.session.is_dir()
    if ends is None:
        launched.process.communicate("", timeout=60)
        assert launched.process.returncode == 0
    else:
        launched.process.send_signal(ends)
    deadline = time.monotonic() + 60
    while (left := [path.name for path in short_place.iterdir()]) != ["home"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_session_whose_watchdog_was_killed_too_is_removed_by_the_next_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    left, others_file = tmp_path / "nss-left", tmp_path / "nss-file"
    left.mkdir()
    others_file.touch()
    (tmp_path / "nss-link").symlink_to(tmp_path)
    (tmp_path / "kept").mkdir()
    with session_folder() as (running, _):
        for parent in (running.parent, tmp_path):
            remove_abandoned(parent)
        assert running.is_dir()
        assert stat.S_IMODE(running.stat().st_mode) == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "nss-file", "nss-link"]
    shutil.rmtree(running)


def test_a_session_lies_where_sockets_fit_and_nobody_can_rename_it(tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 60))
    os.mkdir(long)
    open_to_all = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    open_to_all.chmod(0o777)
    try:
        assert session_parent([long, "/no/such", str(open_to_all), "/tmp"]) == Path("/tmp")
        with pytest.raises(UsageError, match=r"bytes too long.*No such file.*lets other users rename.*set TMPDIR"):
            session_parent([long, "/no/such", str(open_to_all)])
        open_to_all.chmod(0o1777)
        assert session_parent([str(open_to_all)]) == open_to_all
    finally:
        open_to_all.rmdir()
