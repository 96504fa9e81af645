"""Write the transcripts that a data directory lacks, by the dense model.

    python3 -m espnet_prune.cli.transcribe --data DIR --config CONFIG --model WEIGHTS \\
        --out NEW_DIR

Pruning learns from what the dense model makes of audio; of its transcripts it needs no
better ones. Utterances that have words in ``text`` keep them.
"""

import argparse
import logging
import shutil
from pathlib import Path

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.base.table import read_table
from espnet_prune.cli import decode, format_audio
from espnet_prune.data.kaldi_dir import read_data_dir, write_data_dir
from espnet_prune.families.espnet.tasks import ASR, task_of
from espnet_prune.running.executor import add_arguments


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Kaldi directory")
    parser.add_argument("--config", type=Path, required=True, help="of the dense model")
    parser.add_argument("--model", type=Path, required=True, help="its weights")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--inference_config", type=Path, default=Path("conf/decode.yaml")
    )
    add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    if args.out.resolve() == args.data.resolve():
        raise InputError("--out", "is the directory to read", "give another")
    model = read_yaml(args.config)
    if task_of(model) is not ASR:
        what = "learns from symbols of language and task in its texts, too"
        raise InputError(args.config, what, "write these as docs/owsm.md says")
    data = read_data_dir(args.data, transcribed=False)
    lacking = [utterance for utterance, words in data.text.items() if not words]
    work = args.out.with_name(f"{args.out.name}_decoding")
    if lacking:
        write_data_dir(work / "data", data.subset(lacking))
        split = ["--nj", str(args.nj), "--executor", args.executor]
        split += ["--executor_args", args.executor_args]
        from espnet_prune.families.espnet.checkpoint import sampling_rate

        rate = str(sampling_rate(argparse.Namespace(**model)))
        audio = str(work / "audio")
        where = ["--in", str(work / "data"), "--out", audio, "--fs", rate]
        format_audio.main([*where, *split])
        by = ["--config", str(args.config), "--model", str(args.model)]
        by += ["--inference_config", str(args.inference_config)]
        decode.main([*by, "--data", audio, "--out", str(work / "text"), *split])
        said = read_table(work / "text/text", forgive=True)
        data.text |= {utterance: said[utterance] for utterance in lacking}
    silent = [utterance for utterance in lacking if not data.text[utterance]]
    if silent:
        logging.warning(
            f"the model hears no word in {len(silent)} utterances, as {silent[0]}: "
            "their transcripts stay empty"
        )
    write_data_dir(args.out, data)
    shutil.rmtree(work, ignore_errors=True)
    logging.info(f"{args.out}: {len(lacking)} of {len(data.text)} were transcribed")


if __name__ == "__main__":
    run_main(main)
