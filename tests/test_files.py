"""Files are written whole, and killed writers leave no files for long."""

import fcntl
import os

import pytest

from lrlc_jax.errors import RunError
from lrlc_jax.experiments.record import folder, require_writable
from lrlc_jax.files import TEMPORARY, read_bytes, write_atomically


@pytest.mark.parametrize("act", [lambda f: write_atomically(f / "a", "new"), None])
def test_the_file_of_a_killed_writer_is_removed_and_that_of_a_living_one_is_not(tmp_path, act):
    records = folder(tmp_path)
    records.mkdir()
    dead, alive = (records / f".{name}{TEMPORARY}" for name in ("dead", "alive"))
    dead.write_text("")
    with alive.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        act(records) if act else require_writable(str(tmp_path))
        assert alive.exists()
        assert not dead.exists()


def test_a_file_that_another_machine_removes_while_it_is_written_is_written_again(
    tmp_path, monkeypatch
):
    sync, calls = os.fsync, []

    def removed_once(number):
        sync(number)
        if not calls:
            next(tmp_path.glob(f".*{TEMPORARY}")).unlink()
        calls.append(number)

    monkeypatch.setattr(os, "fsync", removed_once)
    write_atomically(tmp_path / "a", "content")
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "content"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", "old")

    def fails(number):
        del number
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(RunError, match="No space left"):
        write_atomically(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_read(tmp_path, make):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(OSError, match="it is not a regular file"):
        read_bytes(path)


def test_only_so_many_bytes_are_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, more than 4"):
        read_bytes(path, 4)
