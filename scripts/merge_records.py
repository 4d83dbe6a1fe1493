"""Bring the results of several machines together (``--help``)."""

import pathlib
import sys
from collections.abc import Sequence

from lrlc_jax.cli import Arguments, run_script
from lrlc_jax.errors import RunError
from lrlc_jax.experiments.merge import advice, carry_out, plan, report

DESCRIPTION = "Bring the records of several machines together in DEST."
EPILOG = """\
Equal records are one. Different records of the same run are never chosen between: all of them go
to DEST/conflicts, and the exit status is 1. Move the one to keep to DEST/records, or run it again:
  python scripts/reproduce.py DEST/conflicts/NAME.json
Everything is read and checked before anything is written; interrupted, the same command goes on.
"""


def merge(arguments: Sequence[str]) -> int:
    """Merge, and say what came of it."""
    parser = Arguments(description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "sources",
        metavar="SRC",
        nargs="+",
        type=pathlib.Path,
        help="a results folder (with records/ in it), a folder of records, or a record",
    )
    parser.add_argument(
        "destination",
        metavar="DEST",
        type=pathlib.Path,
        help="a results folder, or a folder of records; made if it is not there",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    given = parser.parse_args(arguments)
    merged = plan(given.sources, given.destination)
    if not given.dry_run:
        carry_out(merged)
    print("\n".join(report(merged)))
    if given.dry_run:
        print("Nothing was written (--dry-run).")
    sys.stdout.flush()
    if merged.conflicts:
        raise RunError(advice(merged))
    return 0


if __name__ == "__main__":
    run_script(merge)
