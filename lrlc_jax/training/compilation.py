"""Keeps compiled programs on disk between processes, and counts what compiling costs."""

from collections.abc import Callable

import jax

from lrlc_jax.files import cache_folder

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
EVENT_PREFIX = "/jax/core/compile/"


class CompileClock:
    """Programs compiled (or fetched from disk) in this process, and the seconds it took.

    Tracing and lowering count too.
    """

    def __init__(self) -> None:
        self.programs = 0
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(EVENT_PREFIX):
            self.seconds += duration_secs
        if event == COMPILE_EVENT:
            self.programs += 1


def enable_cache(*, write: bool = True) -> None:
    """Keep compiled programs in the user's cache folder, unless JAX is told of another one.

    Args:
        write: add what is compiled; without it, only what is there already is used.
    """
    update: Callable[[str, object], None] = jax.config.update
    if jax.config.values["jax_compilation_cache_dir"] is None:
        update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
        update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if not write:
        update("jax_persistent_cache_min_compile_time_secs", float("inf"))
