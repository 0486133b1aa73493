"""Against a real S3 server: a document is whole whatever happens beside its reader; keys come from where they may."""

import json
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem

from cli.checks import storage_folder
from sweeps.engine.processes.storage_retry import can_pass
from sweeps.records.buckets import open_bucket
from sweeps.records.conditional_puts import check_conditional_puts
from sweeps.records.documents import Manifest
from sweeps.records.experiment import Experiment
from sweeps.records.lock import Lock
from sweeps.records.object_storage import Outdated
from sweeps.records.owner import Owner
from sweeps.records.removal import remove_experiment
from sweeps.records.store import Store
from sweeps.spec.errors import StorageFailed, UsageError
from tests.helpers.contention import all_at_once
from tests.helpers.s3_server import S3Server, s3_server, use

READ_S = 3.0
NUM_READERS = 4


@pytest.fixture(scope="module")
def running() -> Generator[S3Server]:
    with s3_server() as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def server(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> Generator[S3Server]:
    use(running, monkeypatch)
    yield running
    running.delay_s, running.is_away, running.ignores_conditions = 0.0, False, False
    running.has_conflicts = False
    running.refuses = running.loses = lambda *request: False


def document(number: int) -> bytes:
    """Versions of different lengths; a mixture of two is no JSON, or does not have its length."""
    text = str(number) * (1 + 40 * (number % 7))
    return json.dumps({"length": len(text), "text": text}).encode()


def torn_reads(read: Any, write: Any) -> tuple[int, int]:
    """How often readers found no whole version, of how many reads, while a writer replaced the document."""
    over = threading.Event()
    seen: list[bool] = []

    def replace() -> None:
        number = 0
        while not over.is_set():
            number += 1
            write(document(number))

    def look() -> None:
        while not over.is_set():
            try:
                found = json.loads(read())
                seen.append(len(found["text"]) == found["length"])
            except (ValueError, OSError):
                seen.append(False)

    threads = [threading.Thread(target=replace), *(threading.Thread(target=look) for _ in range(NUM_READERS))]
    for thread in threads:
        thread.start()
    time.sleep(READ_S)
    over.set()
    for thread in threads:
        thread.join()
    return seen.count(False), len(seen)


def test_a_document_that_is_replaced_is_never_read_torn(server: S3Server) -> None:
    store = Store("s3://bucket/torn")
    store.write("x.json", document(0))
    server.delay_s = 0.01
    torn, reads = torn_reads(lambda: store.read("x.json"), lambda data: store.write("x.json", data))
    assert (torn, reads > 50) == (0, True)


def test_two_requests_a_read_would_be_seen_to_tear(server: S3Server) -> None:
    """As pyarrow reads: it asks for the size, then for that many bytes."""
    store = Store("s3://bucket/torn")
    store.write("x.json", document(0))
    filesystem, base = FileSystem.from_uri("s3://bucket/torn/x.json")
    server.delay_s = 0.01

    def read() -> bytes:
        with filesystem.open_input_stream(base) as stream:
            return stream.read()

    torn, _ = torn_reads(read, lambda data: store.write("x.json", data))
    assert torn > 0


def test_of_many_writers_one_creates_and_one_replaces(server: S3Server) -> None:
    store = Store("s3://bucket/races")
    created: list[int] = []
    replaced: list[int] = []

    def contend(gate: Callable[[], object], number: int) -> None:
        gate()
        try:
            store.create("x", str(number).encode())
            created.append(number)
        except FileExistsError:
            pass
        _, version = store.bucket.read_version("x")
        gate()
        try:
            store.bucket.replace("x", f"again {number}".encode(), version)
            replaced.append(number)
        except Outdated:
            pass

    all_at_once(contend)
    assert (len(created), len(replaced)) == (1, 1)
    assert store.read("x") == f"again {replaced[0]}".encode()


@pytest.mark.parametrize("size", [0, 1, 20 * 2**20])
def test_a_file_of_any_size_comes_back_as_it_was(server: S3Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "sent").write_bytes(bytes(i % 251 for i in range(1000)) * (size // 1000) + b"e" * (size % 1000))
    bucket = Store("s3://bucket/files").bucket
    bucket.upload(tmp_path / "sent", "f/x")
    bucket.download("f/x", tmp_path / "came")
    assert (tmp_path / "came").read_bytes() == (tmp_path / "sent").read_bytes()
    assert len(bucket.read("f/x")) == size


def test_a_large_document_is_one_put(server: S3Server) -> None:
    store = Store("s3://bucket/large")
    server.requests.clear()
    store.write("x.json", b"1" * (12 * 2**20))
    assert [method for method, _ in server.requests] == ["PUT"]


def test_folders_that_other_programs_made_are_none_and_go_with_the_experiment(
    server: S3Server, make_manifest: Callable[..., Manifest]
) -> None:
    experiment = Experiment.create("s3://bucket/markers", "mine", make_manifest(1, "mine"))
    filesystem, base = FileSystem.from_uri(experiment.uri)
    filesystem.create_dir(f"{base}/trials/static-b1/train/a000")  # as Ray does
    assert experiment.store.list("trials/static-b1/train") == ["a000"]
    assert experiment.store.list("trials/static-b1/train/a000") == []
    remove_experiment(experiment.uri)
    assert Store(experiment.uri).everything() == []
    Experiment.create("s3://bucket/markers", "mine", make_manifest(1, "mine"))


def test_an_outage_is_an_error_of_one_line_and_passes(server: S3Server) -> None:
    store = Store("s3://bucket/outage")
    store.write("x", b"1")
    server.is_away = True
    with pytest.raises(OSError, match="HTTP error") as refused:
        store.read("x")
    assert "\n" not in str(refused.value)
    server.is_away = False
    assert store.read("x") == b"1"


def test_an_experiment_in_a_bucket_that_is_away_is_storages_fault_and_no_wrong_usage(server: S3Server) -> None:
    server.is_away = True
    with pytest.raises(StorageFailed, match=r"s3://bucket/away cannot be read: .*HTTP error") as failed:
        Experiment.open("s3://bucket/away")
    assert can_pass(failed.value)
    server.is_away = False
    with pytest.raises(UsageError, match="is no experiment"):
        Experiment.open("s3://bucket/away")


def test_a_bucket_that_is_not_there_is_said_and_not_waited_for(server: S3Server) -> None:
    with pytest.raises(OSError, match="the bucket does not exist") as refused:
        Store("s3://no-such-bucket/x").write("y", b"")
    assert not isinstance(refused.value, FileNotFoundError)


def test_a_server_without_conditional_puts_is_refused(server: S3Server) -> None:
    store = Store("s3://bucket/conditions")
    check_conditional_puts(store)
    server.ignores_conditions = True
    with pytest.raises(UsageError, match=r"does not serve conditional puts .*: a file was created twice; update"):
        check_conditional_puts(store)
    with pytest.raises(UsageError, match="does not serve conditional puts"):
        Lock(store, Owner.this_process()).acquire()
    server.ignores_conditions = False
    server.refuses = lambda method, headers: any(name.lower() == "if-match" for name in headers)
    with pytest.raises(
        UsageError, match=r"does not serve conditional puts .*NotImplemented \(no such header\); update"
    ):
        check_conditional_puts(store)
    found = storage_folder("s3://bucket/conditions")
    assert (found.level, "conditional puts" in found.seen) == ("problem", True)
    server.refuses = lambda *request: False
    assert storage_folder("s3://bucket/conditions").level == "ok"
    assert store.everything() == []


def test_a_write_that_meets_another_one_under_way_is_not_the_first(server: S3Server) -> None:
    store = Store("s3://bucket/conflicts")
    version = store.bucket.create("x", b"1")
    server.has_conflicts = True
    with pytest.raises(Outdated):
        store.bucket.replace("x", b"2", version)
    with pytest.raises(FileExistsError):
        store.create("y", b"1")
    server.has_conflicts = False
    assert (store.read("x"), store.exists("y")) == (b"1", False)
    store.bucket.replace("x", b"2", version)


@pytest.mark.parametrize(
    "address", ["gs://bucket/x", "gcs://bucket/x", "az://box/x", "abfs://mine.blob.core.windows.net/box/x"]
)
def test_other_clouds_buckets_are_opened_by_their_addresses(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "mine")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    store, base = open_bucket(address)
    assert base == "x"
    assert type(store).__name__ == ("GCSStore" if address.startswith("g") else "AzureStore")


def test_keys_and_endpoint_come_from_a_profile_and_are_read_again(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(f"[profile mine]\nregion = eu-west-1\nendpoint_url = {server.url}\n")
    (tmp_path / ".aws" / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    Store("s3://bucket/profile").write("x", b"1")
    assert Store("s3://bucket/profile").read("x") == b"1"


def test_a_command_can_give_the_keys(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    keys = '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "2099-01-01T00:00:00Z"}'
    (tmp_path / "keys.json").write_text(keys)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path}/keys.json\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    Store("s3://bucket/command").write("x", b"1")
    assert Store("s3://bucket/command").read("x") == b"1"
