"""docs/fidelity.md quotes differences on record, and names settings and files that exist."""

import re

from lrlc_jax.experiments.config import SECTIONS
from lrlc_jax.experiments.record import read_records
from lrlc_jax.layers import LAYERS
from lrlc_jax.report.effects import effects_table
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "fidelity.md").read_text()
PUBLISHED = ROOT / "results" / "published"
SECTION = re.compile(r"`(dataset|layer|network|protocol)\.(\w+)")


def lines():
    return [line for line in PAGE.splitlines() if line.startswith("|")]


def test_every_difference_is_one_of_its_setting_on_record():
    table = effects_table(read_records(PUBLISHED))
    column = table.header.index("Difference")
    known = {(row[0], row[column]) for row in table.rows}
    quoted = [
        (line, number)
        for line in lines()
        for number in re.findall(r"[+-]\d+\.\d\d \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\]", line)
    ]
    assert quoted
    for line, number in quoted:
        settings = {".".join(found) for found in SECTION.findall(line)}
        assert any((setting, number) in known for setting in settings), number


def test_every_share_of_a_rank_is_published():
    tables = [path.read_text() for path in (PUBLISHED / "tables").glob("*-contrasts.md")]
    shares = re.findall(r"\b\d+: \d+ %(?:, \d+: \d+ %)*", PAGE)
    assert shares
    for share in shares:
        assert any(share in table for table in tables), share


def test_every_setting_exists():
    schemas = {**SECTIONS, "layer": None}
    for section, name in SECTION.findall(PAGE):
        kinds = [schemas[section]] if schemas[section] else LAYERS.values()
        assert any(hasattr(kind(), name) for kind in kinds), name


def test_every_file_exists():
    for path in re.findall(r"\]\(((?!http|#)[^)#]+)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
