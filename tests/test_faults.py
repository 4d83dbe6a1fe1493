"""Studies that are killed, stopped, shared, or run out of disk end as if nothing had been.

LRLC_JAX_KILLS says how many times a study is killed (`make test ARGS="-k killed"`).
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from tests.test_commands import call, command, snapshot

KILLS = int(os.environ.get("LRLC_JAX_KILLS", "6"))
RUNS = 3
SMALL = [
    "study.runs=[{layer:conv},{layer:lrlc,at:[1,3],rank:2}]",
    "protocol.epochs=12",
    "protocol.seeds=2",
    "dataset.train_size=100",
]


def start(cwd, *arguments):
    return subprocess.Popen(
        command("sweep", *SMALL, *arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of the study that nobody disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    call(folder, "sweep", *SMALL)  # leaves its programs in the cache
    shutil.rmtree(folder / "results")
    begun = time.monotonic()
    call(folder, "sweep", *SMALL)
    return folder / "results", time.monotonic() - begun


def assert_equal(results, expected):
    """The same tables and figures byte for byte, the same figures in records bitwise; no litter."""
    for kind in ("tables", "figures"):
        assert snapshot(results / kind) == snapshot(expected / kind)
    for path in (expected / "records").iterdir():
        ours, theirs = (
            json.loads((r / "records" / path.name).read_text()) for r in (results, expected)
        )
        for name in ("run", "seeds", "failed", "epochs", "final", "parameters", "data"):
            assert ours[name] == theirs[name]
    assert sorted(p.name for p in results.iterdir()) == ["figures", "records", "tables"]
    hidden = [p for p in results.rglob("*") if p.name.startswith(".")]
    assert not hidden


def test_a_study_killed_at_random_instants_ends_as_an_undisturbed_one(tmp_path, undisturbed):
    expected, seconds = undisturbed
    chance = random.Random(20260)
    kills, number = 0, 0
    results = tmp_path / "0" / "results"
    went_on = 0
    survived = {}
    while kills < KILLS:
        results.parent.mkdir(exist_ok=True)
        # Two workers; a checkpoint after every epoch, so that many instants lie within its writing.
        workers = [start(results.parent, "checkpoint.every_epochs=1") for _ in range(2)]
        time.sleep(chance.uniform(0, seconds))
        for worker in workers:
            os.killpg(worker.pid, signal.SIGKILL)
            kills += 1
        for worker in workers:
            _, error = worker.communicate()
            went_on += "going on after epoch" in error
        records = {path.name: path.read_bytes() for path in (results / "records").glob("*.json")}
        assert survived.items() <= records.items()  # what is on record stays as it is
        survived = records
        if len(records) == RUNS:
            call(results.parent, "sweep", *SMALL)
            assert_equal(results, expected)
            number += 1
            results, survived = tmp_path / str(number) / "results", {}
    results.parent.mkdir(exist_ok=True)
    said = call(results.parent, "sweep", *SMALL).stdout
    known = len(survived)
    assert f"{RUNS - known} runs trained now, {known} were on record." in said
    assert_equal(results, expected)
    print(f"killed {kills} times; {number + 1} studies finished; {went_on} runs went on")


def test_four_workers_do_each_run_once(tmp_path, undisturbed):
    workers = [start(tmp_path) for _ in range(4)]
    answers = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, answers
    trained = [int(out.split(" runs trained now")[0].split()[-1]) for out, _ in answers]
    assert sum(trained) == RUNS
    assert all("LRLC (third layer)" in out for out, _ in answers)
    assert_equal(tmp_path / "results", undisturbed[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_is_done_and_exits_0(tmp_path, number):
    long = ["layer=conv", "protocol.epochs=5000", "protocol.seeds=2", "dataset.train_size=100"]
    worker = subprocess.Popen(
        command("train", *long),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "epochs;" not in worker.stderr.readline():
        assert worker.poll() is None
    time.sleep(5)
    told = time.monotonic()
    worker.send_signal(number)
    out, error = worker.communicate(timeout=60)
    took = time.monotonic() - told
    assert worker.returncode == 0, error
    assert (
        f"stopped ({number.name}): 0 of 1 runs are done, 1 left, Convolution is kept after" in out
    )
    assert took < 5
    kept = int(out.partition("is kept after epoch ")[2].split()[0])
    assert kept > 0
    # It goes on from there.
    worker = subprocess.Popen(
        command("train", *long), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    line = ""
    while "epochs" not in line:
        line = worker.stderr.readline()
    worker.kill()
    worker.communicate()
    assert f"going on after epoch {kept};" in line


def test_a_time_box_that_is_used_up_begins_nothing_and_exits_0(tmp_path, undisturbed):
    shutil.copytree(undisturbed[0], tmp_path / "results")
    answer = call(tmp_path, "sweep", *SMALL, "budget_minutes=0")
    assert "0 runs trained now, 3 were on record" in answer.stdout
    shutil.rmtree(tmp_path / "results")
    answer = call(tmp_path, "sweep", *SMALL, "budget_minutes=0")
    assert "stopped (budget_minutes=0 is used up): 0 of 3 runs are done, 3 left" in answer.stdout
    assert not list((tmp_path / "results" / "records").iterdir())


def test_a_full_disk_gets_a_sentence_and_costs_nothing_that_was_done(tmp_path, undisturbed):
    expected, _ = undisturbed
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us mount a small disk")
    sweep = " ".join(f"'{part}'" for part in command("sweep", *SMALL, f"results_dir={disk}"))
    script = f"""
        mount -t tmpfs -o size=12k none {disk}
        {sweep} > {tmp_path}/out1 2> {tmp_path}/err1; echo $? > {tmp_path}/status1
        ls {disk}/records > {tmp_path}/left
        mount -o remount,size=16m {disk}
        {sweep} > {tmp_path}/out2 2> {tmp_path}/err2; echo $? > {tmp_path}/status2
        cp -r {disk} {tmp_path}/results
    """
    subprocess.run(["unshare", "-rm", "sh", "-c", script], check=True, timeout=300)
    said = (tmp_path / "err1").read_text()
    assert (tmp_path / "status1").read_text().strip() == "1", said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("error: ")
    assert "No space left on device" in said
    done = (tmp_path / "left").read_text().split()
    assert len(done) < RUNS
    assert all(not name.startswith(".") for name in done)
    assert (tmp_path / "status2").read_text().strip() == "0", (tmp_path / "err2").read_text()
    assert f"{RUNS - len(done)} runs trained now" in (tmp_path / "out2").read_text()
    assert_equal(tmp_path / "results", expected)


READ_ONLY = """
import os, sys
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import claims
from lrlc_jax.experiments import record as records
from tests.experiments.examples import example
if os.geteuid() == 0:
    os.setuid(65534)  # nothing is read-only to root
for what in (
    lambda: records.prepare(sys.argv[1]),
    lambda: records.write(example(), sys.argv[1]),
    lambda: claims.claim(claims.unfinished(sys.argv[1], "run")).__enter__(),
):
    try:
        what()
    except (InputError, RunError) as error:
        print(type(error).__name__, error)
"""


def test_a_read_only_folder_gets_a_sentence_before_and_amid_the_work():
    # Where others may look, too.
    folder = pathlib.Path(tempfile.gettempdir(), f"lrlc_jax-read-only-{os.getpid()}")
    (folder / "records").mkdir(parents=True)
    try:
        for path in (folder / "records", folder):
            path.chmod(0o555)
        answer = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder)],
            capture_output=True,
            check=True,
            text=True,
            cwd=pathlib.Path(__file__).parents[1],
        )
    finally:
        for path in (folder, folder / "records"):
            path.chmod(0o755)
        shutil.rmtree(folder)
    first, second, third = answer.stdout.splitlines()
    assert first.startswith("InputError results_dir")
    assert second.startswith("RunError")
    assert "could not be written" in second
    assert third.startswith("RunError")
