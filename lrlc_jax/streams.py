"""Standard streams of a command: open, and able to print every character."""

import codecs
import io
import os
import sys

ASCII = {"±": "+-", "\N{MULTIPLICATION SIGN}": "x"}
IN_ASCII = "lrlc_jax.ascii"  # name of the error handler


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that a stream cannot encode; ``?`` for those without a name in ASCII."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    return "".join(ASCII.get(character, "?") for character in lost), error.end


def prepare() -> None:
    """Connect closed streams to the null device, and print in ASCII what a stream cannot encode.

    Call it before a file is opened: a file that got the descriptor of a closed stream would get
    the warnings of libraries, too.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    codecs.register_error(IN_ASCII, in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=IN_ASCII)
