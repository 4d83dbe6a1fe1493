"""Cut the compact set of reference numbers in this folder out of the whole.

python -m tests.golden.compact FOLDER
"""

import json
import pathlib
import sys

import numpy as np

from tests.golden import EVERY, FOLDER, MANY

OPTIONS = ["dil2", "nochannelbias", "nospatialbias", "relu", "same"]
CASES = {
    "layer_fixed_rowcol": [
        "rowcol_softmax_rank1_stride1_k3",
        "rowcol_softmax_rank4_stride1_k3",
        "rowcol_norm_rank2_stride2_k3",
        "rowcol_none_rank4_stride2_k3",
        *(f"rowcol_softmax_rank2_stride1_k3_{option}" for option in OPTIONS),
        "rowcol_softmax_rank2_stride1_k3x2",
        "rowcol_softmax_rank2_stride1_k5",
        "rowcol_softmax_rank2_stride2_k3_same",
    ],
    **{
        f"layer_fixed_{sharing}": [
            f"{sharing}_softmax_rank4_stride2_k3",
            f"{sharing}_norm_rank2_stride2_k3",
            f"{sharing}_none_rank1_stride2_k3",
            f"{sharing}_softmax_rank2_stride2_k3_same",
        ]
        for sharing in ("full", "row", "col")
    },
    "layer_input_dependent": [
        "inputdep_softmax_rank1_in14x14",
        "inputdep_softmax_rank2_in14x14_nochannelbias",
        "inputdep_softmax_rank2_in14x14_stride2",
        *(f"inputdep_softmax_rank4_in{size}" for size in ("17x18", "3x5", "4x4", "5x7", "9x8")),
        "inputdep_norm_rank2_in6x6",
        "inputdep_none_rank4_in6x6",
    ],
    "layer_mixed_bases": [
        "mixed_full_softmax_k33_22_dil1",
        "mixed_full_norm_k33_dil1_2",
        "mixed_full_none_k33_22_dil1_2",
        "mixed_inputdep_softmax_k33_22_dil1_2",
        "mixed_inputdep_norm_k33_dil1_2",
        "mixed_inputdep_none_k33_22_dil1",
        "mixed_rowcol_softmax_k33_22_dil1_2",
    ],
}
NETWORKS = [
    "conv2d",
    "coord_conv",
    "lrlc_layer1_rank4",
    "lrlc_layer2_rank2_full",
    "lrlc_layer3_rank4_norm",
    "lrlc_all_rank2",
    "input_dependent_layer1_rank2",
    "input_dependent_layer3_rank2",
    "wide_conv_layer2_rank4",
    "wide_conv_layer3_rank4",
    "locally_connected_layer1",
    "nobn_lrlc_layer2_rank2",
    "flatten_strided_lrlc_layer2_rank2",
]
RANKS = ("1", "4", "30")  # of the parameter counts
META = ["config", "weight_order", "trainable", "trainable_parameters"]
UNUSED = ("pooled_train", "pooled_eval")


def reduced(name: str, value: np.ndarray) -> np.ndarray:
    """Every 7th value of a large array that tests only compare with."""
    compared = "grad_" in name or "/g/" in f"/{name}" or name == "celeba/cropped"
    return value.ravel()[::EVERY] if compared and value.size > MANY else value


def write(name: str, arrays: dict[str, np.ndarray], description: dict[str, object]) -> None:
    """Write one file with its description as JSON, if it has any."""
    kept = {key: reduced(key, value) for key, value in arrays.items()}
    texts = {key: np.array(json.dumps(value)) for key, value in description.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **kept, **texts)


def main(whole: pathlib.Path) -> None:
    """Write every file of the compact set."""
    for name, cases in CASES.items():
        with np.load(whole / f"{name}.npz") as file:
            about = json.loads(str(file["cases"]))
            arrays = {k: file[k] for k in file.files if k.split("/")[0] in cases}
        keys = ("config", "input_shape", "weight_order")
        write(name, arrays, {"cases": {c: {k: about[c][k] for k in keys} for c in cases}})
    for variant in NETWORKS:
        with np.load(whole / f"net_{variant}.npz") as file:
            meta = json.loads(str(file["meta"]))
            arrays = {k: file[k] for k in file.files if k not in (*UNUSED, "meta")}
        write(f"net_{variant}", arrays, {"meta": {key: meta[key] for key in META}})
    with np.load(whole / "preprocess.npz") as file:
        write("preprocess", {k: file[k] for k in file.files if k != "meta"}, {})
    counts = json.loads((whole / "param_counts.json").read_text())
    for table in counts.values():
        table["variants"] = {
            key: {k: entry[k] for k in ("trainable", "non_trainable")}
            for key, entry in table["variants"].items()
            if key.rpartition("rank=")[2] in RANKS or "rank" not in key
        }
    stats = json.loads((whole / "init_stats.json").read_text())
    for weights in stats.values():
        for key, entry in weights.items():
            kept = ("shape", "mean", "uniform_limit", "uniform_std")
            weights[key] = {k: entry[k] for k in kept if k in entry}
    for name, values in (("param_counts", counts), ("init_stats", stats)):
        (FOLDER / f"{name}.json").write_text(json.dumps(values, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
