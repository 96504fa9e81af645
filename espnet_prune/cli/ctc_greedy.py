"""Decode by CTC greedily, in batches (one shard of stage 15).

Takes the options of ``espnet2.bin.asr_inference`` that it needs, and writes the files
that it writes, as ``<output_dir>/1best_recog/{text,token,token_int,score}``.
"""

import argparse
import logging
from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

import torch

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import read_yaml
from espnet_prune.base.table import read_table, write_table
from espnet_prune.data.audio import load_source
from espnet_prune.families.espnet.checkpoint import sampling_rate
from espnet_prune.serving.fast.precision import PRECISIONS
from espnet_prune.serving.greedy import GreedyDecoder, batches
from espnet_prune.serving.load import load

OPTIONS = {"ctc_greedy", "batch_seconds"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="conf/decode_*.yaml")
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--data_path_and_name_and_type", required=True)
    parser.add_argument("--key_file", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--ngpu", type=int, default=0)
    parser.add_argument("--num_workers", type=int, help="for ESPnet's sake; no effect")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    options = read_yaml(args.config)
    if unknown := options.keys() - OPTIONS:
        raise InputError(args.config, f"{sorted(unknown)} do not go with ctc_greedy")
    scp = Path(args.data_path_and_name_and_type.partition(",")[0])
    sources = read_table(scp)
    keys = args.key_file.read_text().split()
    device = "cuda" if args.ngpu else "cpu"
    speech2text = load(
        args.asr_train_config, args.asr_model_file, args.precision, device
    )
    decoder = GreedyDecoder(speech2text.asr_model)
    tables: dict[str, dict[str, str]] = {
        name: {} for name in ("text", "token", "token_int", "score")
    }
    samples = read_table(scp.parent / "utt2num_samples", "run stage 3")
    lengths = [(key, int(samples[key])) for key in keys]
    rate = sampling_rate(speech2text.asr_train_args)
    for batch in batches(lengths, round(options.get("batch_seconds", 60) * rate)):
        audio = [load_source(sources[key])[0][:, 0] for key in batch]
        results = decoder(list(map(torch.from_numpy, audio)))
        for key, (ids, score) in zip(batch, results, strict=True):
            tokens = speech2text.converter.ids2tokens(ids)
            tables["token_int"][key] = " ".join(map(str, ids))
            tables["token"][key] = " ".join(tokens)
            tables["text"][key] = speech2text.tokenizer.tokens2text(tokens)
            tables["score"][key] = str(score)
            logging.info(f"{key}: best hypo: {tables['text'][key]}")
    folder = args.output_dir / "1best_recog"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(folder / name, {key: table[key] for key in keys if key in table})


if __name__ == "__main__":
    run_main(main)
