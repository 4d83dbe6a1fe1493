"""A run is done by one worker at a time, and a dead worker's run is free."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lrlc_jax.errors import RunError
from lrlc_jax.experiments import claims
from lrlc_jax.experiments.claims import (
    CHECKPOINTS,
    LOCK,
    OWNER,
    ClaimLostError,
    busy,
    choosing,
    claim,
    clear,
    owner,
    part_folder,
    parts,
)

HOLD = """
import pathlib, sys, time
from lrlc_jax.experiments.claims import claim
with claim(pathlib.Path(sys.argv[1])) as ours:
    print(bool(ours), flush=True)
    time.sleep(60)
"""

RACE = """
import pathlib, sys
from lrlc_jax.experiments.claims import claim
folder, log = map(pathlib.Path, sys.argv[1:])
got = 0
while got < 50:
    with claim(folder) as ours:
        if ours:
            got += 1
            (log / "inside").mkdir()  # fails if another one is inside
            (log / "inside").rmdir()
"""


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_of_two_workers_gets_a_run_and_the_other_when_it_is_let_go(tmp_path):
    folder = part_folder(tmp_path, "run", [0, 1])
    with claim(folder) as first:
        assert first
        assert owner(folder)["process"] == os.getpid()
        with claim(folder) as second:
            assert not second
        assert (folder / OWNER).exists()  # who does not get it takes nothing away
    assert not (tmp_path / "unfinished").exists()
    with claim(folder) as third:
        assert third


def test_checkpoints_outlive_the_claim_until_they_are_cleared(tmp_path):
    folder = part_folder(tmp_path, "run", [0, 1])
    with claim(folder):
        (folder / CHECKPOINTS / "7").mkdir(parents=True)
    assert [p.name for p in folder.iterdir()] == [CHECKPOINTS]
    assert not busy(folder)
    with claim(folder):
        assert busy(folder)
        clear(folder)
    assert not (tmp_path / "unfinished").exists()


def test_a_killed_workers_run_is_free_at_once(tmp_path):
    folder = part_folder(tmp_path, "run", [0, 1])
    holder = start(HOLD, folder)
    assert holder.stdout.readline() == "True\n"
    with claim(folder) as ours:
        assert not ours
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (folder / OWNER).exists()
    with claim(folder) as ours:
        assert ours


def test_no_two_workers_are_ever_inside_though_the_lock_comes_and_goes(tmp_path):
    workers = [start(RACE, part_folder(tmp_path, "run", [0]), tmp_path) for _ in range(3)]
    for worker in workers:
        _, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error


def elsewhere(folder, age):
    """A worker on another machine, whose locks we do not see, touched its pulse so long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OWNER).write_text(json.dumps({"machine": "other", "host": "far", "process": 1}))
    (folder / LOCK).touch()
    then = time.time() - age
    os.utime(folder / OWNER, (then, then))


def test_where_locks_do_not_reach_a_pulse_keeps_others_off(tmp_path):
    folder = part_folder(tmp_path, "run", [0, 1])
    elsewhere(folder, claims.DEAD_AFTER - 30)
    with claim(folder) as ours:
        assert not ours
    assert owner(folder)["host"] == "far"


def test_a_worker_elsewhere_without_a_pulse_is_dead(tmp_path):
    folder = part_folder(tmp_path, "run", [0, 1])
    elsewhere(folder, claims.DEAD_AFTER + 30)
    with claim(folder) as ours:
        assert ours
        assert owner(folder)["process"] == os.getpid()


def test_a_worker_has_a_pulse(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    folder = part_folder(tmp_path, "run", [0, 1])
    with claim(folder):
        os.utime(folder / OWNER, (0, 0))
        deadline = time.monotonic() + 10
        while not (folder / OWNER).stat().st_mtime and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (folder / OWNER).stat().st_mtime < 60


def test_a_heartbeat_from_a_clock_that_is_ahead_ages_from_now_on(tmp_path):
    folder = part_folder(tmp_path, "run", [0, 1])
    elsewhere(folder, -3600)
    assert busy(folder)
    assert (folder / OWNER).stat().st_mtime < time.time() + 60
    then = time.time() - claims.DEAD_AFTER - 1
    os.utime(folder / OWNER, (then, then))  # as after this time
    assert not busy(folder)


def test_a_worker_that_lost_its_part_keeps_off_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    folder = part_folder(tmp_path, "run", [0, 1])
    with claim(folder) as ours:
        ours.require()
        elsewhere(folder, 0)  # another machine has taken the part of a worker that seemed dead
        os.utime(folder / OWNER, (0, 0))
        with pytest.raises(ClaimLostError):
            ours.require()
        time.sleep(0.1)
        assert (folder / OWNER).stat().st_mtime == 0  # no pulse in the name of the other one
    assert owner(folder)["host"] == "far"


def test_a_file_that_cannot_be_read_for_a_while_is_no_lost_claim(tmp_path, monkeypatch):
    def fails(path):
        raise OSError(5, "Input/output error", str(path))

    with claim(part_folder(tmp_path, "run", [0, 1])) as ours:
        with monkeypatch.context() as patch:
            patch.setattr(claims, "read_bytes", fails)
            ours.require()
        clear(ours.folder)
        assert not ours.held


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("[]"),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
    ],
)
def test_an_unreadable_owner_is_none(tmp_path, make):
    folder = part_folder(tmp_path, "run", [0, 1])
    folder.mkdir(parents=True)
    make(folder / OWNER)
    assert owner(folder) == {}
    with claim(folder) as ours:
        assert ours


@pytest.mark.parametrize("name", ["", "/run", "/run/seeds0", "/lock", "/run/seeds0/lock"])
@pytest.mark.parametrize("target", ["nowhere", "no/where", "itself"])
def test_a_dangling_link_ends_with_a_sentence_or_is_no_hindrance(tmp_path, name, target):
    path = tmp_path / f"unfinished{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path if target == "itself" else target)
    begun = time.monotonic()
    with (
        contextlib.suppress(RunError),
        choosing(tmp_path) as alone,
        claim(part_folder(tmp_path, "run", [0])) as ours,
    ):
        assert alone
        assert ours
    assert time.monotonic() - begun < 1


def test_a_folder_that_cannot_be_made_gets_a_sentence(tmp_path):
    (tmp_path / "unfinished").write_text("")
    with (
        pytest.raises(RunError, match="cannot be written to"),
        claim(part_folder(tmp_path, "run", [0, 1])),
    ):
        pass


def test_the_parts_of_a_run_are_found_with_their_seeds(tmp_path):
    seeds = [(0,), (1, 2, 3), (5, 7, 8), (12,)]
    for part in seeds:
        part_folder(tmp_path, "run", part).mkdir(parents=True)
    for name in ("seeds-", "seeds0-99999999999", "seeds5-"):
        (tmp_path / "unfinished" / "run" / name).mkdir()
    part_folder(tmp_path, "other", [4]).mkdir(parents=True)
    assert sorted(parts(tmp_path, "run").values()) == seeds
    assert parts(tmp_path, "none") == {}


CHOICE = """
import pathlib, sys, time
from lrlc_jax.experiments.claims import choosing
folder, times = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for _ in range(times):
    with choosing(folder) as alone:
        assert alone
        (folder / "inside").mkdir()  # fails if another one is inside
        time.sleep(0.001)
        (folder / "inside").rmdir()
"""


def test_one_worker_chooses_at_a_time_and_a_killed_one_does_not_keep_others_waiting(
    tmp_path, monkeypatch
):
    workers = [start(CHOICE, tmp_path, 40) for _ in range(3)]
    for worker in workers:
        _, error = worker.communicate(timeout=120)
        assert worker.returncode == 0, error
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(claims, "CHOOSE_SECONDS", 0.1)
    with choosing(tmp_path) as first, choosing(tmp_path) as second:
        assert first
        assert not second
    hold = HOLD.replace("claim(", "choosing(").replace("import claim", "import choosing")
    holder = start(hold, tmp_path)
    assert holder.stdout.readline() == "True\n"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with choosing(tmp_path) as third:
        assert third
