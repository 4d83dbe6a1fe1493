"""The schema of the configuration: types, defaults, and what is allowed."""

from lrlc_jax.config.layers import (
    DEPTH,
    LAYERS,
    CoordConvConfig,
    InputDependentLRLCConfig,
    LayerConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    MixedLRLCConfig,
    RankedLayerConfig,
    SpatialBiasConfig,
    SpecialLayerConfig,
    WideConvConfig,
)
from lrlc_jax.config.parse import layer_config, parse, results_folder, study_config
from lrlc_jax.config.schema import (
    PAPER_NETWORK,
    PAPER_PROTOCOL,
    Config,
    DatasetConfig,
    NetworkConfig,
    ProtocolConfig,
    StudyConfig,
    TrackerConfig,
)

__all__ = [
    "DEPTH",
    "LAYERS",
    "PAPER_NETWORK",
    "PAPER_PROTOCOL",
    "Config",
    "CoordConvConfig",
    "DatasetConfig",
    "InputDependentLRLCConfig",
    "LRLCConfig",
    "LayerConfig",
    "LocallyConnectedConfig",
    "MixedLRLCConfig",
    "NetworkConfig",
    "ProtocolConfig",
    "RankedLayerConfig",
    "SpatialBiasConfig",
    "SpecialLayerConfig",
    "StudyConfig",
    "TrackerConfig",
    "WideConvConfig",
    "layer_config",
    "parse",
    "results_folder",
    "study_config",
]
