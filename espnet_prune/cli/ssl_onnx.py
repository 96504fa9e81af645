"""Write a self-supervised encoder, dense or compact, as ONNX for onnxruntime.

    python -m espnet_prune.cli.ssl_onnx exp/hubert_compact_params50_distilled --int8

writes ``model.onnx`` there (``model.int8.onnx``, too), once onnxruntime computes what
torch does. Input ``audio`` (batch, sample) at 16 kHz as the preprocessor gives it,
without padding; outputs ``layer_0`` ... (batch, time, channel), the last is what the
model gives.
"""

import argparse
import logging
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_path


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Hugging Face directory")
    parser.add_argument("--out", type=Path, help="directory; default: the model's")
    parser.add_argument("--int8", action="store_true", help="write that one, too")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

    # isort: split
    from espnet_prune.families.ssl.model import read
    from espnet_prune.serving.speech_onnx import write_speech_int8, write_speech_onnx

    model, out = read(args.model), args.out or args.model
    if not out.is_dir():
        raise InputError("--out", f"{out} is no directory", "make it")
    path = out / "model.onnx"
    logging.info(f"writing {path} (takes a minute)")
    with atomic_path(path) as file:
        write_speech_onnx(model, file)
    if args.int8:
        with atomic_path(out / "model.int8.onnx") as file:
            write_speech_int8(model, path, file)


if __name__ == "__main__":
    run_main(main)
