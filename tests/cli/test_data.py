"""`data` prepares the text and says how much there is."""

from collections.abc import Callable
from pathlib import Path

from nanochat.data.shards import write_shard


def test_the_embedded_text_is_described(program: Callable) -> None:
    done = program("data")
    assert done.code == 0
    assert done.err.startswith("preparing what is not in ")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.out.splitlines()}
    assert list(lines) == ["corpus", "digest", "folder", "shards", "documents", "tokens", "tokenizer"]
    assert lines["corpus"] == "austen"
    assert lines["shards"] == "4 for training with 128 row groups, 1 for validation"
    assert lines["tokens"].endswith("for validation (counted)")
    assert Path(lines["folder"]).is_dir()


def test_a_folder_of_shards_gets_a_tokenizer_and_is_counted(program: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NANOCHAT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "my text"
    folder.mkdir()
    for name in ("a", "b", "c"):
        write_shard(folder / f"{name}.parquet", [["hello hello hello"] * 3, ["good bye"]])
    done = program("data", "--source", folder)
    assert done.code == 0, done.err
    assert "corpus     my text\n" in done.out
    assert "documents  8 for training, 4 for validation\n" in done.out
    assert [path.name for path in sorted(folder.iterdir())] == ["a.parquet", "b.parquet", "c.parquet"]
    assert (tmp_path / "cache").is_dir()
