"""What data are called: in lines and tables, and in the names of files."""

from collections.abc import Sequence


def in_words(
    name: str, canvas: int | None = None, *, fresh: bool = False, notes: Sequence[str] = ()
) -> str:
    """The name, what was done to the images, and in what they differ from what the name stands for.

    >>> in_words("celeba", 48, notes=["PARTIAL: 2 of 3 images"])
    'celeba translated in 48x48 noise; PARTIAL: 2 of 3 images'
    """
    translated = f" translated in {canvas}x{canvas} noise" if canvas else ""
    anew = ", anew in each epoch" if fresh else ""
    return "; ".join([f"{name}{translated}{anew}", *notes])


def in_files(name: str, canvas: int | None = None) -> str:
    """The name for files.

    >>> in_files("celeba", 48)
    'celeba-in-48'
    """
    return f"{name}-in-{canvas}" if canvas else name
