"""The report as one HTML page that needs no network: claims, tables, figures, learning curves."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lrlc_jax.experiments.record import Records, Run
from lrlc_jax.experiments.statistics import known
from lrlc_jax.progress import counted
from lrlc_jax.report import paper
from lrlc_jax.report.beside import nearest
from lrlc_jax.report.figures import COLORS
from lrlc_jax.report.results import setting_hash
from lrlc_jax.report.tables import FIDELITY, Table
from lrlc_jax.report.verdicts import (
    HOW,
    NOT_RUN,
    Claim,
    Verdict,
    any_run,
    claims,
    condition,
    not_run,
    texts,
)

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
        fidelity=FIDELITY,
        overview=overview(records, verdicts),
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


def overview(records: Records, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts by claim and data set: those of the paper, and others with a verdict.

    Of several runs with the same data, those nearest to the paper's count. A verdict comes with the
    numbers of its comparisons; it is empty where the claim is not about the data set.
    """
    found = {(one.claim.name, setting_hash(one.run)): one for one in verdicts}
    judged = {setting for _, setting in found}
    runs: dict[str, Run | None] = dict.fromkeys(paper.columns())
    runs |= {name: any_run(rows) for name, rows in nearest(records, judged).items()}

    def verdict(claim: Claim, name: str, run: Run | None) -> tuple[str, str]:
        if run and (known := found.get((claim.name, setting_hash(run)))):
            return known.verdict, known.counts
        return NOT_RUN if name in (claim.datasets or (name,)) else "", ""

    return {
        "columns": [condition(run) if run else f"{name}; no runs" for name, run in runs.items()],
        "rows": [
            (claim.text, [verdict(claim, name, run) for name, run in runs.items()])
            for claim in claims()
        ],
    }


def claim_sections(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """All claims, each with its verdict for every setting on record, and what is not run."""
    found = []
    for claim in claims():
        cases = [
            {
                "condition": condition(verdict.run),
                "verdict": verdict.verdict,
                "lines": texts(verdict),
            }
            for verdict in verdicts
            if verdict.claim == claim
        ]
        left = [(name, claim.command(name)) for name in not_run(claim, verdicts)]
        found.append({"text": claim.text, "where": claim.where, "cases": cases, "left": left})
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
        given = [(i, value) for i, value in enumerate(values) if value is not None]
        # A line of a single point is a dot.
        return " ".join(f"{round(left + i * step, 1)},{y(v)}" for i, v in given[:1] + given)

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
