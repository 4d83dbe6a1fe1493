"""The cache of compiled programs on disk, and a clock of compilation."""

from collections.abc import Callable

import jax

from lrlc_jax.files import cache_folder

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
EVENT_PREFIX = "/jax/core/compile/"


class CompileClock:
    """Programs compiled or read from the cache since its creation, and seconds that this took.

    The seconds include tracing and lowering.
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
    """Keep compiled programs in the user's cache folder, or in the one that JAX is set to.

    Args:
        write: add newly compiled programs to the cache.
    """
    update: Callable[[str, object], None] = jax.config.update
    if jax.config.values["jax_compilation_cache_dir"] is None:
        update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
        update("jax_persistent_cache_min_compile_time_secs", 0.2)
    if not write:
        update("jax_persistent_cache_min_compile_time_secs", float("inf"))
