"""Settings of the benchmark; ``configs/benchmark.yaml`` has their defaults."""

import dataclasses
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
    """Settings of a run.

    Attributes:
        results_dir: folder of the results.
        quick: one short block per case: finds errors, its times mean little.
        tasks: of ``TASKS``.
        precision: of all frameworks.
        product_way: of our products; None: the backend's default.
        rounds: timed blocks per case, after a warm-up.
        batch_size: of training steps.
        image_shapes: of our training steps.
        image_shape: of the peers, of inference and of several seeds.
        layers: of training steps; the first is the reference.
        few_layers: of inference and of several seeds.
        peers: names of peers.
        peer_layers: of the peers' training steps.
        peers_python: interpreter with the peers' frameworks; None: the one of ``make peers``.
        seeds: numbers of networks trained together.
        inference_batches: batch sizes of inference.
    """

    results_dir: str
    quick: bool
    tasks: list[str]
    precision: str
    product_way: str | None
    rounds: int
    batch_size: int
    image_shapes: list[list[int]]
    image_shape: list[int]
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
        if not self.results_dir:
            raise InputError("results_dir is empty; name the folder for the results.")
        for name in ("tasks", "layers", "image_shapes", "seeds", "inference_batches"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty; name at least one.")
        for name, words, allowed in (
            ("task", self.tasks, TASKS),
            ("peer", self.peers, PEERS),
            ("precision", [self.precision], COMPUTATION),
            ("product_way", [self.product_way] if self.product_way else [], WAYS),
        ):
            for word in words:
                one_of(name, word, allowed)
        numbers = {"rounds": [self.rounds], "batch_size": [self.batch_size]}
        numbers |= {"seeds": self.seeds, "inference_batches": self.inference_batches}
        numbers |= {"image_shapes": sum(self.image_shapes, []), "image_shape": self.image_shape}
        for name, values in numbers.items():
            for value in values:
                at_least(name, value, 1)
        for shape in (*self.image_shapes, self.image_shape):
            if len(shape) != 3:
                raise InputError(f"{shape} is no image shape; give rows, columns and channels.")
        for layer in (*self.layers, *self.few_layers, *self.peer_layers):
            layer_config(layer)
        for layer in self.peer_layers if self.peers else ():
            one_of("layer of the peers", layer["name"], LAYERS)
            if options := sorted(set(layer) - {"name", "at", "rank"}):
                raise InputError(f"peer_layers: the peers do not have {', '.join(options)}.")
        if self.precision == "bfloat16" and self.peers:
            raise InputError("precision is bfloat16, and the peers have none; add peers=[].")
