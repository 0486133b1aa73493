"""On one machine torchrun's ranks meet on the loopback interface, if nobody else listens in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous import RendezvousParameters

from nanochat.flags import LAUNCHER_FLAGS
from scripts.rendezvous import handler

RANK = """
import os
import torch, torch.distributed as dist
from scripts.base_train import _start_process_group
from tests.helpers.ports import LOOPBACK, listening

_start_process_group()
total = torch.ones(1)
dist.all_reduce(total)
if dist.get_rank() == 0:
    seen = listening([os.getpid(), os.getppid()])
    print("loopback" if seen and seen <= LOOPBACK else seen, int(total))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a user who has installed this project as it is now."""
    installed = tmp_path / "site" / "the_entry_point-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: the-entry-point\nVersion: 0\n")
    (installed / "entry_points.txt").write_text("[torchrun.handlers]\nloopback = scripts.rendezvous:handler\n")
    path = os.pathsep.join([str(Path(__file__).parent.parent.parent), str(installed.parent)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.integration
def test_torchruns_store_and_the_ranks_sockets_listen_on_loopback(environment: dict[str, str], tmp_path: Path):
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", *LAUNCHER_FLAGS, "--nproc_per_node=2", "rank.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "loopback 2\n", done.stderr
    assert "is not registered" not in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("rank", "told"),
    [
        ("print('why', file=sys.stderr); sys.exit(7)", ["why", "torchrun: rank 0 ended with exit code 7"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", ["torchrun: rank 0 was killed by SIGKILL"]),
        (
            "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getppid(), signal.SIGINT); time.sleep(60)",
            ["torchrun: ended by SIGINT"],
        ),
    ],
)
def test_what_went_wrong_is_not_buried_under_torchruns_call_stack(
    environment: dict[str, str], tmp_path: Path, rank: str, told: list[str]
):
    (tmp_path / "rank.py").write_text(f"import os, signal, sys, time\n{rank}\n")
    command = [sys.executable, "-m", "torch.distributed.run", *LAUNCHER_FLAGS, "--nproc_per_node=1", "rank.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if not re.match(r"[A-Z]\d{4} ", line)] == told


def test_a_second_start_of_the_ranks_has_a_store_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    rendezvous = handler()(RendezvousParameters("loopback", "", "a-run", 1, 1))
    first, second = rendezvous.next_rendezvous(), rendezvous.next_rendezvous()
    first.store.set("key", "of the first start")
    assert not second.store.check(["key"])
    assert (second.rank, second.world_size) == (0, 1)
    assert second.bootstrap_store_info is not None
    assert second.bootstrap_store_info.master_addr == "127.0.0.1"


def test_several_machines_are_refused_with_what_to_use_instead():
    with pytest.raises(ValueError, match=r"is for one machine.*--rdzv-backend=c10d, on a network where you trust"):
        handler()(RendezvousParameters("loopback", "", "a-run", 1, 2))
