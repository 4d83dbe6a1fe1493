"""Compute the test metrics of a record again from its weights (``--help``)."""

from collections.abc import Sequence

from lrlc_jax.cli import Arguments, run_script
from lrlc_jax.experiments.evaluate import evaluate

EPILOG = """\
On the record's own images, each metric equals the recorded one in all 7 digits, on the same machine
and versions. Settings of the data choose other images of the same shape:
  python scripts/evaluate.py results/records/NAME.json dataset.shift=[2,0]
  python scripts/evaluate.py results/records/NAME.json dataset.source=files dataset.path=FOLDER
The weights are in NAME.weights.safetensors, beside the record.
"""


def main(arguments: Sequence[str]) -> None:
    """Evaluate the networks of a record, and print the metrics."""
    parser = Arguments(description="Evaluate the networks of RECORD.", epilog=EPILOG)
    given = parser.parse_args(arguments)
    print("\n".join(evaluate(given.record, given.overrides)))


if __name__ == "__main__":
    run_script(main)
