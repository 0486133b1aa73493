"""What somebody else has put into a checkpoint runs no code and leads to no other file. The payloads make a folder."""

import hashlib
import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from nanochat.checkpoints import format as checkpoint
from nanochat.checkpoints.folders import newest_first
from nanochat.checkpoints.format import CheckpointError, TrainState
from nanochat.checkpoints.untrusted import UntrustedError, load_rank_state
from nanochat.machine.ranks import Ranks
from nanochat.optimizer.groups import ParamSpec
from nanochat.optimizer.sharded import ShardedOptimizer

ALONE = Ranks.from_environment(torch.device("cpu"))
LANES = {0: {"epoch": 1, "tokens": np.arange(5, dtype=np.uint16), "lengths": np.array([2, 3], dtype=np.int32)}}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def an_optimizer() -> ShardedOptimizer:
    torch.manual_seed(3)
    param = nn.Parameter(torch.randn(9, 3))
    spec = ParamSpec(name="table", param=param, kind="adamw", group="tables", lr=0.3, master=False)
    return ShardedOptimizer([spec], ALONE, compute_dtype=torch.bfloat16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint."""
    place = tmp_path / "root" / "step_000001"
    checkpoint.silence_notice()
    TrainState.of(an_optimizer(), step=1, config_digest="abc", lanes=LANES, trainer={"a": 1}).write(place)
    return place


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder that a payload would make."""
    return tmp_path / "made"


def put(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file as somebody would who can write the folder: size and digest in the index fit."""
    (folder / name).write_bytes(content)
    fact = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_index(folder, lambda index: index["files"].update({name: fact}))


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / checkpoint.INDEX
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def change_metadata(folder: Path, change: Callable[[Metadata], object]) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    put(folder, ".metadata", pickle.dumps(metadata))


def packed(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def is_refused(folder: Path, match: str) -> None:
    checkpoint.verify(folder)
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(folder, ALONE, an_optimizer())


def test_a_checkpoint_comes_back_and_holds_nothing_but_tensors_and_plain_values(folder: Path) -> None:
    checkpoint.verify(folder)
    drawn = np.random.rand(), random.random()
    state = checkpoint.read(folder, ALONE, an_optimizer())
    assert (np.random.rand(), random.random()) == drawn
    assert state.trainer == {"a": 1}
    for name in ("tokens", "lengths"):
        assert state.lanes[0][name].dtype == LANES[0][name].dtype
        assert state.lanes[0][name].tolist() == LANES[0][name].tolist()
    torch.load(folder / "rank_0.pt", weights_only=True)  # without any allowance


@pytest.mark.parametrize("inside", ["lanes", "random", "numpy", "everything"])
def test_code_in_a_ranks_state_does_not_run(folder: Path, made: Path, inside: str) -> None:
    state = torch.load(folder / "rank_0.pt", weights_only=True)
    payload = Payload(made)
    if inside == "numpy":
        state["random"]["numpy"] = np.array([payload], dtype=object)
    elif inside == "everything":
        state = payload
    else:
        state[inside][0] = payload
    put(folder, "rank_0.pt", packed(state))
    is_refused(folder, r"rank_0\.pt cannot be read: UnpicklingError")
    assert not made.exists()


def test_code_in_the_metadata_does_not_run(folder: Path, made: Path) -> None:
    change_metadata(folder, lambda metadata: setattr(metadata, "planner_data", Payload(made)))
    is_refused(folder, r"\.metadata: it asks for posix\.mkdir, which no checkpoint needs")
    put(folder, ".metadata", pickle.dumps(Payload(made)))
    is_refused(folder, r"posix\.mkdir")
    for classic in (b"cos\nsystem\n(S'true'\ntR.", b"\x80\x04garbage", b"", pickle.dumps({"a": 1})):
        put(folder, ".metadata", classic)
        is_refused(folder, r"\.metadata")
    assert not made.exists()


def test_an_entry_that_is_no_tensor_is_refused_before_its_bytes_are_read(folder: Path, made: Path) -> None:
    shard = folder / "__0_0.distcp"
    before = shard.read_bytes()
    name = next(iter(an_optimizer().state_dict()))
    data = packed(Payload(made))
    put(folder, shard.name, before + data)

    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata[name] = BytesStorageMetadata()
        for index, place in metadata.storage_data.items():
            if index.fqn == name:
                metadata.storage_data[index] = replace(place, offset=len(before), length=len(data))

    change_metadata(folder, change)
    is_refused(folder, "asks for torch.distributed.checkpoint.metadata.BytesStorageMetadata")
    assert not made.exists()


def test_code_in_the_place_of_a_tensor_does_not_run(folder: Path, made: Path) -> None:
    put(folder, "__0_0.distcp", packed(Payload(made)))

    def change(metadata: Metadata) -> None:
        for index, place in metadata.storage_data.items():
            metadata.storage_data[index] = replace(place, offset=0, length=(folder / "__0_0.distcp").stat().st_size)

    change_metadata(folder, change)
    is_refused(folder, "does not fit this model")
    assert not made.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"relative_path": "../../secret"}, "it leads to '../../secret', which is no file of this checkpoint"),
        ({"relative_path": "/etc/passwd"}, "it leads to '/etc/passwd'"),
        ({"relative_path": 5}, "it leads to '5'"),
        ({"relative_path": ["a"]}, "it leads to"),
        ({"offset": -1}, "begins at -1"),
        ({"length": 1.5}, r"has 1\.5 bytes"),
        ({"transform_descriptors": ["zstd"]}, "asks for a transformation"),
    ],
)
def test_metadata_leads_to_no_other_file(folder: Path, changes: dict[str, Any], told: str) -> None:
    def change(metadata: Metadata) -> None:
        metadata.storage_data = {i: replace(place, **changes) for i, place in metadata.storage_data.items()}

    change_metadata(folder, change)
    is_refused(folder, told)


@pytest.mark.parametrize("field", ["relative_path", "offset", "length", "transform_descriptors"])
def test_metadata_whose_places_lack_a_field_ends_in_a_sentence(folder: Path, field: str) -> None:
    def change(metadata: Metadata) -> None:
        for place in metadata.storage_data.values():
            vars(place).pop(field, None)

    change_metadata(folder, change)
    if field == "transform_descriptors":  # older torch wrote none
        checkpoint.read(folder, ALONE, an_optimizer())
    else:
        is_refused(folder, "it leads to|begins at")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index.update(files={}), r"does not list \.metadata"),
        (lambda index: index.update(files=[]), "lists no files"),
        (lambda index: index["files"].pop("rank_0.pt"), "does not list rank_0.pt"),
        (lambda index: index.update(world_size=2), "does not list rank_1.pt"),
        (lambda index: index.update(world_size=10**12), "world_size is '1000000000000'"),
        (lambda index: index.update(world_size=True), "world_size is 'True'"),
        (lambda index: index.update(step=-1), "step is '-1'"),
        (lambda index: index.update(step=10**400), "step is '1000"),
        (lambda index: index.update(config_digest=5), "config_digest is no text"),
        (lambda index: index.update(format=[]), r"has format \[\]"),
        (lambda index: index["files"].update({"../secret": {"bytes": 4, "sha256": "x"}}), "lists '../secret'"),
        (lambda index: index["files"].update({"__9_0.distcp": {"bytes": 4, "sha256": "x"}}), "lists '__9_0.distcp'"),
        (lambda index: index["files"].update({"__0_0.distcp": 7}), "does not say size and digest of __0_0.distcp"),
        (lambda index: index["files"]["rank_0.pt"].update(bytes="4"), "does not say size and digest of rank_0.pt"),
    ],
)
def test_an_index_lists_all_files_of_the_checkpoint_and_no_other(folder: Path, change: Any, told: str) -> None:
    (folder.parent / "secret").write_text("four")
    change_index(folder, change)
    with pytest.raises(CheckpointError, match=told):
        checkpoint.verify(folder)


@pytest.mark.parametrize("name", ["rank_0.pt", "__0_0.distcp", ".metadata", "trainer.json", checkpoint.INDEX])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_file_that_is_none_is_refused(folder: Path, name: str, kind: str) -> None:
    path, elsewhere = folder / name, folder.parent / "elsewhere"
    path.rename(elsewhere)  # what a link leads to fits in every byte
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
        change_index_of_others(folder, name)
    else:
        path.mkdir()
        change_index_of_others(folder, name)
    with pytest.raises((CheckpointError, UntrustedError)):
        checkpoint.verify(folder)


def change_index_of_others(folder: Path, name: str) -> None:
    if name != checkpoint.INDEX:
        size = (folder / name).lstat().st_size
        change_index(folder, lambda index: index["files"][name].update(bytes=size))


@pytest.mark.parametrize("name", ["order.json", checkpoint.INDEX])
def test_a_link_or_a_pipe_decides_nothing_about_the_order_and_is_not_waited_for(folder: Path, name: str) -> None:
    later = folder.with_name("step_000002")
    shutil.copytree(folder, later)
    (later.parent / "elsewhere").write_text('{"number": 7, "written_unix_s": 4e9}')
    (folder / "order.json").write_text('{"number": 1}')
    for put_there in (lambda place: place.symlink_to(later.parent / "elsewhere"), os.mkfifo):
        (later / name).unlink(missing_ok=True)
        put_there(later / name)
        assert newest_first(folder.parent) == [folder, later]


def test_metadata_that_is_none_is_told_without_tracebacks(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(folder, ".metadata", b"\xff")
    is_refused(folder, r"\.metadata cannot be read")
    assert caplog.records == []


def test_a_folder_that_is_a_link_is_no_checkpoint(folder: Path) -> None:
    link = folder.with_name("step_000002")
    link.symlink_to(folder)
    with pytest.raises(CheckpointError, match="is a link"):
        checkpoint.verify(link)


def test_what_earlier_versions_wrote_with_numpys_arrays_still_continues(folder: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    state = torch.load(older / "rank_0.pt", weights_only=True)
    np.random.seed(11)
    state["random"]["numpy"] = np.random.get_state()
    put(older, "rank_0.pt", packed({"lanes": LANES, "random": state["random"]}))
    wanted = np.random.rand()
    np.random.seed(12)
    checkpoint.verify(older)
    read = checkpoint.read(older, ALONE, an_optimizer())
    assert np.random.rand() == wanted
    assert read.lanes[0]["tokens"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("state", [[], {"lanes": {}}, {"lanes": [], "random": {}}, {"lanes": {"a": 1}, "random": {}}])
def test_a_ranks_state_of_another_form_is_refused(tmp_path: Path, state: Any) -> None:
    (tmp_path / "rank_0.pt").write_bytes(packed(state))
    with pytest.raises(UntrustedError, match=r"rank_0\.pt (holds|names)"):
        load_rank_state(tmp_path / "rank_0.pt")


@pytest.mark.parametrize(
    "numpy_state",
    [
        None,
        (),
        ("MT19937", [1], 0, 0, 0.0),
        ("x", torch.zeros(624), 0, 0, 0.0),
        ("MT19937", torch.zeros(624), 10**6, 0, 0.0),
        ("MT19937", torch.zeros(624), 0, [], 0.0),
    ],
)
def test_random_states_of_another_form_are_refused(folder: Path, numpy_state: Any) -> None:
    state = torch.load(folder / "rank_0.pt", weights_only=True)
    state["random"]["numpy"] = numpy_state
    put(folder, "rank_0.pt", packed(state))
    is_refused(folder, "holds no state of a rank")
