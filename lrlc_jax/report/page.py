"""The report as one HTML page that needs no network: claims, tables, figures, learning curves."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lrlc_jax.experiments.record import Records, Run
from lrlc_jax.experiments.statistics import known
from lrlc_jax.progress import counted
from lrlc_jax.report.figures import COLORS
from lrlc_jax.report.tables import Table
from lrlc_jax.report.verdicts import HOW, Verdict, claims, condition, part_text

TITLE = "Is spatial invariance too strict a prior?"
CURVES = {"train_accuracy": "training", "validation_accuracy": "validation"}
# Axes of a learning curve, in units of its SVG, which is ``all`` wide.
AXES = {"left": 34, "top": 8, "width": 278, "height": 144, "all": 320}


def page(
    records: Records,
    verdicts: Sequence[Verdict],
    beside: Sequence[Table],
    studies: Sequence[Table],
    figures: Mapping[str, bytes],
) -> str:
    """The page; everything from records is escaped.

    Args:
        records: for the learning curves.
        verdicts: on claims.
        beside: tables of the paper with our numbers.
        studies: other tables.
        figures: SVG by name.
    """
    loader = FileSystemLoader(pathlib.Path(__file__).parent)
    environment = Environment(
        autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        title=TITLE,
        how=HOW,
        axes=AXES,
        count=counted(sum(len(run.records) for run in records.runs.values()), "record"),
        claims=claim_sections(verdicts),
        paper=beside,
        studies=studies,
        figures=[
            {"name": name, "svg": base64.b64encode(image).decode()}
            for name, image in figures.items()
        ],
        curves=[curve(run) for run in records.runs.values()],
    )


def claim_sections(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The claims with a verdict, each with a line for every setting on record."""
    found = []
    for claim in claims():
        cases = [
            {
                "condition": condition(verdict.run),
                "verdict": verdict.verdict,
                "lines": [part_text(part) for part in verdict.parts],
            }
            for verdict in verdicts
            if verdict.claim == claim
        ]
        if cases:
            found.append({"text": claim.text, "where": claim.where, "cases": cases})
    return found


def curve(run: Run) -> dict[str, Any]:
    """Learning curves of a run, in percent by epoch, and their places in the SVG."""
    found = {
        name: [mean_percent(by_seed) for by_seed in run.epochs.get(metric, [])]
        for metric, name in CURVES.items()
    }
    numbers = [value for values in found.values() for value in values if value is not None]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    height = max(high - low, 1e-9)
    epochs = max(len(values) for values in found.values())

    def y(value: float) -> float:
        return round(AXES["top"] + AXES["height"] * (1 - (value - low) / height), 1)

    def points(values: Sequence[float | None]) -> str:
        left, step = AXES["left"], AXES["width"] / max(1, epochs - 1)
        return " ".join(
            f"{round(left + i * step, 1)},{y(v)}" for i, v in enumerate(values) if v is not None
        )

    lines = zip(found.items(), COLORS, strict=False)
    return {
        "title": f"{run.label} on {run.data_title}, {counted(len(run.seeds), 'seed')}, "
        f"{run.run['network']['precision']}",
        "epochs": epochs,
        "series": [{"name": name, "y": values} for name, values in found.items()],
        "ticks": [{"y": y(value) + 3, "text": f"{value:.0f} %"} for value in (low, high)],
        "lines": [
            {"name": name, "color": color, "points": points(values)}
            for (name, values), color in lines
        ],
    }


def mean_percent(by_seed: Sequence[float | None]) -> float | None:
    """Mean over the seeds with a value, in percent with two digits."""
    values = known(by_seed)
    return round(100 * sum(values) / len(values), 2) if values else None
