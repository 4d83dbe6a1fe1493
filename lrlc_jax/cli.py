"""From a command line to typed settings, and from an error to one sentence and an exit status."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlc_jax.errors import InputError, RunError, unknown_name
from lrlc_jax.launch import (
    GOES_ON,
    INTERRUPTED,
    Ending,
    begin,
    do,
    first_line,
    reader_gone,
    workers_first,
)
from lrlc_jax.layers import LAYERS
from lrlc_jax.signals import computing

# The launchers that an extra of this package brings.
EXTRAS = {
    "joblib": "joblib",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
    "ray": "ray",
}


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with a sentence on standard error where the input or the work is bad."""
    try:
        yield
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except BrokenPipeError:
        raise reader_gone() from None
    except KeyboardInterrupt:
        print(GOES_ON, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


class Arguments(argparse.ArgumentParser):
    """The command line of a script that has no settings of Hydra's: names of files and flags."""

    def __init__(self, *, description: str, epilog: str) -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=epilog, formatter_class=plain)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message[:1].upper()}{message[1:]}; see --help.")


def run_script(task: Callable[[list[str]], int]) -> None:
    """Do ``task``, which gets the words of the command line and returns the exit status."""
    status = 0
    with one_sentence():
        try:
            status = task(sys.argv[1:])
            sys.stdout.flush()  # here a reader that has gone is no error
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{error.filename or 'The disk'}: {reason}.") from error
    raise SystemExit(status)


def run_command(
    task: Callable[[dict[str, Any], list[str]], int],
    configs: pathlib.Path,
    name: str,
) -> None:
    """Compose ``name`` from the folder ``configs`` with the command line, and do ``task``.

    The task gets the settings as plain values and the overrides that were given, and returns the
    exit status. With ``-m`` it is done for every combination, here or in the workers of Hydra's
    launcher; one that fails leaves the others to end, and the worst status counts.
    """
    # Hydra then hands errors over instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    endings = begin()
    folder = os.getcwd()

    def job(config: DictConfig) -> Ending:
        overrides = list(HydraConfig.get().overrides.task)

        def work() -> int:
            try:
                values = OmegaConf.to_container(config, resolve=True)
            except OmegaConfBaseException as error:
                raise explain(error, configs, name) from error
            with contextlib.chdir(folder):  # a cluster's workers start elsewhere
                status = task(values, overrides)  # type: ignore[arg-type]
            sys.stdout.flush()  # here a reader that has gone is no error
            return status

        return do(work, job_name(overrides))

    main = hydra.main(version_base="1.3", config_path=str(configs), config_name=name)(job)
    with one_sentence():
        try:
            with workers_first():
                main()
        except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
            raise explain(error, configs, name) from error
        except ConnectionError as error:
            raise gave_up(error) from error
        except OSError as error:
            raise InputError(
                f"{error.filename or 'The disk'} cannot be used ({error.strerror or error}); "
                "choose another results_dir or mend its permissions."
            ) from error
        except Exception as error:
            raise gave_up(error) from error
        finally:
            status = endings.tell()
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process; what is still computed for nobody is not waited for."""
    if computing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


def job_name(overrides: list[str]) -> str:
    """What to call a job of several, by what was given on the command line."""
    worker = next((given for given in overrides if given.startswith("worker=")), None)
    job = HydraConfig.get().job
    return worker or ("job" if OmegaConf.is_missing(job, "num") else f"job {job.num}")


def gave_up(error: Exception) -> RunError:
    """What a launcher says when a worker died, or when it cannot start any."""
    # submitit's first line says which worker, its second what happened to it.
    lines = str(error).strip().splitlines()[:2]
    reason = " ".join(lines).strip(" .:-") or type(error).__name__
    return RunError(
        f"Hydra's launcher gave up ({reason}). What is on record stays; the same command goes on."
    )


def explain(error: Exception, configs: pathlib.Path, name: str) -> InputError:
    """What Hydra found wrong with a command line, in one sentence."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and choice in EXTRAS:
            return InputError(
                f"{group}={choice} needs more: pip install -c constraints.txt "
                f"-e '.[{EXTRAS[choice]}]'."
            )
        return unknown_name(group or "configuration", choice, error.options or [])
    if isinstance(error, OverrideParseException):
        return InputError(
            f"{error.override!r} cannot be read; a setting is given as name=value, "
            "a list as name=[1,2]."
        )
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match and isinstance(error.__cause__, OmegaConfBaseException | None):
        return explain_setting(match.group(1), configs, name)
    words = str(error)
    if words.startswith("Error merging override") and error.__cause__:
        words += f": {first_line(error.__cause__)}"
    return InputError(" ".join(words.split()).rstrip(".") + ".")


def explain_setting(setting: str, configs: pathlib.Path, name: str) -> InputError:
    """Why there is no such setting in this configuration."""
    if setting.startswith("hydra."):
        return InputError(
            f"{setting} is not a setting of Hydra's, or not of the launcher that was chosen; "
            "--cfg hydra prints those there are."
        )
    schemas = LAYERS.items()
    owners = [
        n for n, s in schemas if setting in {f"layer.{f.name}" for f in dataclasses.fields(s)}
    ]
    names = setting_names(configs, name)
    if owners and "layer" in names:
        choices = " or ".join(f"layer={owner}" for owner in owners)
        return InputError(f"{setting} is not a setting of the layer chosen here; add {choices}.")
    if (configs / setting).is_dir() and setting not in names:
        return InputError(f"{setting} is not a setting of this command; see its --help.")
    return unknown_name("setting", setting, names)


def setting_names(configs: pathlib.Path, name: str) -> list[str]:
    """Every setting and group that a command line may name."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        config = compose(name)
    names = []

    def collect(node: dict[str, Any], prefix: str) -> None:
        for key, value in node.items():
            names.append(prefix + key)
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}.")

    collect(OmegaConf.to_container(config), "")  # type: ignore[arg-type]
    if "layer" in names:
        schemas = LAYERS.values()
        names += [f"layer.{field.name}" for s in schemas for field in dataclasses.fields(s)]
    return sorted(set(names))
