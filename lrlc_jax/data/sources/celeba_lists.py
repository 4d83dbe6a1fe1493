"""The lists that come with CelebA's photographs: label, official split and person of each."""

import dataclasses
from collections.abc import Iterator

from lrlc_jax.data.sources.archive import check_published
from lrlc_jax.errors import InputError

ATTRIBUTES, PARTITION, PERSONS = (
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
    "identity_CelebA.txt",
)
COUNT = 202_599  # photographs in CelebA
LABEL, LABELLED = "Male", 84_434  # the column that is learned, and how often it is 1

# MD5 of the lists as they are published. Of the attributes only the column of the label is read,
# so that other forms of that list will do.
PUBLISHED_MD5 = {
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
    PERSONS: "32bd1bd63d3c78cd57e08160ec5ed1e2",
}


@dataclasses.dataclass(frozen=True)
class Lists:
    """What the lists say of every photograph, by its name.

    Attributes:
        labels: 1 for a man, 0 for a woman, as annotated.
        parts: of the official split: 0 training, 1 validation, 2 test.
        persons: a number for each person; None where the list is not there.
    """

    labels: dict[str, int]
    parts: dict[str, int]
    persons: dict[str, int] | None


def read_lists(files: dict[str, bytes], where: str) -> Lists:
    """The lists from the contents of their files, each by its name.

    Raises:
        InputError: if one is missing, is not the published one, or has the wrong number of rows.
    """
    for name in (ATTRIBUTES, PARTITION):
        if name not in files:
            raise InputError(f"{where} lacks {name} of CelebA.")
    numbers = {}
    for name, published in PUBLISHED_MD5.items():
        if name in files:
            check_published(files[name], "md5", published, f"{name} in {where}")
            numbers[name] = column(name, list(rows(files[name])), 1, where)
    return Lists(read_labels(files[ATTRIBUTES], where), numbers[PARTITION], numbers.get(PERSONS))


def read_labels(content: bytes, where: str) -> dict[str, int]:
    """The label of each photograph; the file opens with the number of rows and the columns."""
    lines = [*rows(content), [], []]
    said = lines[0][0] if lines[0] else ""
    names, entries = lines[1], [line for line in lines[2:] if line]
    if said != str(COUNT) or len(entries) != COUNT:
        raise InputError(
            f"{ATTRIBUTES} in {where} says that it has {said or 'no'} rows and has {len(entries)}, "
            f"where CelebA has {COUNT}; fetch it again."
        )
    if LABEL not in names:
        raise InputError(f"{ATTRIBUTES} in {where} has no column {LABEL}; fetch it again.")
    signs = column(ATTRIBUTES, entries, 1 + names.index(LABEL), where)
    labels = {name: int(sign > 0) for name, sign in signs.items()}
    if len(labels) != COUNT or sum(labels.values()) != LABELLED:
        raise InputError(
            f"{ATTRIBUTES} in {where} says {LABEL} of {sum(labels.values())} of {len(labels)} "
            f"photographs, where CelebA does of {LABELLED} of {COUNT}; fetch it again."
        )
    return labels


def rows(content: bytes) -> Iterator[list[str]]:
    """The words of each line."""
    return (line.split() for line in content.decode("utf-8", "replace").splitlines())


def column(name: str, entries: list[list[str]], place: int, where: str) -> dict[str, int]:
    """One number of each row, by the photograph's name."""
    found = {}
    for number, entry in enumerate(entries, start=1):
        try:
            found[entry[0]] = int(entry[place])
        except (IndexError, ValueError):
            raise InputError(
                f"Row {number} of {name} in {where} is damaged ({' '.join(entry)[:60]!r}); fetch "
                "it again."
            ) from None
    return found
