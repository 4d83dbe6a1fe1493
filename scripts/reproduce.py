"""Repeat the run of a record, and compare the metrics (``--help``)."""

from collections.abc import Sequence

from lrlc_jax.cli import Arguments, run_script
from lrlc_jax.errors import RunError
from lrlc_jax.experiments.reproduce import reproduce
from lrlc_jax.experiments.statistics import DIFFERENT

EPILOG = """\
The last line begins with the verdict: equal (all metrics agree in every digit), within noise, or
different (exit status 1). docs/results.md explains the statistical test. The record determines the
metrics; paths of the data and devices can be set by name=value:
  python scripts/reproduce.py results/records/NAME.json dataset.path=FOLDER seeds_at_once=2
The new record goes to the folder reproductions beside the folder of the record, or to results_dir.
After an interruption the same command resumes; after the run it only compares.
"""


def main(arguments: Sequence[str]) -> None:
    """Repeat a run, unless that is done already, and print the comparison."""
    parser = Arguments(description="Repeat the run of RECORD and compare.", epilog=EPILOG)
    given = parser.parse_args(arguments)
    comparison, lines = reproduce(given.record, given.overrides)
    print("\n".join(lines))
    if comparison.verdict == DIFFERENT:
        raise RunError("the metrics differ by more than noise.")


if __name__ == "__main__":
    run_script(main)
