"""Stage 10: collect ESPnet's statistics (shapes, means) in several processes."""

import argparse
import json
import logging
import sys
from pathlib import Path

from espnet_prune.base.errors import run_main
from espnet_prune.base.files import (
    code_version,
    fingerprint,
    is_made_of,
    note_made_of,
    resumable_dir,
)
from espnet_prune.base.table import read_table, write_table
from espnet_prune.data.audio import audio_digest
from espnet_prune.data.kaldi_dir import audio_type
from espnet_prune.running.executor import add_arguments, from_arguments, split
from espnet_prune.running.shards import mark_of, run_shards


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--train", type=Path, required=True, help="dump/raw/<set>")
    parser.add_argument("--valid", type=Path, required=True, help="dump/raw/<set>")
    parser.add_argument("--token_list", type=Path, required=True)
    parser.add_argument("--token_type", required=True)
    parser.add_argument("--out", type=Path, required=True)
    add_arguments(parser)
    return parser


def main() -> None:
    parser = get_parser()
    args, training_options = parser.parse_known_args()
    sets = {"train": args.train, "valid": args.valid}
    keys = {
        name: list(read_table(d / "wav.scp", "run stages 1-4"))
        for name, d in sets.items()
    }
    nj = min(args.nj, *map(len, keys.values()))
    # The logs lie beside the output, so that they survive a failure.
    log_dir = args.out.parent / f"{args.out.name}_log"
    made_of = [nj, keys, args.token_type, training_options, code_version()]
    made_of += [audio_digest(folder / "wav.scp") for folder in sets.values()]
    stamp = json.dumps([*made_of, fingerprints(args, training_options)])
    if is_made_of(args.out, stamp):
        logging.info(f"{args.out}: made before, from the same files")
        return
    with resumable_dir(args.out, stamp) as folder:
        commands, logs, shards = [], [], []
        for n in range(nj):
            shard = folder / "logdir" / f"stats.{n + 1}"
            shard.mkdir(parents=True, exist_ok=True)
            shards.append(shard)
            command = [sys.executable, "-m", "espnet_prune.cli.asr_train"]
            command += ["--collect_stats", "true", "--output_dir", str(shard)]
            command += ["--token_list", str(args.token_list)]
            command += ["--token_type", args.token_type, *training_options]
            # Of features before normalization, which may want these very statistics.
            command += ["--normalize", "none", "--normalize_conf", "{}"]
            for name, data in sets.items():
                key_file = folder / "logdir" / f"{name}.{n + 1}.scp"
                mine = split(keys[name], nj)[n]
                key_file.write_text("".join(f"{key}\n" for key in mine))
                option = f"--{name}_data_path_and_name_and_type"
                command += [f"--{name}_shape_file", str(key_file)]
                command += [option, f"{data}/wav.scp,speech,{audio_type(data)}"]
                command += [option, f"{data}/text,text,text"]
            commands.append(command)
            logs.append(log_dir / f"stats.{n + 1}.log")
        run_shards(
            commands,
            logs,
            lambda: f"collecting statistics; log: {logs[0]}",
            from_arguments(args),
            [mark_of(shard) for shard in shards],
        )
        aggregate(shards, folder)
        size = sum(1 for _ in args.token_list.open(encoding="utf-8"))
        for name in sets:
            add_vocabulary_size(folder / name, args.token_type, size)
    note_made_of(args.out, stamp)
    logging.info(f"{args.out}: done")


def fingerprints(args: argparse.Namespace, training_options: list[str]) -> list[str]:
    """Fingerprint the files that the statistics are made of, beside the audio."""
    named = [args.train / "wav.scp", args.train / "text", args.valid / "wav.scp"]
    named += [args.valid / "text", args.token_list, *map(Path, training_options)]
    return [fingerprint(path) for path in named if path.is_file()]


def aggregate(shards: list[Path], folder: Path) -> None:
    from espnet2.bin.aggregate_stats_dirs import aggregate_stats_dirs

    aggregate_stats_dirs(shards, folder, "INFO", skip_sum_stats=False)


def add_vocabulary_size(folder: Path, token_type: str, size: int) -> None:
    """Write ``text_shape.<type>``: ESPnet's batches count length x vocabulary."""
    shapes = read_table(folder / "text_shape")
    shapes = {key: f"{length},{size}" for key, length in shapes.items()}
    write_table(folder / f"text_shape.{token_type}", shapes)


if __name__ == "__main__":
    run_main(main)
