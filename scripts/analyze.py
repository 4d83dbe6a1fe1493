"""Measure the trained networks of records, and the same networks before training (``--help``)."""

from collections.abc import Sequence

from lrlc_jax.cli import Arguments, run_script
from lrlc_jax.experiments.analyze import Analyzer, from_words, lines_of

EPILOG = """\
All measures, or some; docs/instruments.md describes them:
  python scripts/analyze.py results/records/*.json images=900
  python scripts/analyze.py results/records/NAME.json measures=[relaxation,effective_rank]
The numbers and arrays go to the folder analysis beside the folder of each record, or in
results_dir; `make tables` draws their figures. What is on file is not measured again, unless with
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
    for path in paths:
        analysis, measured = analyzer(path)
        known = "" if measured else " (already on file)"
        print("\n".join(lines_of(analysis, analyzer.names)) + known, flush=True)


if __name__ == "__main__":
    run_script(main)
