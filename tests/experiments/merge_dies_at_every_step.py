"""Merges in a process that dies before its first change of the disk, its second, and so on.

python -m tests.experiments.merge_dies_at_every_step DESTINATION SOURCE...
"""

import os
import pathlib
import shutil
import sys

from lrlc_jax.experiments.merge import carry_out, plan, report
from lrlc_jax.experiments.record import read
from tests.data.dies_at_every_step import Steps


def merge(sources, destination):
    merged = plan(sources, destination)
    carry_out(merged)
    return report(merged)[1:]  # the first line counts what was there already


def files(folder):
    """What lies where, but for what a killed write leaves behind."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".tmp"
    }


def digests(folder):
    return {read(path).digest for path in folder.rglob("*.json")}


def main(destination, *sources):
    first, sources = pathlib.Path(destination), [pathlib.Path(source) for source in sources]
    whole, work = first.with_name("whole"), first.with_name("work")
    shutil.copytree(first, whole)
    merge(sources, whole)
    steps = Steps()
    sys.addaudithook(steps)
    for number in range(1, 1000):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(first, work)
        child = os.fork()
        if not child:
            steps.count, steps.last = 0, number
            merge(sources, work)
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert digests(work) >= digests(first), "a record was lost"
        if number % 2:  # another merge may come before the same one is done again
            merge([first / "records"], work)
        merge(sources, work)
        assert files(work) == files(whole), number
        if died == 0:
            break
        assert died == 9, died
    print(f"died {number - 1} times; always the same result")


if __name__ == "__main__":
    main(*sys.argv[1:])
