"""Encoders for inference only: the same outputs, faster, in a chosen precision.

They stand apart from what loads models (:mod:`espnet_prune.serving.load`): that imports
ESPnet's tasks, whose import imports the student.
"""

import functools
import hashlib
import importlib.util
import logging
import platform
import tempfile
from pathlib import Path

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import atomic_path, fingerprint
from espnet_prune.config.run_options import PRECISIONS
from espnet_prune.families.espnet import attention, compact, graph
from espnet_prune.families.espnet.graph import EncoderGraph
from espnet_prune.families.espnet.layers import content, refuse_too_short, shortest
from espnet_prune.serving import int8, onnx
from espnet_prune.serving.int8 import write_int8
from espnet_prune.serving.onnx import Runner, difference, write_onnx

PRUNING_RUN = (
    "is a pruning run",
    "export it first: stage 13 of run.sh, or python3 -m espnet_prune.cli.export",
)
# How far outputs for noise may be off, relative to the largest.
TOLERANCES = {"fp32": 1e-3, "int8": 0.3}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what there is not on a device; int8 that is hardly faster is warned of.

    Raises:
        InputError: names the precisions to take instead.
    """
    if precision not in PRECISIONS:
        raise InputError("precision", f"{precision!r} is none of {PRECISIONS}")
    if precision == "bf16" and device.type != "cuda":
        mend = "use int8, which is as fast and as exact there, or fp32"
        raise InputError("precision", f"bf16 is for GPUs, not for {device.type}", mend)
    if precision == "bf16" and not torch.cuda.is_bf16_supported(False):
        raise InputError("precision", "this GPU has no fast bf16", "use fp32")
    if precision == "int8" and device.type != "cpu":
        what = f"int8 is for CPUs, not for {device.type}"
        raise InputError("precision", what, "use bf16")
    if precision == "int8" and not has_runtime():
        raise InputError(
            "precision",
            "int8 needs onnxruntime and onnxscript",
            "pip install -r requirements.txt, or use fp32",
        )
    if precision == "int8":
        _warn_of_slow_int8()


@functools.cache  # once
def _warn_of_slow_int8() -> None:
    if platform.machine() == "x86_64" and not torch.cpu._is_vnni_supported():
        logging.warning(
            "int8 will hardly be faster than fp32 here: this CPU has no VNNI"
        )


@functools.cache
def has_runtime() -> bool:
    """Tell whether onnxruntime, and what writes its files, is installed."""
    found = importlib.util.find_spec
    return all(found(name) for name in ("onnx", "onnxruntime", "onnxscript"))


class RuntimeEncoder(AbsEncoder):
    """An encoder by onnxruntime, on the CPU, of its weights as they are.

    It has no parameters: it cannot be trained, saved or moved to another device.
    Utterances of a batch are encoded one by one: padding reaches none of them, while
    ESPnet 202511 lets it reach the last frames through the convolutions.

    Args:
        encoder: ESPnet's, of a kind that can be pruned, or the compact one made of it.
        features: of each frame.
        precision: ``fp32`` or ``int8``: weights of matrix products and of the
            subsampling, and their inputs as they come.
        arena: whether the memory of a call is kept for the next.
    """

    interctc_use_conditioning = False  # ESPnet's S2T model asks

    def __init__(
        self, encoder: AbsEncoder, features: int, precision: str, arena: bool = True
    ):
        super().__init__()
        self.size, self.precision = encoder.output_size(), precision
        self.least = shortest(encoder.embed)
        self.run = Runner(graph_file(encoder, features, precision), arena)

    def output_size(self) -> int:
        return self.size

    @torch.no_grad()
    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: None = None,
        ctc: torch.nn.Module | None = None,
    ) -> tuple[Tensor, Tensor, None]:
        """Encode (batch, frame, feature) and (batch,) frames.

        The result is (batch, time, channel) and (batch,) times.
        """
        outputs = []
        for x, frames in zip(xs_pad, ilens.tolist(), strict=True):
            refuse_too_short(frames, self.least)
            x = x[None, :frames].float()
            # What is not finite must not be heard as silence by a ReLU or a rounding.
            lost = (x * 0).sum()
            outputs.append(torch.from_numpy(self.run(x)[0])[0] + lost)
        times = torch.tensor([len(output) for output in outputs])
        return pad_sequence(outputs, batch_first=True), times, None


class AutocastEncoder(AbsEncoder):
    """An encoder whose products are computed in bf16, on a GPU.

    Args:
        encoder: any of ESPnet's.
    """

    precision = "bf16"

    def __init__(self, encoder: AbsEncoder):
        super().__init__()
        self.encoder = encoder
        conditioned = getattr(encoder, "interctc_use_conditioning", False)
        self.interctc_use_conditioning = conditioned  # ESPnet's models ask

    def output_size(self) -> int:
        return self.encoder.output_size()

    def forward(self, xs_pad: Tensor, *args, **options):
        """Encode as the encoder does."""
        with torch.autocast(xs_pad.device.type, torch.bfloat16):
            out, *more = self.encoder(xs_pad, *args, **options)
        if isinstance(out, tuple):  # with intermediate CTC: block, what it sees
            between = [(i, x.to(xs_pad.dtype)) for i, x in out[1]]
            return (out[0].to(xs_pad.dtype), between), *more
        return out.to(xs_pad.dtype), *more


def graph_file(encoder: AbsEncoder, features: int, precision: str) -> Path:
    """The function returns the ONNX file of an encoder, and writes it where none is, or
    the one that is there is not right.

    Files are kept where torch keeps what it downloads (``TORCH_HOME``), where that can
    be written.

    Args:
        encoder, features, precision: as for :class:`RuntimeEncoder`.
    """
    known = hashlib.sha256(f"{encoder} {torch.__version__} {_makers()}".encode())
    for name, tensor in encoder.state_dict().items():
        known.update(f"{name} {tuple(tensor.shape)}".encode())
        known.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    path = _cache() / f"{known.hexdigest()[:32]}.{precision}.onnx"
    try:
        check_graph(path, encoder, features, precision)
    except Exception:  # not there, damaged, or hooks do what no weight tells
        logging.info(f"writing the encoder in {precision} for onnxruntime: {path}")
        write_graph(encoder, features, precision, path)
    return path


@functools.cache
def _makers() -> str:
    """Digest the code that makes the files."""
    modules = (graph, attention, compact, onnx, int8)
    files = [module.__file__ for module in modules]
    files.append(Path(onnx.__file__).with_name("blocks.py"))
    return " ".join(map(fingerprint, files))


@functools.cache
def _cache() -> Path:
    """Find a folder for the files, or make one that ends with the process."""
    folder = Path(torch.hub.get_dir()).parent / "espnet_prune"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        _cache.own = tempfile.TemporaryDirectory()
        logging.warning(
            f"{folder} cannot be written (TORCH_HOME): the encoder is written anew by "
            "each process"
        )
        return Path(_cache.own.name)


def write_graph(encoder: AbsEncoder, features: int, precision: str, path: Path) -> None:
    """Write an encoder as ONNX, and hold the file against it.

    Args:
        encoder, features, precision: as for :class:`RuntimeEncoder`.
        path: appears only once the outputs are the encoder's.

    Raises:
        RuntimeError: they are not.
    """
    with atomic_path(path) as file:
        if precision == "int8":
            write_int8(graph_file(encoder, features, "fp32"), file)
        else:
            example = torch.randn(2, 100, features)
            names = "features", "frames"
            module = EncoderGraph(encoder).eval()
            least = shortest(encoder.embed)
            write_onnx(module, example, file, names, ["encoded"], least)
        check_graph(file, encoder, features, precision)


@torch.no_grad()
def check_graph(file: Path, encoder: AbsEncoder, features: int, precision: str) -> None:
    """Hold a file against the encoder on noise of several lengths.

    Raises:
        RuntimeError: the outputs differ.
    """
    if not file.exists():
        raise FileNotFoundError(file)
    run, was_training = Runner(file, arena=False), encoder.training
    encoder.eval()
    draw = torch.Generator().manual_seed(0)
    for frames in (shortest(encoder.embed), 50, 333):
        x = torch.randn(1, frames, features, generator=draw)
        expected = content(encoder(x, torch.tensor([frames]))[0])
        if not (by := difference(run(x)[0], expected)) < TOLERANCES[precision]:
            raise RuntimeError(
                f"onnxruntime's outputs in {precision} differ from torch's by {by:.2g}"
            )
    encoder.train(was_training)
