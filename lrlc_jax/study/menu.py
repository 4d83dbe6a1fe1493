"""The studies that ``configs/study`` offers."""

import pathlib

import yaml

from lrlc_jax.config import StudyConfig, study_config
from lrlc_jax.errors import InputError


def studies(configs: pathlib.Path) -> list[StudyConfig]:
    """Every study of the configuration folder, by name.

    Raises:
        InputError: for a file that is not a study.
    """
    found = []
    for path in sorted((configs / "study").glob("*.yaml")):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"Study {path} cannot be read: {reason}.") from None
        found.append(study_config({k: v for k, v in values.items() if k != "defaults"}))
    return found
