"""Tables and figures, made from records."""

import contextlib
import os
import sys

# Matplotlib cannot be imported with the name of an unknown backend in MPLBACKEND; our figures are
# written to files, without a backend.
if "matplotlib" not in sys.modules and (backend := os.environ.pop("MPLBACKEND", "")):
    import matplotlib as mpl

    os.environ["MPLBACKEND"] = backend
    with contextlib.suppress(ValueError):
        mpl.rcParams["backend"] = backend
