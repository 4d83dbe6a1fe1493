"""A command whose jobs end as they are told to: ``launched.py FOLDER_OF_CONFIGS OVERRIDE...``."""

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
what: ends
results_dir: results
worker: null
hydra:
  output_subdir: null
  run: {dir: .}
  sweep: {dir: "${results_dir}/multirun", subdir: .}
"""


def task(values, overrides):
    """End as ``what`` says, and leave a file that says how far it came."""
    del overrides
    what, place = values["what"], pathlib.Path(values["results_dir"])
    began = place / f"{what} {values['worker']}"
    again = began.exists()
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    began.write_text(f"{'again' if again else 'first'} on GPU {gpu}")
    if what == "bad":
        raise InputError("what is bad.")
    if what == "fails":
        raise RunError("it could not be done.")
    if what == "faulty":
        raise LookupError("a fault")
    if what == "dies" or (what == "dies once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "waits":
        print("begun", file=sys.stderr)
        for _ in range(600):
            time.sleep(0.1)
    if what == "computes":
        try:
            with stoppable():
                print("begun", file=sys.stderr)
                wait(lambda: time.sleep(60))
        except Stopped:
            print("what was done is kept")
            return 0
    print("all that was to do is done")
    return 1 if what == "partly" else 0


if __name__ == "__main__":
    run_command(task, pathlib.Path(sys.argv.pop(1)), "config")
