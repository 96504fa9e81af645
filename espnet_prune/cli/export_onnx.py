"""Write a folder that decodes without torch and ESPnet: the model as ONNX.

    python -m espnet_prune.cli.export_onnx exp/synth_compact_params_macs50

writes ``exp/synth_compact_params_macs50/onnx``: ``model.onnx``, ``model.int8.onnx``,
``tokens.txt`` (one a line; the first is CTC's blank), and ``decode.py`` and
``decode.cpp``, which decode WAV files with them. The models compute, from audio, what
ESPnet's model does, features included; in int8 nearly. Input ``speech``
(batch, sample) in [-1, 1], without padding; outputs ``log_probs``
(batch, time, token) and ``features`` (batch, frame, mel). Metadata: ``sampling_rate``,
``longest_seconds``, which the programs take, and ``between_tokens``, what stands
between two tokens in a text.
"""

import argparse
import logging
import shutil
from importlib import resources
from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_dir
from espnet_prune.config.rungs import FINETUNED, PRUNED
from espnet_prune.export import deployment
from espnet_prune.export.recognizer import Recognizer
from espnet_prune.families.espnet.checkpoint import load_model, sampling_rate
from espnet_prune.families.espnet.layers import content, shortest
from espnet_prune.families.espnet.tasks import require_asr, task_of
from espnet_prune.serving.int8 import write_int8
from espnet_prune.serving.load import refuse_gates, runs
from espnet_prune.serving.onnx import Runner, difference, write_onnx
from espnet_prune.training.task import PruneASRTask  # noqa: F401  (knows pruning runs)

# Of outputs, relative to the largest.
TOLERANCE, INT8_TOLERANCE = 1e-4, 0.2
WEIGHTS = (FINETUNED, PRUNED, "valid.acc.ave.pth")
SECONDS = (0.3, 1.0, 3.7, 12.0)  # lengths at which the outputs are compared
TOKENS = "tokens.txt"
LONGEST = 600  # seconds that the programs take: memory for them grows with the length
BETWEEN = {"bpe": "", "char": ""}  # two tokens of another type is a blank


def differences(
    run: Runner, model: ESPnetASRModel, audio: list[Tensor]
) -> tuple[float, float]:
    """Measure how far onnxruntime's outputs are from ESPnet's.

    Args:
        run: of a file that this program wrote.
        model: what it was written from.
        audio: each (batch, sample), without padding.

    Returns:
        the largest difference of features; and that of log probabilities that both make
        of the same features, so that a model which amplifies rounding is not blamed.
    """
    found = [(0.0, 0.0)]
    for speech in audio:
        log_probs, features = run(speech)
        with torch.no_grad():
            lengths = torch.full((len(speech),), speech.shape[1])
            wanted, frames = model._extract_feats(speech, lengths)
            if model.normalize is not None:
                wanted, frames = model.normalize(wanted, frames)
            encoded = content(model.encoder(torch.from_numpy(features), frames)[0])
            expected = model.ctc.log_softmax(encoded)
        found.append((difference(features, wanted), difference(log_probs, expected)))
    by_features, by_log_probs = zip(*found, strict=True)
    return max(by_features), max(by_log_probs)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("exp", type=Path, help="directory of the model's config.yaml")
    parser.add_argument("--model", type=Path, help=f"weights; default: {WEIGHTS} in it")
    parser.add_argument("--out", type=Path, help="the folder; default: EXP/onnx")
    return parser


def weights_of(exp: Path) -> Path:
    """Find the weights of an experiment: the fine-tuned ones, if there are any."""
    for name in WEIGHTS:
        if (exp / name).is_file():
            return exp / name
    if not exp.is_dir():
        raise InputError(
            exp, "no such directory", "run stage 13 of it, or name another"
        )
    raise InputError(exp, f"holds none of {', '.join(WEIGHTS)}", "give --model FILE")


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    config = args.exp / "config.yaml"
    weights = args.model or weights_of(args.exp)
    out = args.out or args.exp / "onnx"
    if out.exists() and not (out / "decode.cpp").is_file():
        raise InputError(out, "is no folder of this program", "give another --out")
    model, train_args = load_model(config, weights)
    refuse_gates(vars(train_args), config)
    require_asr(task_of(vars(train_args)), config, "load it: espnet_prune.load")
    runs(vars(train_args), "int8", config)
    logging.info(f"exporting {weights} (takes a minute)")
    with atomic_dir(out) as folder:
        rate = sampling_rate(train_args)
        between = BETWEEN.get(train_args.token_type, " ")
        about = {"sampling_rate": str(rate), "longest_seconds": str(LONGEST)}
        about["between_tokens"] = between
        write_models(model, rate, about, folder)
        tokens = "".join(f"{token}\n" for token in model.token_list)
        (folder / TOKENS).write_text(tokens, encoding="utf-8")
        for program in resources.files(deployment).iterdir():
            if program.name.startswith("decode."):
                shutil.copy(program, folder)
    logging.info(f"decode with: python3 {out / 'decode.py'} {out / 'model.onnx'} WAV")


def write_models(
    model: ESPnetASRModel, rate: int, metadata: dict[str, str], folder: Path
) -> None:
    """Write ``model.onnx`` and ``model.int8.onnx``, and hold them against ESPnet's.

    Args:
        model: dense or compact.
        rate: samples of a second.
        metadata: what the files say about themselves.
        folder: where they go; without that in int8 where its outputs are too far off.

    Raises:
        InputError: outputs differ.
    """
    graph = Recognizer(model).eval()
    frames = shortest(model.encoder.embed)
    least = frames * graph.features.hop + len(graph.features.basis)
    audio = [0.1 * torch.randn(n, round(s * rate)) for s in SECONDS for n in (1, 2)]
    exact, rough = folder / "model.onnx", folder / "model.int8.onnx"
    outputs = ["log_probs", "features"]
    example, names = torch.randn(2, rate), ("speech", "samples")
    write_onnx(graph, example, exact, names, outputs, least, metadata)
    found = differences(Runner(exact), model, audio)
    if not all(by < TOLERANCE for by in found):
        raise InputError(
            "model",
            "onnxruntime's outputs differ from ESPnet's by {:.2g} (features) and "
            "{:.2g} (log probabilities)".format(*found),
            "please report this, with the config",
        )
    log_file(exact, found[1])
    # Powers span too many magnitudes for eight bits; the head is small.
    write_int8(exact, rough, keep=("features", "head"))
    by = differences(Runner(rough), model, audio)[1]
    if not by < INT8_TOLERANCE:
        logging.warning(f"in int8 the log probabilities change by {by:.2g}: left out")
        rough.unlink()
        return
    log_file(rough, by)


def log_file(path: Path, by: float) -> None:
    size = path.stat().st_size / 1e6
    logging.info(f"{path.name}: {size:.2f} MB, log_probs within {by:.1g} of ESPnet's")


if __name__ == "__main__":
    run_main(main)
