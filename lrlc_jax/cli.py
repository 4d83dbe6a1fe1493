"""Command lines: their settings, their errors in one sentence, and their exit status.

Hydra composes the settings and, with ``-m``, passes jobs to its launcher. It discards return values
and raises only the first of several errors. Jobs therefore return a :class:`Result` instead of
raising, and :func:`collected_results` collects the results of all jobs. A sweeper that searches
(``hydra/sweeper=optuna``) still gets what it expects: the value of a job, or its error.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import logging
import os
import pathlib
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TextIO

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlc_jax import signals, streams
from lrlc_jax.errors import InputError, RunError, shortened, unknown_name, yaml_problem

READER_GONE = 141  # exit status, as after SIGPIPE
INTERRUPTION = "interrupted; the same command goes on from here"
SEARCH_STOPPED = (
    "The search ended early: a run was stopped, or the command has no value to optimise."
)

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "ray")
DEEPEST = 20  # brackets within brackets, or parts of a name, in a word of the command line
LONGEST = 100  # characters of it in an error message
EXTRAS = {"hydra/launcher": LAUNCHERS, "hydra/sweeper": ("optuna",)}  # each choice needs an extra


@dataclasses.dataclass(frozen=True)
class Result:
    """Exit status of a job or command, its error in one line, and a worker's standard output.

    ``value`` is that of a finished job, for a search.
    """

    status: int = 0
    error: str = ""
    output: str = ""
    value: float | None = None


class FailedJobError(ValueError):
    """The error of a job, for a sweeper that searches."""


class SearchStopped(BaseException):
    """A job was stopped, so that the search ends; an Exception would count as a failed job."""


def attempt(work: Callable[[], float | None]) -> Result:
    """Call ``work``, and turn an error into a sentence and an exit status."""
    try:
        value = work()
        sys.stdout.flush()  # raises if the reader of a pipe has gone
    except (InputError, RunError) as error:
        return Result(error.status, f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Result(READER_GONE)
    except OSError as error:
        reason = f"{error.filename or 'The disk or the output'}: {error.strerror or error}"
        return Result(RunError.status, f"error: {reason}.")
    except Exception as error:
        if from_backend(error):
            return Result(InputError.status, f"error: {no_device(error)}")
        traceback.print_exc()  # a bug: the traceback is needed
        return Result(RunError.status, f"error: {type(error).__name__}: {first_line(error)}.")
    return Result(value=value)


def from_backend(error: Exception) -> bool:
    """Whether JAX could not start its devices."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return last.filename.endswith("xla_bridge.py")


def no_device(error: Exception) -> str:
    """Sentence for a start of JAX's devices that failed."""
    chosen, reason = os.environ.get("JAX_PLATFORMS"), f" ({first_line(error)})" * bool(str(error))
    advice = f"JAX_PLATFORMS is {chosen!r}: unset it, or name a device that is there"
    return (
        f"JAX cannot use its device{reason}; "
        f"{advice if chosen else 'JAX_PLATFORMS=cpu computes without it'}."
    )


def interruptible(work: Callable[[], float | None]) -> Result:
    """Like :func:`attempt`, and turn a signal into a result, too."""
    try:
        return attempt(work)
    except (KeyboardInterrupt, signals.Stopped):
        return Result(signals.INTERRUPTED, INTERRUPTION)


def leave(results: Iterable[Result]) -> NoReturn:
    """Print each output and error once, and exit with the highest status."""
    results = list(results)

    def tell() -> None:
        for output in dict.fromkeys(result.output for result in results if result.output):
            print(output, end="")

    results.append(attempt(tell))
    with contextlib.suppress(OSError):  # the terminal may be gone
        for error in dict.fromkeys(result.error for result in results if result.error):
            print(escaped(error), file=sys.stderr)
    status = max(result.status for result in results)
    if signals.abandoned():  # a normal exit would wait for the abandoned computation, or crash
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    raise SystemExit(status)


class Arguments(argparse.ArgumentParser):
    """Command line of a script without Hydra settings: a record, and ``name=value``.

    With ``several`` there may be more records, and all words together are ``words``.
    """

    def __init__(self, *, description: str, epilog: str, several: bool = False) -> None:
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=epilog, formatter_class=plain)
        if several:
            words = {"metavar": "RECORD", "help": "files of records, and name=value: see below"}
            self.add_argument("words", nargs="+", **words)  # type: ignore[arg-type]
            return
        record = {"metavar": "RECORD", "type": pathlib.Path, "help": "file of a record"}
        self.add_argument("record", **record)  # type: ignore[arg-type]
        self.add_argument("overrides", metavar="name=value", nargs="*", help="see below")

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise InputError(f"{message[:1].upper()}{message[1:]}; see --help.")


def escaped(text: str) -> str:
    """A text with its line ends and other control characters as in Python's literals."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def refuse_deep(words: Iterable[str]) -> None:
    """Raise an InputError for values within values that would exhaust the stack of a parser."""
    for word in words:
        steps = [(c in "[{(") - (c in ")}]") for c in word]  # also in quotes, but never below 0
        depths = itertools.accumulate(steps, lambda depth, step: max(0, depth + step), initial=0)
        parts = word.partition("=")[0].count(".")
        if max(parts, *depths) > DEEPEST:
            raise InputError(
                f"{shortened(word, LONGEST)!r} is nested too deeply; write name=value, or a list "
                "as name=[1,2]."
            )


def run_script(task: Callable[[list[str]], None]) -> NoReturn:
    """Call ``task`` with the words of the command line, and exit."""
    streams.prepare()

    def main() -> None:
        refuse_deep(sys.argv[1:])
        task(sys.argv[1:])

    leave([interruptible(main)])


def run_command(
    task: Callable[[dict[str, Any], list[str]], float | None], configs: pathlib.Path, name: str
) -> NoReturn:
    """Compose the settings ``name`` of the folder ``configs``, call ``task``, and exit.

    With ``-m`` the task is called for each combination of settings, here or in the workers of
    Hydra's launcher. All jobs run, even if some fail; the highest exit status counts. A sweeper
    that searches chooses the settings of a job by the values of earlier ones. It decides whether to
    go on after failed jobs; a stopped job ends the search.

    Args:
        task: called with the settings as plain values and the overrides of the command line. It
            raises InputError for bad input (status 2) and RunError if the work fails (status 1),
            and returns the value for a search; None if it was stopped, or has no value.
        configs: folder of the YAML files.
        name: of the main YAML file, without its suffix.
    """
    streams.prepare()
    logging.raiseExceptions = False  # Hydra logs what --info prints, perhaps to a closed pipe
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    OmegaConf.register_new_resolver("menu", lambda _root_: menu(configs, _root_), replace=True)
    OmegaConf.register_new_resolver("words", words, replace=True)
    folder, home = os.getcwd(), (platform.node(), os.getpid())

    def job(config: DictConfig) -> Result:
        given: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # not resolved
        overrides = [str(override) for override in given]

        def work() -> float | None:
            try:
                values: Any = OmegaConf.to_container(config, resolve=True)
            except OmegaConfBaseException as error:
                raise explain(error, configs, name) from error
            with contextlib.chdir(folder):  # workers on a cluster start elsewhere
                return task(values, overrides)

        if home == (platform.node(), os.getpid()):
            return attempt(work)
        number = f"job {HydraConfig.get().job.num}"
        return in_worker(work, next((o for o in overrides if o.startswith("worker=")), number))

    def main() -> None:
        refuse_deep(sys.argv[1:])
        for word in sys.argv[1:]:
            if word.startswith("~"):
                raise InputError(f"{word!r} would remove a setting; each is needed: give a value.")
        try:
            hydra.main(version_base="1.3", config_path=str(configs), config_name=name)(job)()
        except OSError as error:
            if error.filename or isinstance(error, HydraException):
                raise explain(error, configs, name) from error
            raise  # of the output
        except SearchStopped:
            results.append(Result(error=SEARCH_STOPPED))
        except Exception as error:  # Hydra's or its launcher's; a job's error is a result
            if isinstance(error, ValueError) and any(result.error for result in results):
                return  # a search ended because of failed jobs, whose errors are shown
            raise explain(error, configs, name) from error

    with collected_results() as results, signals.forwarded_to_workers():
        results.append(interruptible(main))
    leave(results)


@contextlib.contextmanager
def collected_results() -> Iterator[list[Result]]:
    """Collect the results of all jobs as Hydra reads them, and give a search their values."""
    results: list[Result] = []
    hydras: property = vars(JobReturn)["return_value"]

    def keep(job: JobReturn) -> float | None:
        result: Result = hydras.__get__(job)
        if result not in results:
            results.append(result)
        assert job.hydra_cfg is not None
        settings = job.hydra_cfg.hydra
        if settings.mode != RunMode.MULTIRUN or "BasicSweeper" in settings.sweeper._target_:
            return None
        if result.error and result.status != signals.INTERRUPTED:
            raise FailedJobError(result.error.removeprefix("error: "))
        if result.value is None:
            raise SearchStopped
        return result.value

    JobReturn.return_value = property(keep, hydras.fset)  # type: ignore
    try:
        yield results
    finally:
        JobReturn.return_value = hydras  # type: ignore


def in_worker(work: Callable[[], float | None], name: str) -> Result:
    """Call ``work`` in a launcher's worker; the result contains its standard output."""
    output = io.StringIO()

    def job() -> float | None:
        if signals.signalled():  # during an earlier job of this worker
            return None
        with signals.stoppable_job():
            return work()

    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(NamedLines(name, sys.stderr)),
    ):
        result = interruptible(job)
    return dataclasses.replace(result, output=output.getvalue())


class NamedLines(io.TextIOBase):
    """Stream shared by several workers: whole lines, each preceded by the name of its worker."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream, self.line = name, stream, ""

    def write(self, text: str) -> int:
        """Write the complete lines."""
        *lines, self.line = (self.line + text).split("\n")
        self.stream.write("".join(f"{self.name}: {line}\n" for line in lines))
        self.stream.flush()
        return len(text)


def first_line(error: BaseException) -> str:
    """First line of an error's message; its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def explain(error: Exception, configs: pathlib.Path, name: str) -> InputError | RunError:
    """One sentence for an error of Hydra, OmegaConf or a launcher, with the name of the setting."""
    reason = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    reason = reason or error.__context__
    refused = re.search(r"Could not override '((?!hydra\.)[^']+)'", str(error))
    if refused:
        return unknown_setting(refused[1], configs, name)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if choice not in EXTRAS.get(group, ()):
            valid = choices(configs, group) or error.options or []
            return unknown_name(group or "configuration", choice, valid)
        extra = choice.partition("_")[0]
        text = f"{group}={choice} needs an extra: pip install -c constraints.txt -e '.[{extra}]'"
    elif isinstance(error, OverrideParseException):
        text = not_parsed(error.override)
    elif isinstance(error, RecursionError):
        text = "A setting, or a file in the configuration folders, is nested too deeply"
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        text = f"{error.problem_mark.name}, {yaml_problem(error)}"
    elif isinstance(error, yaml.reader.ReaderError):
        text = f"{error.name} is not a text file in YAML ({error.reason})"
    elif isinstance(reason, OmegaConfBaseException) and reason.full_key:
        text = f"{reason.full_key}: {first_line(reason)}"
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename} cannot be used ({error.strerror}); choose another results_dir"
    elif isinstance(error, HydraException | OmegaConfBaseException | TypeError | ValueError):
        text = " ".join(str(error).split()).rstrip(".")
    else:  # submitit's first line names the worker, its second the cause
        lines = " ".join(str(error).split("\n")[:2]).strip(" .:-") or type(error).__name__
        return RunError(
            f"Hydra's launcher failed ({lines}). Finished work is kept; the same command goes on."
        )
    return InputError(f"{text}.")


def not_parsed(override: str) -> str:
    """Sentence for an override that Hydra cannot parse."""
    setting, equals, value = override.partition("=")
    text = (
        f"{shortened(override, LONGEST)!r} is not valid; write name=value, or a list as name=[1,2]"
    )
    if not (equals and value) or '"' in value:
        return text
    quoted = shlex.quote(f'{setting}="{value}"')
    return f"{text}; a value with spaces or special characters needs two kinds of quotes: " + (
        quoted if len(quoted) <= LONGEST else "'name=\"value\"'"
    )


def unknown_setting(setting: str, configs: pathlib.Path, name: str) -> InputError:
    """Error for a setting that the command or the chosen layer does not have."""
    from lrlc_jax.layers import LAYERS  # noqa: PLC0415 (slow to import; workers do not need it)

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        config: Any = OmegaConf.to_container(compose(name))
    groups = {group: list(values) for group, values in config.items() if isinstance(values, dict)}
    names = {*config, *(f"{group}.{field}" for group, fields in groups.items() for field in fields)}
    if "layer" in groups:
        fields = {n: {f"layer.{f.name}" for f in dataclasses.fields(LAYERS[n])} for n in LAYERS}
        owners = [f"layer={layer}" for layer, owned in fields.items() if setting in owned]
        if owners:
            return InputError(
                f"{setting} is not a setting of the chosen layer; add {' or '.join(owners)}."
            )
        names = names.union(*fields.values())
    return unknown_name("setting", setting, names)


def choices(configs: pathlib.Path, group: str) -> list[str]:
    """Names of the YAML files of a group; none if there is no such group."""
    return sorted(path.stem for path in (configs / group).glob("[!.]*.yaml"))


def menu(configs: pathlib.Path, config: DictConfig) -> str:
    """Resolver ``${menu:}``: a line for each group of a command, with its choices."""
    groups = [group for group in sorted(map(str, config)) if choices(configs, group)]
    return "\n".join(f"  {group}: {', '.join(choices(configs, group))}" for group in groups)


def words(*, _root_: DictConfig) -> str:
    """Resolver ``${words:}``: a line for each setting with allowed words, from its schema."""
    schemas = {str(group): OmegaConf.get_type(_root_, str(group)) for group in _root_}
    return "\n".join(
        f"  {group}.{field.name}: {', '.join(field.metadata['allowed'])}"
        for group, schema in schemas.items()
        if dataclasses.is_dataclass(schema)
        for field in dataclasses.fields(schema)
        if "allowed" in field.metadata
    )
