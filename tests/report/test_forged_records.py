"""A record of any content is refused in a sentence, or reported; nothing else is written."""

import contextlib
import copy
import dataclasses
import functools
import json
import operator
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import StudyConfig, parse
from lrlc_jax.experiments.reproduce import details, settings_of
from lrlc_jax.experiments.statistics import compare, describe
from lrlc_jax.report.build import build
from lrlc_jax.report.figures import accuracy_against_rank
from lrlc_jax.report.results import study_results
from tests.experiments.examples import example, forged

EXAMPLES = int(os.environ.get("LRLC_JAX_EXAMPLES", "300"))

RUNS = [{"layer": "conv"}, {"layer": "lrlc", "at": 3, "rank": [2, 4]}]
STUDY = StudyConfig(name="small", runs=RUNS, figures=[])
HEALTHY = [json.loads(records.dumps(example(name))) for name in ("lrlc", "conv", "lrlc_mixed")]
HEALTHY.append(json.loads(records.dumps(example(test=(0.5, None, 0.7), failed={"1": 40}))))
for content in HEALTHY:
    content["files"] = {"predictions": {"sha256": "0" * 64, "bytes": 9}}
OTHERS = [example(rank=2), example(seeds=[2, 3], test=(0.9, 0.8), validation=(0.92, 0.9))]

DEEP = functools.reduce(lambda inner, _: [inner], range(300), 1)
ODD = [None, True, False, 0, 1, 2, 3, -1, 1.5, 5.0, 1e-320, 3.5e38, 1e308, float("nan")]
ODD += [float("inf"), 41, 2**31, 2**63, 10**17, 10**400, "", "1", "all", "../../x", "/tmp/x", "~"]
ODD += ["a|b", "a\nb", "\x1b[2J", "\ud800", "$\\frac", "<b>", "${oc.env:HOME}", "???", "x" * 9999]
ODD += [[], [1], [[]], [None], [1, 2, 3], [3, 3], {}, {"a": 1}, {"../x": []}, DEEP]


def places(content, path=()):
    """Paths to all values; of a list, to its first and last."""
    if isinstance(content, dict | list) and len(path) < 6:
        names = list(content) if isinstance(content, dict) else range(len(content))
        for name in names if isinstance(content, dict) else {*names[:1], *names[-1:]}:
            yield (*path, name)
            yield from places(content[name], (*path, name))


@st.composite
def mutants(draw):
    """A valid record with up to two values that are other ones, missing, or twice there."""
    content = json.loads(json.dumps(draw(st.sampled_from(HEALTHY))))
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        *parents, last = draw(st.sampled_from(list(places(content))))
        part = functools.reduce(operator.getitem, parents, content)
        action = draw(st.sampled_from(["replace", "replace", "delete", "double"]))
        if action == "replace":
            part[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif action == "delete":
            del part[last]
        elif isinstance(part, list):
            part.append(copy.deepcopy(part[last]))
        else:
            part[draw(st.sampled_from(["../x", "more", "a\nb", "test_loss"]))] = copy.deepcopy(
                part[last]
            )
    return content


def use(path, results_dir):
    """Everything that commands do with a record but training."""
    found = records.read_records(results_dir)
    build([STUDY], str(results_dir))
    for results in study_results(STUDY, found):
        accuracy_against_rank(results)
    record = records.read(path)
    parse(settings_of(record, "cpu"))
    for run in found.runs.values():
        describe(run)
        if run.identity == record.identity:
            again = dataclasses.replace(run, only=frozenset(record.seeds))
            details(record, again, compare(record, again))


def test_a_record_of_any_content_is_refused_or_reported(tmp_path):
    results_dir = tmp_path / "one" / "results"
    folders = {results_dir, *(results_dir / kind for kind in ("records", "tables", "figures"))}
    kept = {records.write(record, results_dir) for record in OTHERS}

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(mutants())
    def check(content):
        try:
            path = forged(results_dir, content)
        except (AttributeError, KeyError, RecursionError, TypeError):  # has no identity
            path = results_dir / "records" / "x.json"
            path.write_text(json.dumps(content))
        with contextlib.suppress(InputError):
            use(path, results_dir)
        written = {file for file in tmp_path.rglob("*") if file.is_file()}
        assert {file.parent for file in written} <= folders
        for file in written - kept:
            file.unlink()

    check()
