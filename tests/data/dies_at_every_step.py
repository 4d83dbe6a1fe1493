"""Prepares data in a process that dies before its first change of the disk, its second, and so on.

python -m tests.data.dies_at_every_step FILES CACHE
"""

import os
import shutil
import sys

import pytest

from lrlc_jax.data import cache
from tests.data.conftest import shrink_celeba
from tests.data.examples import config

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Steps:
    """Counts changes of the disk, and ends the process before one of them."""

    count = 0
    last = 0

    def __call__(self, event, arguments):
        opened = event == "open" and (
            str(arguments[1])[:1] in "wxa" if arguments[1] else arguments[2] & os.O_CREAT
        )
        if event in CHANGES or opened:
            self.count += 1
            if self.count == self.last:
                os._exit(9)


def main(files, folder):
    shrink_celeba(pytest.MonkeyPatch())
    os.fsync = lambda _: None  # slow, and only the process dies here, not the machine
    settings = config(files, cache_dir=folder)
    steps, fingerprints = Steps(), set()
    sys.addaudithook(steps)
    for rebuild in (False, True):
        for number in range(1, 1000):
            child = os.fork()
            if not child:
                steps.count, steps.last = 0, number
                cache.prepare(settings, rebuild=rebuild)
                os._exit(0)
            died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            there = cache.cached(settings)  # raises unless it is absent or whole
            if there is not None:
                fingerprints.add(there.fingerprint)
            if died == 0:
                break
            assert died == 9, died
            if there is not None and not rebuild:
                shutil.rmtree(cache.cache_path(settings))
        assert os.listdir(folder) == ["celeba"], os.listdir(folder)
        print(f"died {number - 1} times")
    assert len(fingerprints) == 1
    print("always absent or whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
