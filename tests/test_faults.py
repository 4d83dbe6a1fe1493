"""Studies that are killed, stopped, shared, or run out of disk end with undisturbed results.

LRLC_JAX_KILLS is the number of kills of a study (`make test-all ARGS="-k random"`).
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax
import pytest

from lrlc_jax.experiments.record import read
from lrlc_jax.experiments.trained import load_weights, predictions
from lrlc_jax.progress import counted
from tests.commands import TINY, call, command, here, snapshot

KILLS = int(os.environ.get("LRLC_JAX_KILLS", "6"))
RUNS = 3
WRITTEN = ["figures", "records", "report.html", "tables"]
SMALL = [
    "study.runs=[{layer:conv},{layer:lrlc,at:[1,3],rank:2}]",
    "network.channels=8",
    "protocol.epochs=12",
    "protocol.seeds=2",
    "dataset.train_size=100",
]
LONG = ["layer=conv", "protocol.epochs=5000", "protocol.seeds=2", "dataset.train_size=100"]
LONG += ["checkpoint.every_epochs=1"]


def start(cwd, script, *arguments):
    cwd.mkdir(exist_ok=True)
    return subprocess.Popen(
        command(script, *arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(worker):
    """Kill a worker with its processes; its standard error."""
    os.killpg(worker.pid, signal.SIGKILL)
    return worker.communicate()[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Results folder of an undisturbed study, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    call(folder, "sweep", *SMALL)  # leaves its programs in the cache
    shutil.rmtree(folder / "results")
    begun = time.monotonic()
    call(folder, "sweep", *SMALL)
    return folder / "results", time.monotonic() - begun


def assert_equal_records(results, expected, *, weights=True):
    """The same metrics in the records, predictions and weights, bitwise."""
    ours, theirs = (r / "records" for r in (results, expected))
    for path in theirs.iterdir():
        if "weights" in path.name and not weights:
            continue
        if path.suffix == ".json":
            one, other = (json.loads((f / path.name).read_text()) for f in (ours, theirs))
            for name in ("run", "seeds", "failed", "epochs", "final", "parameters", "data"):
                assert one[name] == other[name]
        else:
            assert (ours / path.name).read_bytes() == path.read_bytes()


def assert_equal(results, expected, *, weights=True):
    """The same tables and figures byte for byte, the same metrics, and no other files."""
    for kind in ("tables", "figures"):
        assert snapshot(results / kind) == snapshot(expected / kind)
    assert (results / "report.html").read_bytes() == (expected / "report.html").read_bytes()
    assert_equal_records(results, expected, weights=weights)
    assert sorted(p.name for p in results.iterdir()) == WRITTEN
    for path in results.rglob("*"):
        assert not path.name.startswith(".")
        if path.parent.name == "records":
            assert weights or "weights" not in path.name
            assert (expected / "records" / path.name).exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # as in this process
    run = ["layer=conv", "network.channels=4", *TINY, "protocol.epochs=150"]
    run += ["checkpoint.every_epochs=1"]
    worker = start(tmp_path / "killed", "train", *run)
    while not list(tmp_path.glob("killed/results/unfinished/*/*/checkpoints/*.npz")):
        assert worker.poll() is None, worker.communicate()
        time.sleep(0.02)
    kill(worker)
    assert not list(tmp_path.glob("killed/results/records/*.json"))
    assert "going on after epoch" in here(tmp_path / "killed", "train", *run).stderr
    (tmp_path / "whole").mkdir()
    here(tmp_path / "whole", "train", *run)
    assert_equal_records(tmp_path / "killed" / "results", tmp_path / "whole" / "results")
    assert [path.name for path in (tmp_path / "killed" / "results").iterdir()] == ["records"]


@pytest.mark.slow
def test_a_study_killed_at_random_instants_ends_as_an_undisturbed_one(tmp_path, undisturbed):
    expected, seconds = undisturbed
    chance = random.Random(20260)
    kills = number = resumed = 0
    results, survived = tmp_path / "0" / "results", {}
    while kills < KILLS:
        # Two workers; a checkpoint after every epoch, so that many instants lie within its writing.
        study = ["sweep", *SMALL, "checkpoint.every_epochs=1"]
        workers = [start(results.parent, *study) for _ in range(2)]
        time.sleep(chance.uniform(0, seconds))
        for worker in workers:
            resumed += "going on after epoch" in kill(worker)
            kills += 1
        records = {path.name: path.read_bytes() for path in (results / "records").glob("*.json")}
        assert survived.items() <= records.items()  # records stay as they are
        survived = records
        if len(records) == RUNS:
            call(results.parent, "sweep", *SMALL)
            assert_equal(results, expected)
            number += 1
            results, survived = tmp_path / str(number) / "results", {}
    results.parent.mkdir(exist_ok=True)
    output = call(results.parent, "sweep", *SMALL).stdout
    known = len(survived)
    trained = counted(RUNS - known, "run")
    assert f"{trained} trained now, {known} already on record." in output
    assert_equal(results, expected)
    print(f"killed {kills} times; {number + 1} studies finished; {resumed} runs resumed")


def by_seed(results):
    """Metrics, predictions and weights of every seed of a folder with one run."""
    found = {}
    for path in sorted((results / "records").glob("*.json")):
        record = read(path)
        params, stats = load_weights(path, record)
        arrays = [*jax.tree.leaves(params), *jax.tree.leaves(stats), *predictions(path).values()]
        for i, seed in enumerate(record.seeds):
            assert seed not in found
            epochs = {name: [row[i] for row in rows] for name, rows in record.epochs.items()}
            final = {name: values[i] for name, values in record.final.items()}
            found[seed] = epochs, final, [array[i].tobytes() for array in arrays]
    return found


@pytest.mark.slow
@pytest.mark.exhaustive
def test_seeds_added_by_killed_workers_are_those_of_one_undisturbed_run(tmp_path):
    run = ["layer=lrlc", "layer.rank=2", "network.channels=8", "dataset.train_size=100"]
    run += ["protocol.epochs=60", "checkpoint.every_epochs=1"]
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    for folder in (whole, grown):
        folder.mkdir()
    call(whole, "train", *run, "protocol.seeds=10")
    call(grown, "train", *run, "protocol.seeds=4")
    chance, rounds = random.Random(4), max(1, KILLS // 6)
    for number in range(rounds + 1):
        more = [*run, "protocol.seeds=10", "seeds_per_visit=1"]
        workers = [start(grown, "train", *more) for _ in range(3)]
        if number < rounds:
            while not list(grown.glob("results/unfinished/*/*/checkpoints/*.npz")):
                assert workers[0].poll() is None, workers[0].communicate()
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 1))
            for worker in workers:
                kill(worker)
            assert (grown / "results" / "unfinished").exists()
        else:
            answers = [worker.communicate(timeout=300) for worker in workers]
            assert [worker.returncode for worker in workers] == [0] * 3, answers
            assert all("seeds 0-9" in out for out, _ in answers)
    assert by_seed(grown / "results") == by_seed(whole / "results")
    assert [path.name for path in (grown / "results").iterdir()] == ["records"]


@pytest.mark.slow
def test_four_workers_do_each_run_once(tmp_path, undisturbed):
    workers = [start(tmp_path, "sweep", *SMALL) for _ in range(4)]
    answers = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, answers
    trained = [int(re.search(r"(\d+) runs? trained now", out)[1]) for out, _ in answers]
    assert sum(trained) == RUNS
    assert all("LRLC (third layer)" in out for out, _ in answers)
    assert_equal(tmp_path / "results", undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_keeps_finished_epochs_and_exits_0(tmp_path, number):
    worker = start(tmp_path, "train", *LONG)
    while not list(tmp_path.glob("results/unfinished/*/*/checkpoints/*.npz")):
        assert worker.poll() is None
        time.sleep(0.02)
    begun = time.monotonic()
    worker.send_signal(number)
    out, error = worker.communicate(timeout=60)
    assert worker.returncode == 0, error
    assert time.monotonic() - begun < 5
    assert (
        f"stopped ({number.name}): 0 of 1 runs are done (0 of 2 seeds), 1 left, Convolution is kept"
        in out
    )
    kept = int(out.partition("is kept after epoch ")[2].split()[0])
    assert kept > 0
    worker = start(tmp_path, "train", *LONG)
    line = ""
    while "epochs" not in line:
        line = worker.stderr.readline()
    kill(worker)
    assert f"going on after epoch {kept};" in line


@pytest.mark.slow
def test_a_signal_while_a_program_is_compiled_ends_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no compiled program is there
    worker = start(tmp_path, "train", *LONG)
    while "epochs;" not in worker.stderr.readline():
        assert worker.poll() is None
    time.sleep(1)
    worker.send_signal(signal.SIGTERM)
    out, error = worker.communicate(timeout=60)
    assert worker.returncode == 0, error
    assert "stopped (SIGTERM): 0 of 1 runs are done" in out


def test_a_used_up_time_box_starts_nothing_and_exits_0(tmp_path):
    study = ["sweep", "study.runs=[{layer:conv}]", *TINY, "network.channels=4"]
    answer = here(tmp_path, *study, "budget_minutes=0")
    assert (
        "stopped (budget_minutes=0 is used up): 0 of 1 runs are done (0 of 2 seeds), 1 left"
        in answer.stdout
    )
    assert not list((tmp_path / "results" / "records").iterdir())
    here(tmp_path, *study)
    answer = here(tmp_path, *study, "budget_minutes=0")
    assert "0 runs trained now, 1 already on record" in answer.stdout


@pytest.mark.slow
def test_a_full_disk_gets_a_sentence_and_loses_no_record(tmp_path, undisturbed):
    expected, _ = undisturbed
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us mount a small disk")
    small = [*SMALL, "keep=predictions", f"results_dir={disk}"]
    sweep = " ".join(f"'{part}'" for part in command("sweep", *small))
    script = f"""
        mount -t tmpfs -o size=16k none {disk}
        {sweep} > {tmp_path}/out1 2> {tmp_path}/err1; echo $? > {tmp_path}/status1
        ls {disk}/records > {tmp_path}/left
        mount -o remount,size=16m {disk}
        {sweep} > {tmp_path}/out2 2> {tmp_path}/err2; echo $? > {tmp_path}/status2
        cp -r {disk} {tmp_path}/results
    """
    subprocess.run(["unshare", "-rm", "sh", "-c", script], check=True, timeout=300)
    error = (tmp_path / "err1").read_text()
    assert (tmp_path / "status1").read_text().strip() == "1", error
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("error: ")
    assert "No space left on device" in error
    left = (tmp_path / "left").read_text().split()
    done = [name for name in left if name.endswith(".json")]
    assert 0 < len(done) < RUNS
    assert all(not name.startswith(".") for name in left)
    assert (tmp_path / "status2").read_text().strip() == "0", (tmp_path / "err2").read_text()
    assert f"{counted(RUNS - len(done), 'run')} trained now" in (tmp_path / "out2").read_text()
    assert_equal(tmp_path / "results", expected, weights=False)


READ_ONLY = """
import os, sys
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import claims
from lrlc_jax.experiments import record as records
from tests.experiments.examples import example
if os.geteuid() == 0:
    os.setuid(65534)  # nothing is read-only to root
for action in (
    lambda: records.require_writable(sys.argv[1]),
    lambda: records.write(example(), sys.argv[1]),
    lambda: claims.claim(claims.unfinished(sys.argv[1], "run")).__enter__(),
):
    try:
        action()
    except (InputError, RunError) as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_read_only_folder_gets_a_sentence_before_and_during_the_work():
    # In a folder that other users may read, too.
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
    assert third.startswith("RunError")
