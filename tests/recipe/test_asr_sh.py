"""The commands that ESPnet's asr.sh issues in its stages 10-14, with our --python."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import soundfile
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs import pack_funcs

from espnet_prune.base.files import read_yaml
from espnet_prune.base.table import read_table, write_table

ROOT = Path(__file__).resolve().parents[2]
RUN_PL = Path(__file__).with_name("run.pl")
PYTHON = [sys.executable, "-m", "espnet_prune"]
NBPE, JOBS = 9, 1
BPE = f"data/token_list/bpe_unigram{NBPE}"
STATS = f"exp/asr_stats_raw_bpe{NBPE}"
NO_TEXT = ["--non_linguistic_symbols", "none", "--cleaner", "none", "--g2p", "none"]
SHORT = {
    "batch_type": "numel", "batch_bins": 40000, "num_workers": 0, "max_epoch": 1,
    "num_att_plot": 0, "use_matplotlib": False, "use_tensorboard": False,
}  # fmt: skip
TRAINING = SHORT | {
    "keep_nbest_models": 1, "best_model_criterion": [["valid", "acc", "max"]],
}  # fmt: skip
MODEL = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16, "attention_heads": 4, "linear_units": 32, "num_blocks": 2,
        "cnn_module_kernel": 5, "macaron_style": True, "rel_pos_type": "latest",
    },
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.4},
    "frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": 20},
    "optim": "adam", "optim_conf": {"lr": 0.001},
}  # fmt: skip
pytestmark = pytest.mark.slow  # ESPnet's own recipe script, its commands unchanged


class Recipe:
    """A recipe directory in which asr.sh would run, and what it would do there."""

    def __init__(self, folder: Path, data: Path):
        self.folder = folder
        for name in ("train", "valid", "test"):
            shutil.copytree(data, folder / "dump/raw" / name)
            keys = read_table(data / "wav.scp")
            write_table(folder / "dump/raw" / name / "utt2spk", {k: "s" for k in keys})
        (folder / BPE).mkdir(parents=True)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(read_table(data / "text").values()),
            model_prefix=folder / BPE / "bpe",
            vocab_size=NBPE,
            model_type="unigram",
            minloglevel=2,
        )
        pieces = (folder / BPE / "bpe.vocab").read_text().splitlines()[3:]
        pieces = [piece.split("\t")[0] for piece in pieces]
        self.tokens = ["<blank>", "<unk>", *pieces, "<sos/eos>"]
        (folder / BPE / "tokens.txt").write_text("".join(f"{t}\n" for t in self.tokens))

    def call(self, *command: object, stdin: str | None = None) -> str:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            list(map(str, command)),
            cwd=self.folder, env=env, input=stdin, capture_output=True, text=True,
        )  # fmt: skip
        logs = self.folder.glob("exp/**/*.log")
        told = "".join(log.read_text()[-2000:] for log in logs)
        assert result.returncode == 0, result.stderr[-2000:] + told
        return result.stdout

    def config(self, name: str, values: dict) -> str:
        path = self.folder / "conf" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values))
        return f"conf/{name}"

    def shipped(self, name: str, **changed: Any) -> str:
        """A config of the project, edited for a model of two blocks and little data."""
        config = read_yaml(ROOT / "conf" / name) | SHORT
        config["teacher_config"] = "exp/asr_dense/config.yaml"
        config["teacher_model"] = "exp/asr_dense/valid.acc.ave.pth"
        for key, value in ({"distill": {"layers": 2}} | changed).items():
            config[key] = value if isinstance(value, str) else config[key] | value
        return self.config(name, config)

    def data(self, name: str) -> list[str]:
        option = f"--{name}_data_path_and_name_and_type"
        return [
            *(option, f"dump/raw/{name}/wav.scp,speech,sound"),
            *(option, f"dump/raw/{name}/text,text,text"),
        ]

    def text(self) -> list[str]:
        options = ["--use_preprocessor", "true", "--bpemodel", f"{BPE}/bpe.model"]
        options += ["--token_type", "bpe", "--token_list", f"{BPE}/tokens.txt"]
        return [*options, *NO_TEXT]

    def split(self, table: str, parts: str) -> None:
        """As utils/split_scp.pl: consecutive lines for each job, in {parts}.N.scp."""
        lines = (self.folder / table).read_text().splitlines(keepends=True)
        for job in range(JOBS):
            first, end = (j * len(lines) // JOBS for j in (job, job + 1))
            path = self.folder / f"{parts}.{job + 1}.scp"
            path.write_text("".join(lines[first:end]))

    def stage10(self, config: str, *more: str, stats: str = STATS) -> None:
        logdir = f"{stats}/logdir"
        (self.folder / logdir).mkdir(parents=True)
        for name in ("train", "valid"):
            self.split(f"dump/raw/{name}/wav.scp", f"{logdir}/{name}")
        self.call(
            *(RUN_PL, f"JOB=1:{JOBS}", f"{logdir}/stats.JOB.log"),
            *(*PYTHON, "-m", "espnet2.bin.asr_train", "--collect_stats", "true"),
            *(*self.text(), *self.data("train"), *self.data("valid")),
            *("--train_shape_file", f"{logdir}/train.JOB.scp"),
            *("--valid_shape_file", f"{logdir}/valid.JOB.scp"),
            *("--output_dir", f"{logdir}/stats.JOB"),
            *("--config", config, "--frontend_conf", "fs=16k", *more),
        )
        dirs = [
            x for i in range(JOBS) for x in ("--input_dir", f"{logdir}/stats.{i + 1}")
        ]
        aggregate = [*PYTHON, "-m", "espnet2.bin.aggregate_stats_dirs"]
        self.call(*aggregate, *dirs, "--output_dir", stats)
        for name in ("train", "valid"):
            shapes = read_table(self.folder / stats / name / "text_shape")
            shapes = {k: f"{n},{len(self.tokens)}" for k, n in shapes.items()}
            write_table(self.folder / stats / name / "text_shape.bpe", shapes)

    def stage11(
        self,
        config: str,
        exp: str,
        *more: str,
        stats: str = STATS,
        splits: str | None = None,
    ) -> None:
        (self.folder / exp).mkdir(parents=True, exist_ok=True)
        self.call(
            *(*PYTHON, "-m", "espnet2.bin.launch"),
            *("--cmd", f"{shlex.quote(str(RUN_PL))} --name {exp}/train.log"),
            *("--log", f"{exp}/train.log", "--ngpu", 0, "--num_nodes", 1),
            *("--init_file_prefix", f"{exp}/.dist_init_"),
            *("--multiprocessing_distributed", "true", "--"),
            *(*PYTHON, "-m", "espnet2.bin.asr_train"),
            *(*self.text(), *self.data("valid"), *self.training_data(stats, splits)),
            *("--valid_shape_file", f"{stats}/valid/speech_shape"),
            *("--valid_shape_file", f"{stats}/valid/text_shape.bpe"),
            *("--resume", "true", "--init_param", "--ignore_init_mismatch", "false"),
            *("--fold_length", 80000, "--fold_length", 150, "--output_dir", exp),
            *("--config", config, "--frontend_conf", "fs=16k"),
            *("--normalize=global_mvn", "--normalize_conf"),
            *(f"stats_file={stats}/train/feats_stats.npz", *more),
        )

    def training_data(self, stats: str, splits: str | None) -> list[str]:
        """Options that name it, cut in two if a directory for ``splits`` is given."""
        tables = ["dump/raw/train/wav.scp", "dump/raw/train/text"]
        tables += [f"{stats}/train/speech_shape", f"{stats}/train/text_shape.bpe"]
        options = []
        if splits is not None:
            program = [*PYTHON, "-m", "espnet2.bin.split_scps", "--num_splits", 2]
            self.call(*program, "--scps", *tables, "--output_dir", splits)
            tables = [f"{splits}/{Path(table).name}" for table in tables]
            options = ["--multiple_iterator", "true"]
        wav, text, *shapes = tables
        for table in (f"{wav},speech,sound", f"{text},text,text"):
            options += ["--train_data_path_and_name_and_type", table]
        for table in shapes:
            options += ["--train_shape_file", table]
        return options

    def stage12(self, exp: str, model: str) -> dict[str, str]:
        """Leaves exp/decode/test/text, which it returns."""
        out = f"{exp}/decode/test"
        logdir = f"{out}/logdir"
        (self.folder / logdir).mkdir(parents=True)
        self.split("dump/raw/test/wav.scp", f"{logdir}/keys")
        self.call(
            *(RUN_PL, "--gpu", 0, f"JOB=1:{JOBS}", f"{logdir}/asr_inference.JOB.log"),
            *(*PYTHON, "-m", "espnet2.bin.asr_inference"),
            *("--batch_size", 1, "--ngpu", 0, "--data_path_and_name_and_type"),
            *("dump/raw/test/wav.scp,speech,sound", "--key_file"),
            *(f"{logdir}/keys.JOB.scp", "--asr_train_config", f"{exp}/config.yaml"),
            *("--asr_model_file", f"{exp}/{model}"),
            *("--output_dir", f"{logdir}/output.JOB"),
            *("--config", self.config("decode.yaml", {"beam_size": 2})),
        )
        for name in ("token", "token_int", "score", "text"):
            lines = []
            for job in range(JOBS):
                part = self.folder / logdir / f"output.{job + 1}/1best_recog" / name
                lines += part.read_text().splitlines(keepends=True)
            (self.folder / out / name).write_text("".join(sorted(lines)))
        return read_table(self.folder / out / "text")

    def stage13(self, exp: str, token_type: str) -> list[list[str]]:
        """Lines of ref.trn and hyp.trn, which sclite would take."""
        more = ["--non_linguistic_symbols", "none"]
        more += ["--remove_non_linguistic_symbols", "true"]
        if token_type == "bpe":
            more = ["--bpemodel", f"{BPE}/bpe.model"]
        told = []
        for text in ("dump/raw/test/text", f"{exp}/decode/test/text"):
            cleaner = ["--cleaner", "none"] if text.startswith("dump") else []
            lines = self.call(
                *(*PYTHON, "-m", "espnet2.bin.tokenize_text", "-f", "2-", "--input"),
                *("-", "--output", "-", "--token_type", token_type, *more, *cleaner),
                stdin=(self.folder / text).read_text(),
            ).splitlines()
            speakers = read_table(self.folder / "dump/raw/test/utt2spk").items()
            told.append(
                [f"{x}\t({s}-{k})" for x, (k, s) in zip(lines, speakers, strict=True)]
            )
        (self.folder / exp / "RESULTS.md").write_text(f"# {exp}\n")
        return told

    def stage14(self, exp: str, model: str) -> Path:
        """The archive."""
        out = f"{exp}/{Path(exp).name}_{Path(model).stem}.zip"
        self.call(
            *(*PYTHON, "-m", "espnet2.bin.pack", "asr"),
            *("--asr_train_config", f"{exp}/config.yaml"),
            *("--asr_model_file", f"{exp}/{model}"),
            *("--option", f"{STATS}/train/feats_stats.npz"),
            *("--option", f"{BPE}/bpe.model", "--option", f"{exp}/RESULTS.md"),
            *("--option", f"{exp}/images", "--outpath", out),
        )
        return self.folder / out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, data_dir):
    """With ESPnet's dense Conformer in exp/asr_dense, made by stages 10 and 11."""
    recipe = Recipe(tmp_path_factory.mktemp("asr1"), data_dir)
    config = recipe.config("train.yaml", MODEL | TRAINING)
    recipe.stage10(config)
    recipe.stage11(config, "exp/asr_dense")
    return recipe


def test_a_stock_model_is_trained_and_decoded(recipe):
    assert len(recipe.stage12("exp/asr_dense", "valid.acc.ave.pth")) == 12


def test_a_config_with_a_teacher_prunes_and_another_fine_tunes(
    recipe, tmp_path, monkeypatch
):
    prune = recipe.shipped("prune_asr_sh.yaml", sparsity={"macs_seconds": 1.0})
    stats, args = "exp/asr_stats_of_pruning", ("--sparsity", "target=0.6")
    recipe.stage10(prune, *args, stats=stats)
    recipe.stage11(prune, "exp/asr_prune", *args, stats=stats)
    export = [sys.executable, "-m", "espnet_prune.cli.export"]
    recipe.call(*export, "--pruned", "exp/asr_prune", "--out", "exp/asr_compact")
    tune = recipe.shipped("finetune_asr_sh.yaml", compact="exp/asr_compact")
    recipe.stage11(tune, "exp/asr_compact/finetune", "--max_epoch", "2")
    pruning = json.loads((recipe.folder / "exp/asr_compact/pruning.json").read_text())
    assert 0.6 <= pruning["removed"]["params"] < 0.63
    assert (recipe.folder / "exp/asr_compact/finetune/2epoch.pth").exists()
    heard = recipe.stage12("exp/asr_compact", "finetuned.pth")
    assert heard == recipe.stage12("exp/asr_compact/finetune", "valid.acc.ave.pth")
    for token_type, first in {"word": "A", "char": "A", "bpe": "▁A"}.items():
        ref, hyp = recipe.stage13("exp/asr_compact", token_type)
        assert ref[0] == f"{first}\t(s-utt00)"
        assert len(hyp) == 12
        if token_type == "word":
            words = {key: " ".join(text.split()) for key, text in heard.items()}
            assert hyp == [f"{text}\t(s-{key})" for key, text in words.items()]
    packed = recipe.stage14("exp/asr_compact", "finetuned.pth")
    monkeypatch.chdir(tmp_path)  # where no path of the recipe leads to anything
    files = pack_funcs.unpack(packed, "model")
    decoder = Speech2Text(**files, beam_size=2)
    for key, wav in read_table(recipe.folder / "dump/raw/test/wav.scp").items():
        assert decoder(soundfile.read(wav)[0])[0][0] == heard[key]
    held = {path.name for path in Path("model").iterdir()}
    assert {"bpe.model", "feats_stats.npz", "pruning.json", "README.md"} < held
    assert Path("model/exp/asr_compact/RESULTS.md").exists()


def test_a_compact_architecture_is_trained_from_scratch(recipe):
    block = {"ffn1": 8, "heads": 1, "qk_dim": 3, "v_dim": 4, "conv": 0, "ffn2": 5}
    sizes = {"subsampling": [6, 5], "blocks": [block, block | {"heads": 0}]}
    encoder = {"encoder_conf": MODEL["encoder_conf"] | {"architecture": sizes}}
    encoder["encoder"] = "prunable_conformer"
    config = recipe.config("small.yaml", MODEL | TRAINING | encoder)
    recipe.stage11(config, "exp/asr_small")
    assert len(recipe.stage12("exp/asr_small", "valid.acc.ave.pth")) == 12
    # As with asr.sh's --num_splits_asr 2.
    recipe.stage11(config, "exp/asr_split", splits=f"{STATS}/splits2")
    assert (recipe.folder / "exp/asr_split/valid.acc.ave.pth").exists()


def test_what_is_not_ours_is_espnets(python):
    # Its config, as a user of ESPnet would start one.
    result = python(
        "-m", "espnet_prune", "-m", "espnet2.bin.asr_train", "--print_config"
    )
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["encoder"] == "rnn"


def test_other_tokens_than_the_teachers_are_refused(recipe, python, tmp_path):
    values = {"teacher_config": str(recipe.folder / "exp/asr_dense/config.yaml")}
    values["teacher_model"] = "unread"
    config = recipe.config("other.yaml", values)
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    result = python(
        *("-m", "espnet_prune", "-m", "espnet2.bin.asr_train", "--config"),
        *(recipe.folder / config, "--token_list", tmp_path / "tokens.txt"),
        *("--output_dir", tmp_path / "out"),
    )
    assert result.returncode == 2 and "holds other tokens" in result.stderr
    assert not (tmp_path / "out").exists()
