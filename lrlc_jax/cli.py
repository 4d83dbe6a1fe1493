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

from lrlc_jax.config import LAYERS
from lrlc_jax.errors import InputError, RunError, unknown_name
from lrlc_jax.stopping import computing

INTERRUPTED = 130
READER_GONE = 141  # as a shell says of a program that SIGPIPE ended


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with a sentence on standard error where the input or the work is bad."""
    try:
        yield
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.status) from None
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(READER_GONE) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
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
    exit status. With ``-m`` it is done for every combination, and the worst status counts.
    """
    statuses = [0]
    composed = False
    # Hydra then hands errors over instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def job(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        overrides = list(HydraConfig.get().overrides.task)
        # SystemExit passes through Hydra as it is.
        with one_sentence():
            values = OmegaConf.to_container(config, resolve=True)
            statuses.append(task(values, overrides))  # type: ignore[arg-type]
            sys.stdout.flush()  # here a reader that has gone is no error

    main = hydra.main(version_base="1.3", config_path=str(configs), config_name=name)(job)
    with one_sentence():
        try:
            main()
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, configs, name) from error
        except OSError as error:
            reason = error.strerror or error
            if composed:
                raise RunError(f"{error.filename or 'The disk'}: {reason}.") from error
            raise InputError(
                f"{error.filename or 'The disk'} cannot be used ({reason}); choose another "
                "results_dir or mend its permissions."
            ) from error
        except (TypeError, ValueError) as error:  # Hydra's own words for some odd values
            if composed:
                raise
            raise explain(error, configs, name) from error
    leave(max(statuses))


def leave(status: int) -> NoReturn:
    """End the process; what is still computed for nobody is not waited for."""
    if computing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


def explain(error: Exception, configs: pathlib.Path, name: str) -> InputError:
    """What Hydra found wrong with a command line, in one sentence."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return unknown_name(group or "configuration", choice, error.options or [])
    if isinstance(error, OverrideParseException):
        return InputError(
            f"{error.override!r} cannot be read; a setting is given as name=value, "
            "a list as name=[1,2]."
        )
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match and isinstance(error.__cause__, OmegaConfBaseException | None):
        return explain_setting(match.group(1), configs, name)
    return InputError(" ".join(str(error).split()).rstrip(".") + ".")


def explain_setting(setting: str, configs: pathlib.Path, name: str) -> InputError:
    """Why there is no such setting in this configuration."""
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
