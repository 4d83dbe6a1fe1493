"""Measure the trained networks of records, and the same networks before training (``--help``)."""

import sys
from collections.abc import Sequence

from lrlc_jax.cli import Arguments, run_script
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.analyze import Analyzer, from_words, lines_of

EPILOG = """\
All measures, or some; docs/instruments.md describes them:
  python scripts/analyze.py results/records/*.json images=900
  python scripts/analyze.py results/records/NAME.json "measures=[relaxation,effective_rank]"
The numbers and arrays go to the folder analysis beside the folder of each record, or in
results_dir; `make report` draws their figures. What is on file is not measured again, unless with
again=true, or with other settings: images (256; null for all), split (test, validation),
largest_shift, border, batch, seed. Images only measure: nothing is chosen by them. dataset.source,
dataset.path and dataset.cache_dir say where the data are. The weights must be beside each record:
keep=weights of train.py, sweep.py and reproduce.py.
"""


def main(arguments: Sequence[str]) -> None:
    """Measure the networks of each record, and print the values."""
    parser = Arguments(description="Measure the networks of RECORDs.", epilog=EPILOG, several=True)
    paths, config, data = from_words(parser.parse_args(arguments).words)
    analyzer = Analyzer(config, data)
    left = 0
    for path in paths:
        try:
            analysis, measured = analyzer(path)
        except InputError as error:
            if len(paths) == 1:
                raise
            left += 1
            print(error, file=sys.stderr)
            continue
        known = "" if measured else " (already on file)"
        print("\n".join(lines_of(analysis, analyzer.names)) + known, flush=True)
    if left:
        raise RunError(f"{left} of {len(paths)} records were not measured.")


if __name__ == "__main__":
    run_script(main)
