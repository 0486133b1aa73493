"""Compiled code is loaded only from folders that nobody else could write."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nanochat.config import ConfigError
from nanochat.machine.caches import compiled_folders, use_private_folders, why_unsafe

SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")


@pytest.fixture(autouse=True)
def no_choice_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in compiled_folders(Path("/cache")):
        monkeypatch.setenv(variable, "")  # put back afterwards, whatever is set meanwhile


def shared_folder(tmp_path: Path) -> Path:
    """Like /tmp: everybody may write into it, nobody may rename what others put there."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_every_library_gets_a_folder_of_mode_0700_below_the_cache(tmp_path: Path) -> None:
    use_private_folders(tmp_path / "cache")
    for variable, folder in compiled_folders(tmp_path / "cache", environment={}).items():
        assert os.environ[variable] == str(folder)
        assert folder.is_relative_to(tmp_path / "cache" / "compiled")
        for place in (folder, folder.parent, folder.parent.parent):
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert len(set(compiled_folders(tmp_path).values())) == len(compiled_folders(tmp_path))


def test_torch_and_triton_look_there(tmp_path: Path) -> None:
    look = """
import sys
import tempfile
from pathlib import Path
from nanochat.machine.caches import use_private_folders
use_private_folders(Path(sys.argv[1]))
from torch._inductor.runtime.cache_dir_utils import cache_dir, triton_cache_dir
print(cache_dir(), triton_cache_dir(0))
"""
    done = subprocess.run([sys.executable, "-c", look, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == [f"{tmp_path}/compiled/torchinductor", f"{tmp_path}/compiled/triton"]


@as_root
def test_a_folder_that_another_user_made_first_is_refused(tmp_path: Path) -> None:
    cache = shared_folder(tmp_path) / "nanochat-sweep"
    planted = cache / "compiled" / "torchinductor"
    planted.mkdir(parents=True, mode=0o700)
    os.chown(planted, SOMEBODY, SOMEBODY)
    with pytest.raises(ConfigError, match=rf"code in {planted} may come from others: it belongs to user 65534"):
        use_private_folders(cache)


@as_root
def test_a_link_that_another_user_made_first_is_refused(tmp_path: Path) -> None:
    cache, elsewhere = shared_folder(tmp_path) / "nanochat-sweep", tmp_path / "elsewhere"
    (cache / "compiled").mkdir(parents=True)
    elsewhere.mkdir()
    os.chown(elsewhere, SOMEBODY, SOMEBODY)
    (cache / "compiled" / "triton").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"elsewhere may come from others.*set TRITON_CACHE_DIR to a folder"):
        use_private_folders(cache)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_refused_also_where_the_user_chose_it(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "graphs"
    folder.mkdir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    use_private_folders(tmp_path / "cache")
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=rf"users can write into it \(mode {mode:04o}\); close it \(chmod 700\)"):
        use_private_folders(tmp_path / "cache")


def test_a_folder_that_others_can_replace_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # what pytest makes is closed from its top
        home, above = Path(place), Path(place, "above")
        (above / "mine").mkdir(parents=True, mode=0o700)
        home.chmod(0o755)
        for mode, is_safe in {0o755: True, 0o777: False, 0o775: False, 0o1777: True}.items():
            above.chmod(mode)
            assert (why_unsafe(above / "mine") is None) == is_safe, f"{mode:o}"
        above.chmod(0o777)
        home.chmod(0o700)
        assert why_unsafe(above / "mine") is None, "nobody else gets to it"


def test_a_run_ends_with_a_sentence_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    small = ["--depth=1", "--max-seq-len=64", "--device-batch-size=1", "--total-batch-size=64", "--num-iterations=1"]
    command = [sys.executable, "-m", "scripts.base_train", *small]
    done = subprocess.run(command, env=os.environ | {"TRITON_CACHE_DIR": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: compiled code in {folder} may come from others: ")
    assert list(folder.iterdir()) == []


@pytest.mark.integration
def test_compiling_takes_nothing_from_the_temporary_folder_that_others_can_fill_first(tmp_path: Path) -> None:
    shared = shared_folder(tmp_path)
    planted = shared / "torchinductor_user"
    planted.mkdir()
    compile_one = """
import sys
import tempfile
from pathlib import Path
import torch
from nanochat.machine.caches import use_private_folders
from nanochat.model.compiling import leave_the_shared_folder
use_private_folders(Path(sys.argv[1]))
leave_the_shared_folder()
print(torch.compile(lambda x: x.sin().sum())(torch.zeros(64)).item())
"""
    own = {"TMPDIR": str(shared), "LOGNAME": "user"}
    command = [sys.executable, "-c", compile_one, str(tmp_path / "cache")]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert done.stdout == "0.0\n", done.stderr
    assert list(planted.iterdir()) == []
    assert list((tmp_path / "cache" / "compiled" / "torchinductor" / "precompiled_headers").iterdir())
