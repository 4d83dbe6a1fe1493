"""The studies that ``configs/study`` offers."""

import pathlib

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import StudyConfig, study_config


def studies(configs: pathlib.Path) -> list[StudyConfig]:
    """Every study of the configuration folder, by name.

    Raises:
        InputError: for a file that is not a study.
    """
    found = []
    for path in sorted((configs / "study").glob("*.yaml")):
        try:
            values = OmegaConf.to_container(OmegaConf.load(path))
        except (OSError, YAMLError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"Study {path} cannot be read: {reason}.") from None
        if not isinstance(values, dict):
            raise InputError(f"Study {path} is not a mapping of settings.")
        found.append(study_config({str(k): v for k, v in values.items() if k != "defaults"}))
    return found
