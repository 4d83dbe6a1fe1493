"""Progress as plain lines, where standard error is no terminal."""

import pytest

from lrlc_jax import progress
from lrlc_jax.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_are_20_s_apart(capsys, clock):
    with Progress(1000, "image", "decoding") as shown:
        assert "1,000" in capsys.readouterr().err
        for _ in range(30):
            clock[0] += 1.0
            shown.advance(10, "note")
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("decoding: 200 of 1,000 images; note; about ")
        assert (shown.done, shown.total) == (300, 1000)


def test_the_time_left_follows_the_mean_speed_and_the_expected_total(capsys, clock):
    with Progress(100, "epoch") as shown:
        assert not capsys.readouterr().err
        shown.describe("run 1/2: [LRLC]")
        assert "[LRLC]" in capsys.readouterr().err
        for _ in range(11):
            clock[0] += 60.0  # more than the period of rich's own estimate
            shown.advance()
        assert shown.task.time_remaining == pytest.approx(89 * 60)
        shown.expect(21)
        assert shown.task.time_remaining == pytest.approx(10 * 60)
        assert "10 min" in shown.left
        shown.say("done [bold]")
    assert capsys.readouterr().err.endswith("done [bold]\n")
