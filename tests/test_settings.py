"""Any words on the command line are parsed, or get one sentence.

LRLC_JAX_EXAMPLES is the number of random command lines.
"""

import contextlib
import io
import os
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import parse
from tests.conftest import ROOT

EXAMPLES = int(os.environ.get("LRLC_JAX_EXAMPLES", "300"))
NAMES = [
    *("layer", "layer.rank", "layer.at", "layer.sharing", "layer.kernel_sizes", "layer.name"),
    *("protocol", "protocol.epochs", "protocol.seeds", "protocol.learning_rate", "protocol.name"),
    *("dataset", "dataset.path", "dataset.translate", "dataset.shift", "dataset.train_size"),
    *("network", "network.strides", "network.kernel_size", "network.precision", "network.blur"),
    *("results_dir", "budget_minutes", "product_way", "keep", "tracker.mode", "hydra.job.name"),
    *("hydra.run.dir", "hydra/launcher", "checkpoint.every_minutes", "layer.rank.deeper"),
]
characters = st.text(
    st.sampled_from("abz019 .,:;=+-~@/\\'\"[](){}$#%&*!?<>|\n\té±漢\U0001f600\udce9\x00\x1b"),
    max_size=12,
)
values = st.recursive(
    st.sampled_from(["true", "null", "nan", "inf", "-inf", "1e999", "0x1F", "1_000", "lrlc", ""])
    | st.integers(-(10**25), 10**25).map(str)
    | st.floats().map(str)
    | st.sampled_from(["results_dir", "nothing", "oc.env:NOTHING", "oc.decode:[", "now:%"]).map(
        "${{{}}}".format
    )
    | characters.map(lambda text: f"'{text}'")
    | characters,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
        | st.lists(inner, max_size=3).map(lambda parts: f"{{a:{',b:'.join(parts)}}}")
        | st.tuples(inner, st.integers(1, 400)).map(lambda p: "[" * p[1] + p[0] + "]" * p[1])
        | inner.map("choice({})".format)
        | inner.map("${{{}}}".format)
    ),
    max_leaves=4,
)
words = st.one_of(
    st.tuples(
        st.sampled_from(["", "", "", "+", "++", "~"]),
        st.sampled_from(NAMES) | characters,
        st.sampled_from(["=", "=", "=", "=", "", "=="]),
        values,
    ).map("".join),
    st.integers(1, 1500).map(lambda depth: f"+{'a.' * depth}b=1"),
    characters,
).filter(lambda word: not word.startswith("-"))  # a flag


def checked(values, overrides):
    assert isinstance(overrides, list)
    parse(values)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(given_words=st.lists(words, min_size=1, max_size=2))
def test_any_settings_are_parsed_or_get_one_sentence(tmp_path, given_words):
    errors = io.StringIO()
    with (
        contextlib.chdir(tmp_path),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
        mock.patch("sys.argv", ["train.py", *given_words]),
        mock.patch.dict("os.environ"),
        pytest.raises(SystemExit) as end,
    ):
        run_command(checked, ROOT / "configs", "config")
    said = errors.getvalue().splitlines()
    assert end.value.code in (0, 1, 2)
    assert len(said) == (end.value.code != 0), errors.getvalue()
