"""The same encoders by onnxruntime, for the bench."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from espnet_prune.bench.systems import System
from espnet_prune.export.onnx_graph import EncoderGraph
from espnet_prune.export.onnx_write import open_onnx, write_int8, write_onnx
from espnet_prune.serving.fast.encoder import MIN_FRAMES


def onnx_systems(
    compared: list[System], precisions: list[str], folder: Path
) -> list[System]:
    """Systems ``dense_onnx`` and ``compact_onnx`` for ours among those compared.

    Args:
        compared: what :func:`~espnet_prune.bench.systems.systems` made.
        precisions: those asked for; of them, fp32 and int8 exist here.
        folder: where the files are written; must outlive the systems.
    """
    found = []
    ours = [s for s in compared if s.name.startswith(("dense", "compact"))]
    networks = {(s.name, s.target): s for s in ours}.values()
    for number, system in enumerate(networks):
        files = {p: folder / f"{number}.{p}.onnx" for p in ("fp32", "int8")}
        write_onnx(
            EncoderGraph(system.encoder),
            torch.randn(2, 100, system.size.features),
            files["fp32"],
            ("features", "frames"),
            ["encoded"],
            MIN_FRAMES,
        )
        if "int8" in precisions:
            write_int8(files["fp32"], files["int8"])
        found += [
            System(
                f"{system.name}_onnx",
                precision,
                system.target,
                Runner(files[precision]),
                system.encoder,
                system.size,
                system.macs,
                files[precision].stat().st_size,
                # What its arena keeps would hide what a call needs.
                Runner(files[precision], arena=False).opened,
            )
            for precision in precisions
            if precision in files
        ]
    return found


class Runner:
    """Runs a file with as many threads as torch has."""

    def __init__(self, path: Path, arena: bool = True):
        self.session = cache(lambda threads: open_onnx(path, threads, arena))

    def opened(self) -> "Runner":
        """This one, when it has loaded the file for as many threads as torch has."""
        self.session(torch.get_num_threads())
        return self

    def __call__(self, features: Tensor, lengths: Tensor) -> list[object]:
        session = self.session(torch.get_num_threads())
        return session.run(None, {"features": features.numpy()})
