"""Files are written whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from duosora.core.data.cache import INDEX_NAME, read_index
from duosora.core.errors import CheckpointError, MediaError
from duosora.core.goldens.case import find_cases
from duosora.core.goldens.suite import run_manifest
from duosora.core.io import files
from duosora.core.io.files import atomic_write, read_json, refuse_existing, refuse_unwritable
from duosora.core.models.run_folders import MANIFEST, STATE
from duosora.core.train.checkpoints import problem_of
from duosora.core.train.logs import read_log
from duosora.core.train.loop import read_state


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(target: Path, content: str, then: Callable[[], None] | None = None, overwrite: bool = False) -> None:
    """Write a file through atomic_write; `then` runs inside the block, after the writing."""
    with atomic_write(target, overwrite) as temporary:
        temporary.write_text(content)
        if then:
            then()


def raiser(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_written_file_appears_with_its_content_and_nothing_beside_it(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "deep" / "er" / "a.txt") as temporary:
        assert temporary.parent == tmp_path / "deep" / "er"
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert names_in(tmp_path) == ["deep", "deep/er", f"deep/er/{temporary.name}"]
    assert (tmp_path / "deep/er/a.txt").read_text() == "new"
    assert names_in(tmp_path) == ["deep", "deep/er", "deep/er/a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError("own slip"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_failing_block_leaves_the_old_file_and_no_folders(tmp_path: Path, failure: BaseException) -> None:
    old = tmp_path / "old.txt"
    old.write_text("old")
    for target in (old, tmp_path / "new" / "new.txt"):
        with pytest.raises(type(failure)) as raised:
            fill(target, "half", raiser(failure), overwrite=True)
        assert raised.value is failure
    assert names_in(tmp_path) == ["old.txt"]
    assert old.read_text() == "old"


def test_an_existing_file_is_kept_before_any_work_unless_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with (
        pytest.raises(CheckpointError, match=r"a\.txt: exists already and is kept; .* --overwrite"),
        atomic_write(target, error=CheckpointError),
    ):
        pytest.fail("the block must not run")
    with atomic_write(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(MediaError, match="exists already"):
        fill(target, "mine", lambda: target.write_text("theirs") and None)
    assert target.read_text() == "theirs"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_dangling_link_counts_as_existing_and_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "link.txt"
    target.symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(MediaError, match="exists already"):
        refuse_existing(target, overwrite=False)
    with atomic_write(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert names_in(tmp_path) == ["link.txt"]
    assert not target.is_symlink()


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(CheckpointError, match=f"{name}: is a pipe or a device and stays"):
            refuse_unwritable(tmp_path / name, overwrite=True, error=CheckpointError)
    assert (tmp_path / "pipe").is_fifo()


def test_a_place_where_nothing_can_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    refuse_unwritable(tmp_path / "new" / "er" / "a.txt", overwrite=False)
    with pytest.raises(MediaError, match=r"file/new/a\.txt: cannot be written \(.*/file is no folder\)"):
        refuse_unwritable(tmp_path / "file" / "new" / "a.txt", overwrite=False)
    with pytest.raises(MediaError, match="is a folder, expected the name of a file"):
        refuse_unwritable(tmp_path, overwrite=True)
    monkeypatch.setattr(os, "access", lambda place, _: place != tmp_path)  # whoever runs the tests may write everywhere
    with pytest.raises(MediaError, match=r"new/a\.txt: cannot be written \(the folder .* is read-only here\)"):
        refuse_unwritable(tmp_path / "new" / "a.txt", overwrite=False)
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_changes_nothing(tmp_path: Path, code: int) -> None:
    with pytest.raises(MediaError) as raised:
        fill(tmp_path / "new" / "a.txt", "half", raiser(OSError(code, os.strerror(code))))
    assert "new/a.txt: the disk is full, nothing was written" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert names_in(tmp_path) == []


def test_a_disk_that_is_full_only_when_flushed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MediaError, match="the disk is full"):
        fill(tmp_path / "a.txt", "new", overwrite=True)
    assert names_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_file_and_folder_names_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = files.sync

    def noted(path: Path) -> None:
        flushed.append("folder" if path.is_dir() else path.read_text())
        real(path)

    monkeypatch.setattr(files, "sync", noted)
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("content")
    assert flushed == ["content", "folder"]


def test_a_folder_in_the_place_of_the_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(MediaError, match="is a folder"), atomic_write(tmp_path / "a.txt", overwrite=True):
        pytest.fail("the block must not run")


def test_a_file_in_the_place_of_a_parent_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(MediaError, match=r"a/b\.txt: cannot be written"), atomic_write(tmp_path / "a" / "b.txt"):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("read", [files.read_text, files.sha256, lambda path: files.read_written(path, MediaError)])
def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path, read: Callable[[Path], str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((OSError, MediaError), match="expected a regular file"):
        read(tmp_path / "pipe")


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "endless.txt").open("wb") as file:
        file.truncate(10**11)
    with pytest.raises(MediaError, match=r"endless\.txt: cannot be read \(it has more than 64000000 bytes\)"):
        files.read_written(tmp_path / "endless.txt", MediaError)


def test_json_of_programs_is_read_from_regular_files_of_a_size_that_fits(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [1]}')
    assert read_json(file) == {"a": [1]}
    for text, words in (("[" * 100_000, "nested too deeply"), ("{", "Expecting"), ("[" + "9" * 5000 + "]", "Exceeds")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_json(file)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_json(file, 10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="expected a regular file"):
        read_json(tmp_path / "pipe")


def harm(file: Path, how: str) -> None:
    """Put a pipe, or an absurdly nested text, in a file's place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if how == "pipe":
        os.mkfifo(file)
    else:
        file.write_text("[" * 100_000)


@pytest.mark.parametrize("how", ["pipe", "nested"])
def test_every_reader_of_json_refuses_pipes_and_absurd_nesting(tmp_path: Path, how: str) -> None:
    harm(tmp_path / "t2v" / "x" / "case.json", how)
    with pytest.raises(CheckpointError, match="cannot be read as a golden case"):
        list(find_cases(tmp_path))
    harm(tmp_path / "t2v" / "manifest_x.json", how)
    assert "cannot be read as a manifest" in run_manifest(tmp_path / "t2v" / "manifest_x.json").error
    harm(tmp_path / "cache" / INDEX_NAME, how)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_index(tmp_path / "cache")
    harm(tmp_path / "checkpoint-1" / STATE, how)
    with pytest.raises(CheckpointError, match="cannot be read as the state of a run"):
        read_state(tmp_path / "checkpoint-1")
    harm(tmp_path / "checkpoint-1" / MANIFEST, how)
    assert "cannot be read" in str(problem_of(tmp_path / "checkpoint-1"))


def test_a_line_of_a_log_that_is_none_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n' + b"[" * 100_000 + b'\n\xff\n{"step": "x"}\n{"step": 2}\n{"st')
    assert read_log(log) == [{"step": 1}, {"step": 2}]
