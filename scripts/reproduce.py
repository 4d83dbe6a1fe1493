"""Run again what a record says, and say whether the figures agree (``--help``)."""

import pathlib
from collections.abc import Sequence

from lrlc_jax.cli import Arguments, run_script
from lrlc_jax.errors import RunError
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.plan import TRAINING_VERSION, label
from lrlc_jax.experiments.provenance import differences, machine
from lrlc_jax.experiments.record import Record, data_title, files_of, folder, read
from lrlc_jax.experiments.reproduce import check, default_folder, override, settings_of
from lrlc_jax.experiments.statistics import (
    DIFFERENT,
    TESTED,
    Comparison,
    Estimate,
    compare,
    estimate,
    in_words,
    known,
    largest_difference,
)
from lrlc_jax.report.tables import markdown_rows
from lrlc_jax.tracking import make_tracker

DESCRIPTION = "Run the configuration of RECORD again, and compare the figures."
EPILOG = """\
The last line begins with the verdict: equal (every figure is the same in every digit), within
noise, or different (exit status 1); docs/results.md says how that is tested. What determines the
figures is taken from the record; where things are and how it runs can be given as name=value:
  python scripts/reproduce.py results/records/NAME.json dataset.path=FOLDER seeds_at_once=2
The new record is kept in the folder reproductions, beside that of the record, or in results_dir.
Interrupted, the same command goes on; once done, it only compares.
"""


def reproduce(arguments: Sequence[str]) -> int:
    """Run a record's configuration again, unless that was done, and print how they compare."""
    parser = Arguments(description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("record", metavar="RECORD", type=pathlib.Path, help="a record's file")
    parser.add_argument("overrides", metavar="name=value", nargs="*", default=[], help="see below")
    given = parser.parse_args(arguments)
    record = read(given.record)
    defaults = settings_of(record, machine()["device"])
    defaults["results_dir"] = str(default_folder(given.record))
    config = parse(override(defaults, given.overrides))
    check(config, record)
    version = record.run["training"]
    if version != TRAINING_VERSION:
        print(
            f"The record is of version {version} of the training, this code's is "
            f"{TRAINING_VERSION}: figures may differ for that reason alone."
        )
    outcome = execute([config], make_tracker(config, group="reproduce", prefix="again-"))
    if not outcome.records:
        why = "; ".join(outcome.problems.values()) or outcome.ending
        raise RunError(f"No verdict yet: {why.rstrip('.')}.")
    (again,) = outcome.records
    comparison = compare(record, again)
    print(f"{label(config.layer)} on {data_title(record)}, {len(record.seeds)} seeds")
    print(f"  record: {given.record}, {record.time.get('started', 'of unknown date')}")
    done = "now" if outcome.trained else f"on record, {again.time.get('started')}"
    print(f"  again:  {files_of(again.identity, folder(config.results_dir))[0]}, {done}")
    print("\n".join(["", *table(record, again, comparison), "", *details(record, again)]))
    if comparison.test:
        print(f"Test: {comparison.test}.")
    if comparison.least is not None:
        print(f"It finds a difference in test accuracy of {100 * comparison.least:.2f} % or more.")
    print(f"{comparison.verdict}: {comparison.reason}")
    return 1 if comparison.verdict == DIFFERENT else 0


def table(record: Record, again: Record, comparison: Comparison) -> list[str]:
    """Mean and standard error of each figure that is tested, and its p."""
    rows = []
    for name in TESTED:
        p = comparison.p.get(name)
        cells = [shown(name, estimate(known(r.final[name]))) for r in (record, again)]
        rows.append((in_words(name), *cells, "-" if p is None else f"{p:.2g}"))
    return markdown_rows(("", "Record", "Again", "Corrected p"), rows)


def shown(name: str, value: Estimate | None) -> str:
    """A mean over seeds with its standard error: an accuracy in percent, a loss as it is."""
    if value is None:
        return "-"
    if name.endswith("accuracy"):
        return f"{value.percent()} %"
    error = value.standard_error
    return f"{value.mean:.5f}" + (" (one seed)" if error is None else f" ± {error:.5f}")


def details(record: Record, again: Record) -> list[str]:
    """Failed seeds, the largest difference of a figure, and what may have led to one."""
    lines = [
        f"Failed seeds {of}: {', '.join(r.failed)}; the means leave them out."
        for of, r in (("of the record", record), ("again", again))
        if r.failed
    ]
    largest, figure = largest_difference(record, again)
    lines.append(
        "Largest difference of any figure: " + (f"{largest:.3g} ({figure})." if largest else "0.")
    )
    found = differences([record, again])
    making = [f"{name} ({' | '.join(values)})" for name, values in found.items()]
    lines.append(f"Code, versions, machine: {', '.join(making) or 'the same'}.")
    return lines


if __name__ == "__main__":
    run_script(reproduce)
