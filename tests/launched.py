"""A command for tests of launchers: ``launched.py FOLDER_OF_CONFIGS OVERRIDE...``."""

import os
import pathlib
import signal
import sys
import time

from lrlc_jax.cli import run_command
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.signals import Stopped, stoppable, wait

CONFIG = """
defaults:
  - _self_
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
job: succeeds
results_dir: results
worker: null
hydra:
  output_subdir: null
  run: {dir: .}
  sweep: {dir: "${results_dir}/multirun", subdir: .}
"""


def task(values, overrides):
    """Leave a file, and end in the way that ``job`` names."""
    del overrides
    job, folder = values["job"], pathlib.Path(values["results_dir"])
    file = folder / f"{job} {values['worker']}"
    again = file.exists()
    file.write_text(
        f"{'again' if again else 'first'}, GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}"
    )
    if job == "bad":
        raise InputError("job is bad.")
    if job == "fails":
        print("a table")
        raise RunError("it failed.")
    if job == "faulty":
        raise LookupError("a fault")
    if job == "dies" or (job == "dies once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "waits":  # outside of stoppable()
        print("begun", file=sys.stderr)
        time.sleep(60)
    if job in ("computes", "stays"):
        try:
            with stoppable():
                print("begun", file=sys.stderr)
                wait(lambda: time.sleep(60))
        except Stopped:
            print("kept")
            time.sleep(60 if job == "stays" else 0)
            return
    print("a table")


if __name__ == "__main__":
    run_command(task, pathlib.Path(sys.argv.pop(1)), "config")
