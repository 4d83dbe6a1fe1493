"""Records of several machines come together, and nobody chooses between different ones unasked."""

import dataclasses
import itertools
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.merge import carry_out, plan, report
from lrlc_jax.report.build import build
from lrlc_jax.report.studies import study_tables
from lrlc_jax.report.tables import markdown
from tests.conftest import ROOT
from tests.experiments.examples import example
from tests.test_commands import call, snapshot

ONE = example()
TWO = example(test=(0.88, 0.89, 0.91))
THREE = example(test=(0.88, 0.89, 0.92))
OTHER = example(rank=8)
STUDY = StudyConfig(
    name="small",
    runs=[{"layer": "conv"}, {"layer": "lrlc", "at": [3], "rank": [4, 8]}],
)


def elsewhere(record):
    """The same figures from another machine."""
    machine = {"device": "cpu", "processor": "another"}
    return dataclasses.replace(record, machine=machine, time={"wall_seconds": 2.0})


def put(folder, *found):
    for record in found:
        records.write(record, folder)
    return folder


def merge(*paths):
    merged = plan(paths[:-1], paths[-1])
    carry_out(merged)
    return merged


def holds(folder):
    """Which figures lie in records/ and which in conflicts/, and that nothing else lies there."""
    found = {path.relative_to(folder).parts for path in folder.rglob("*") if path.is_file()}
    assert {parts[:-1] for parts in found} <= {("records",), ("conflicts",)}
    return tuple(
        {records.read(folder / kind / name).digest for k, name in found if k == kind}
        for kind in ("records", "conflicts")
    )


def digests(*found):
    return {record.digest for record in found}


def test_records_come_together_as_the_files_they_are(tmp_path):
    one, two = put(tmp_path / "one", ONE), put(tmp_path / "two", OTHER)
    merged = merge(one, two, tmp_path / "all")
    assert not merged.conflicts
    together = snapshot(tmp_path / "all")
    assert together == snapshot(one) | snapshot(two)
    assert len(together) == 2


def test_equal_records_are_one_and_the_one_that_is_there_stays(tmp_path):
    there, source = put(tmp_path / "there", ONE), put(tmp_path / "source", elsewhere(ONE))
    before = snapshot(there)
    merged = merge(source, there)
    assert (len(merged.added), merged.there, merged.twice) == (0, 0, 1)
    assert snapshot(there) == before
    again = merge(there, there)
    assert (len(again.added), again.there, again.twice) == (0, 1, 0)


def test_different_records_are_set_aside_all_of_them(tmp_path):
    there, source = put(tmp_path / "there", ONE, OTHER), put(tmp_path / "source", elsewhere(TWO))
    bytes_of = set(snapshot(there).values()) | set(snapshot(source).values())
    answer = call(ROOT, "merge_records", str(source), str(there), status=1)
    assert holds(there) == (digests(OTHER), digests(ONE, TWO))
    assert set(snapshot(there).values()) == bytes_of
    assert "2 different records" in answer.stdout
    assert "test 89.00 ± 0.58 %" in answer.stdout
    assert "test 89.33 ± 0.88 %" in answer.stdout
    assert "machine.processor (None | another)" in answer.stdout
    assert len(answer.stderr.splitlines()) == 1
    assert "move the one to keep" in answer.stderr


def test_the_same_merge_again_changes_nothing_and_says_the_same_of_conflicts(tmp_path):
    there, source = put(tmp_path / "there", ONE), put(tmp_path / "source", TWO, OTHER)
    merge(source, there)
    before = snapshot(there)
    again = merge(source, there)
    assert snapshot(there) == before
    assert list(again.conflicts) == [ONE.identity]


def test_what_is_set_aside_is_not_slipped_in_later(tmp_path):
    there = put(tmp_path / "there", ONE)
    merge(put(tmp_path / "two", TWO), there)
    for name, record, aside in (
        ("equal", elsewhere(TWO), (ONE, TWO)),
        ("third", THREE, (ONE, TWO, THREE)),
    ):
        assert merge(put(tmp_path / name, record), there).conflicts
        assert holds(there) == (set(), digests(*aside))


@pytest.mark.parametrize("resolve", ["move", "copy", "train again"])
def test_a_decision_by_hand_stands(tmp_path, resolve):
    there, source = put(tmp_path / "there", ONE), put(tmp_path / "source", TWO)
    merge(source, there)
    aside = there / "conflicts" / ONE.file_name
    if resolve == "train again":
        put(there, elsewhere(ONE))
    else:
        (there / "records" / ONE.file_name).write_bytes(aside.read_bytes())
    if resolve == "move":
        aside.unlink()
    before = snapshot(there)
    for brought in (TWO, ONE):
        merged = merge(put(tmp_path / brought.digest, brought), there)
        assert not merged.conflicts
        assert snapshot(there) == before
    assert "1 set aside earlier" in report(plan([source], there))[0]
    merge(put(tmp_path / "third", THREE), there)
    assert holds(there) == (set(), digests(ONE, TWO, THREE))


def test_different_records_that_were_copied_into_one_folder_are_set_aside(tmp_path):
    there = put(tmp_path / "there", ONE, TWO, OTHER)
    merge(there, there)
    assert holds(there) == (digests(OTHER), digests(ONE, TWO))


def test_conflicts_of_a_source_come_along_unless_they_were_decided_there(tmp_path):
    source = put(tmp_path / "source", ONE)
    merge(put(tmp_path / "two", TWO), source)
    merge(source, tmp_path / "all")
    assert holds(tmp_path / "all") == (set(), digests(ONE, TWO))
    path = source / "conflicts" / TWO.file_name
    path.rename(source / "records" / TWO.file_name)
    merge(source, tmp_path / "decided")
    assert holds(tmp_path / "decided") == (digests(TWO), set())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([ONE, TWO, OTHER]), min_size=1), min_size=1, max_size=4))
def test_in_one_go_or_one_after_the_other_and_in_any_order_it_is_the_same(machines):
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        sources = [put(root / str(i), *found) for i, found in enumerate(machines)]
        merge(*sources, root / "all")
        merge(*reversed(sources), root / "reversed")
        for source in sources:
            merge(source, root / "after")
        found = [holds(root / place) for place in ("all", "reversed", "after")]
    everything = {record.digest: record for record in itertools.chain(*machines)}
    disputed = digests(ONE, TWO) if digests(ONE, TWO) <= everything.keys() else set()
    assert found == [(everything.keys() - disputed, disputed)] * 3


def test_killed_at_any_instant_the_same_command_has_the_same_result(tmp_path):
    conv, one, two = (example("conv", test=(0.5, 0.6, score)) for score in (0.1, 0.2, 0.3))
    bias = [example("spatial_bias", test=(0.5, 0.6, score)) for score in (0.1, 0.2)]
    first = put(tmp_path / "first", ONE, conv, one, example("locally_connected"))
    sources = [
        put(tmp_path / "source", TWO, two, bias[0], OTHER),
        put(tmp_path / "other", THREE, bias[1], elsewhere(OTHER)),
    ]
    program = ["-m", "tests.experiments.merge_dies_at_every_step", first, *sources]
    answer = subprocess.run(
        [sys.executable, *map(str, program)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert int(re.search(r"died (\d+) times", answer.stdout).group(1)) > 20


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path):
    there, source = put(tmp_path / "there", ONE), put(tmp_path / "source", TWO, OTHER)
    before = snapshot(there)
    tried = call(ROOT, "merge_records", "--dry-run", str(source), str(there), status=1)
    assert snapshot(there) == before
    done = call(ROOT, "merge_records", str(source), str(there), status=1)
    assert tried.stdout == done.stdout + "Nothing was written (--dry-run).\n"
    assert tried.stderr == done.stderr


def test_sources_and_destination_may_be_folders_of_records_and_sources_single_records(tmp_path):
    one = put(tmp_path / "one", ONE) / "records" / ONE.file_name
    copy = tmp_path / "mine.json"
    copy.write_bytes(one.read_bytes())
    for number, source in enumerate((one, copy, one.parent, one.parent.parent)):
        destination = tmp_path / f"to{number}" / "records"
        call(ROOT, "merge_records", str(source), str(destination))
        assert snapshot(destination) == {pathlib.Path(ONE.file_name): one.read_bytes()}
        merge(put(tmp_path / "two", TWO), destination)
        assert holds(destination.parent) == (set(), digests(ONE, TWO))


def test_what_cannot_be_merged_gets_one_sentence_and_changes_nothing(tmp_path):
    there = put(tmp_path / "there", ONE)
    source = put(tmp_path / "source", OTHER, example("conv"))
    (source / "records" / OTHER.file_name).write_text("{")
    (tmp_path / "empty").mkdir()
    before = snapshot(tmp_path)
    for arguments, words in (
        ([source, there], "is not valid JSON"),
        ([tmp_path / "none", there], "is not there"),
        ([tmp_path / "empty", there], "There are no records in"),
        ([there, there / "records" / ONE.file_name], "is not a folder"),
        ([there], "arguments are required: DEST"),
    ):
        answer = call(ROOT, "merge_records", *map(str, arguments), status=2)
        assert words in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
        assert snapshot(tmp_path) == before


def test_plain_copying_takes_nothing_away_and_chooses_nothing(tmp_path):
    there = put(tmp_path / "there", example("conv"), ONE, TWO, OTHER)
    assert len(list((there / "records").iterdir())) == 4
    with pytest.raises(InputError, match="different records of one run") as caught:
        records.find(ONE.identity, there)
    assert {ONE.file_name, TWO.file_name} <= set(re.findall(r"[\w.-]+\.json", str(caught.value)))
    found = records.read_all(there)
    assert {record.identity for record in found} == {example("conv").identity, OTHER.identity}
    made = build([STUDY], str(there))
    (conflict,) = made.conflicts
    assert conflict == str(caught.value)
    (table,) = made.tables
    assert table.problems == ["LRLC (third layer), rank 4: CONFLICT (2 different records)"]
    assert "INCOMPLETE: rank 4 CONFLICT (2 different records)" in markdown(table)
    assert "CONFLICT" in (there / "tables" / "all-runs.md").read_text()


def test_a_run_whose_records_were_all_set_aside_is_in_conflict_until_one_is_moved_back(tmp_path):
    there = put(tmp_path / "there", example("conv"), ONE, TWO, OTHER)
    merge(there, there)
    with pytest.raises(InputError, match="different records of one run") as caught:
        records.find(ONE.identity, there)
    assert str(there / "records") in str(caught.value)  # where the one to keep goes
    made = build([STUDY], str(there))
    assert made.conflicts == [str(caught.value)]
    (table,) = made.tables
    assert table.problems == ["LRLC (third layer), rank 4: CONFLICT (2 different records)"]
    (there / "conflicts" / TWO.file_name).unlink()
    (table,) = build([STUDY], str(there)).tables
    assert table.problems == ["LRLC (third layer), rank 4: CONFLICT (1 set aside)"]
    (there / "conflicts" / ONE.file_name).rename(there / "records" / ONE.file_name)
    assert records.find(ONE.identity, there) == ONE
    assert not build([STUDY], str(there)).conflicts


def test_the_commands_do_not_choose_either(tmp_path):
    there = put(tmp_path / "there", example("conv"), ONE, TWO)
    answer = call(tmp_path, "tables", f"results_dir={there}")
    assert "CONFLICT" in answer.stderr
    only = put(tmp_path / "only", ONE, TWO)
    answer = call(tmp_path, "tables", f"results_dir={only}", status=2)
    assert "are different records of one run" in answer.stderr


def test_equal_records_count_once_under_whatever_name(tmp_path):
    there = put(tmp_path / "there", elsewhere(ONE))
    old = re.sub(r"-[0-9a-f]{12}\.json$", ".json", ONE.file_name)
    (there / "records" / old).write_text(records.dumps(ONE))
    assert old == f"digits-lrlc-at3-rank4-{ONE.identity}.json"
    assert len(records.read_all(there)) == 1
    assert records.find(ONE.identity, there).digest == ONE.digest
    (there / "records" / ONE.file_name).unlink()
    assert records.find(ONE.identity, there) == ONE
    assert len(study_tables(STUDY, records.read_all(there))) == 1


def test_a_name_vouches_for_the_figures(tmp_path):
    path = records.write(ONE, tmp_path)
    path.write_text(path.read_text().replace("0.88", "0.98"))
    with pytest.raises(InputError, match="does not hold the figures that its name says"):
        records.read(path)


def test_every_published_record_is_named_by_what_it_holds():
    paths = list((ROOT / "results" / "published" / "records").iterdir())
    assert paths
    assert all(records.read(path).file_name == path.name for path in paths)
