"""The README shows what the commands really print."""

import re

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_table_is_the_published_one():
    path, shown = re.search(r"<!-- (\S+) -->\n(.*?)<!-- end -->", README, re.DOTALL).groups()
    _title, _, table = (ROOT / path).read_text().partition("\n")
    assert shown.strip() == table.strip()


def test_every_file_that_it_names_exists():
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:configs|scripts|lrlc_jax)/[\w/]+\.(?:py|yaml)", README):
        assert (ROOT / path).exists(), path


def test_every_make_target_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
