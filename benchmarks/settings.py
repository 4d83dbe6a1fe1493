"""Settings of the benchmark; ``configs/benchmark.yaml`` explains them and has their defaults."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.cases import TASKS, Layer
from benchmarks.peers import LAYERS, PEERS
from lrlc_jax.errors import InputError, at_least, one_of
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.layers.ops.product import WAYS
from lrlc_jax.networks import COMPUTATION


@dataclasses.dataclass
class Settings:
    """Settings of a run."""

    results_dir: str
    quick: bool
    tasks: list[str]
    precision: str
    product_way: str | None
    rounds: int
    batch_size: int
    image_shapes: list[Any]
    image_shape: Any
    layers: list[Layer]
    few_layers: list[Layer]
    peers: list[str]
    peer_layers: list[Layer]
    peers_python: str | None
    seeds: list[int]
    inference_batches: list[int]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Settings":
        """A composed configuration as checked settings.

        Raises:
            InputError: for a wrong value, naming the setting.
        """
        try:
            merged = OmegaConf.merge(OmegaConf.structured(cls), dict(values))
            settings: Settings = OmegaConf.to_object(merged)  # type: ignore[assignment]
        except OmegaConfBaseException as error:
            reason = str(error.msg or error).splitlines()[0].rstrip(".")
            raise InputError(f"{error.full_key}: {reason}.") from None
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse values outside of their range.

        Raises:
            InputError: naming the setting, its value and the allowed ones.
        """
        for name in ("results_dir", "tasks", "layers", "image_shapes", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty.")
        words: dict[str, tuple[list[Any], Any]] = {
            "task": (self.tasks, TASKS),
            "peer": (self.peers, PEERS),
        }
        words |= {"precision": ([self.precision], COMPUTATION)}
        words |= {"product_way": ([self.product_way] if self.product_way else [], WAYS)}
        for name, (given, allowed) in words.items():
            for word in given:
                one_of(name, word, allowed)
        shapes = [self.image_shape, *self.image_shapes]
        for shape in shapes:
            if not isinstance(shape, list) or len(shape) != 3:
                raise InputError(f"image_shapes has {shape}; give rows, columns and channels.")
        numbers = {"rounds": [self.rounds], "batch_size": [self.batch_size], "seeds": self.seeds}
        numbers |= {"inference_batches": self.inference_batches}
        numbers |= {"image_shapes": list(itertools.chain(*shapes))}
        for name, values in numbers.items():
            for value in values:
                at_least(name, value, 1)
        for layer in (*self.layers, *self.few_layers, *self.peer_layers):
            layer_config(layer)
        for layer in self.peer_layers:
            one_of("layer of the peers", layer["name"], LAYERS)
            if options := sorted(set(layer) - {"name", "at", "rank"}):
                raise InputError(f"peer_layers: the peers do not have {', '.join(options)}.")
        if self.precision == "bfloat16" and self.peers:
            raise InputError("precision is bfloat16, and the peers have none; add peers=[].")
