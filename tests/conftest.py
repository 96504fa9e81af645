"""Tiny encoders and models, random masks, and a little real data to train on."""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
TOKENS = ["<blank>", "<unk>", "<space>", *"ABC", "<sos/eos>"]
NEEDED = {"macaron_style": True, "rel_pos_type": "latest"}
SIZES = {
    "output_size": 16,
    "attention_heads": 4,
    "linear_units": 32,
    "num_blocks": 2,
    "cnn_module_kernel": 5,
}
# A busy machine makes no test wrong.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
NO_DROPOUT = dict.fromkeys(
    ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.0
)
FEATURES = 20


def pytest_configure(config: pytest.Config) -> None:
    """Let stock ESPnet be imported without a download: a dependency of it fetches
    nltk data unless it finds them, and never reads them here."""
    folder = tempfile.TemporaryDirectory()
    config.add_cleanup(folder.cleanup)
    for name in ("taggers/averaged_perceptron_tagger_eng", "corpora/cmudict"):
        path = Path(folder.name, f"{name}.zip")
        path.parent.mkdir()
        zipfile.ZipFile(path, "w").close()
    os.environ["NLTK_DATA"] = folder.name


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def _shake(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and "log_alpha" not in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
                if "running_var" in name:
                    tensor.abs_().add_(0.1)
    return module


@pytest.fixture(scope="session")
def shake() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """``shake(module)``: no bias, norm or BatchNorm statistic is trivial any more."""
    return _shake


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Any]:
    """``make_encoder(features, **encoder_conf)``: tiny, without dropout, shaken."""
    from espnet_prune.conformer import PrunableConformerEncoder

    def make(features: int = FEATURES, **conf: Any) -> PrunableConformerEncoder:
        conf = SIZES | NEEDED | NO_DROPOUT | conf
        return _shake(PrunableConformerEncoder(features, **conf))

    return make


@pytest.fixture(scope="session")
def make_stock() -> Callable[..., Any]:
    """The same with ESPnet's own encoder."""
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    def make(features: int = FEATURES, **conf: Any) -> ConformerEncoder:
        return _shake(ConformerEncoder(features, **SIZES | NEEDED | NO_DROPOUT | conf))

    return make


@pytest.fixture(scope="session")
def drawn_sizes():
    """Hypothesis strategy: sizes of a small Conformer, as keyword arguments."""
    heads = st.integers(1, 4)
    return st.builds(
        lambda heads, half, units, blocks, kernel: {
            "output_size": 2 * half * heads,  # positions need an even dimension
            "attention_heads": heads,
            "linear_units": units,
            "num_blocks": blocks,
            "cnn_module_kernel": 2 * kernel + 1,
        },
        heads, st.integers(1, 5), st.integers(1, 40), st.integers(1, 3),
        st.integers(0, 8),
    )  # fmt: skip


@pytest.fixture(scope="session")
def batch() -> Callable[..., tuple[Tensor, Tensor]]:
    """``batch(lengths, features)``: noise, (batch, frame, feature), and its lengths."""

    def make(lengths=(61, 40, 7), features: int = FEATURES) -> tuple[Tensor, Tensor]:
        return torch.randn(len(lengths), max(lengths), features), torch.tensor(lengths)

    return make


@pytest.fixture(scope="session")
def compact_of() -> Callable[..., Any]:
    """``compact_of(gated)``: the compact encoder that the masks leave, loaded."""
    from espnet_prune.conformer import PrunableConformerEncoder

    def make(gated: PrunableConformerEncoder) -> PrunableConformerEncoder:
        fixed = gated.fixed
        compact = PrunableConformerEncoder(
            fixed.features,
            output_size=fixed.size,
            attention_heads=fixed.size // fixed.head_dim,
            cnn_module_kernel=fixed.kernel_size,
            architecture=gated.kept().to_dict(),
            **NEEDED,
            **NO_DROPOUT,
        )
        compact.load_state_dict(gated.sliced_state(), strict=True)
        return compact

    return make


@pytest.fixture(scope="session")
def open_masks() -> Callable[..., dict[str, Tensor]]:
    """``open_masks(encoder)``: masks that remove nothing, to be edited."""
    from espnet_prune.gates import gates_of

    return lambda encoder: {n: torch.ones(len(g)) for n, g in gates_of(encoder).items()}


@pytest.fixture(scope="session")
def random_masks() -> Callable[..., dict[str, Tensor]]:
    """``random_masks(encoder, seed, unit_rate, module_rate, soft)``, consistent:
    a submodule is open if and only if one of its units is; both subsampling
    convolutions and the model dimension keep a channel."""
    from espnet_prune.gates import gates_of

    def make(encoder, seed=0, unit_rate=0.5, module_rate=0.7, soft=True):
        draw = torch.Generator().manual_seed(seed)
        masks = {}
        for name, gate in gates_of(encoder).items():
            rate = module_rate if name.endswith("module_gate") else unit_rate
            kept = torch.rand(len(gate), generator=draw) < rate
            value = torch.rand(len(gate), generator=draw) * 0.98 + 0.01 if soft else 1.0
            masks[name] = kept * value
            if name.startswith(("embed", "dim_gate")):
                masks[name][0] = 1.0
        for name in [n for n in masks if n.endswith("module_gate")]:
            units = name.replace("module_gate", "unit_gate")
            units = units if units in masks else name.replace("module", "head")
            if masks[units].any() and units.endswith("head_gate"):
                values = units.replace("head_gate", "v_gate")
                if values in masks:  # a head without values is none
                    dims = masks[values].view(len(masks[units]), -1)
                    masks[units] *= dims.any(1)
            outputs = masks.get(name.replace("module_gate", "out_gate"), masks[units])
            if not (masks[units].any() and outputs.any()):
                masks[name][:] = 0
            elif not masks[name].any():
                masks[units][:] = 0
        return masks

    return make


def _model_args(folder: Path, **options: Any) -> argparse.Namespace:
    from espnet2.tasks.asr import ASRTask

    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    command = ["--token_list", str(folder / "tokens.txt"), "--token_type", "char"]
    args = ASRTask.get_parser().parse_args(command)
    settings = {
        "frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": FEATURES},
        "normalize": "utterance_mvn",
        "encoder": "conformer",
        "encoder_conf": SIZES | NEEDED,
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
        "model_conf": {"ctc_weight": 0.4, "report_cer": False, "report_wer": False},
    }
    vars(args).update(settings | options)
    return args


@pytest.fixture(scope="session")
def make_model(tmp_path_factory) -> Callable[..., Any]:
    """``make_model(**options)``: a tiny ESPnet model; options replace config keys."""
    import espnet_prune.task  # noqa: F401  (registers model and encoder)

    folder = tmp_path_factory.mktemp("tokens")

    def make(**options: Any):
        from espnet2.tasks.asr import ASRTask

        return ASRTask.build_model(_model_args(folder, **options))

    return make


@pytest.fixture(scope="session")
def student_options() -> Callable[..., dict[str, Any]]:
    """``student_options(sparsity, dropout)``: config keys of a student with gates."""

    def make(gated: bool = True, **sparsity: Any) -> dict[str, Any]:
        conf = {"ctc_weight": 0.4, "report_cer": False, "report_wer": False}
        conf |= {"distill": {"layers": 2, "layer_weight": 1.0, "output_weight": 1.0}}
        encoder = SIZES | NEEDED | NO_DROPOUT
        if gated:
            conf |= {"sparsity": {"target": 0.5} | sparsity, "macs_frames": 100}
            encoder = encoder | {"gates": {}}
        return {
            "model": "prune",
            "model_conf": conf,
            "encoder": "prunable_conformer",
            "encoder_conf": encoder,
        }

    return make


@pytest.fixture(scope="session")
def speech_batch() -> Callable[[], dict[str, Tensor]]:
    """``speech_batch()``: keyword arguments of an ESPnet model, three utterances."""

    def make() -> dict[str, Tensor]:
        return {
            "speech": 0.1 * torch.randn(3, 8000),
            "speech_lengths": torch.tensor([8000, 6000, 5000]),
            "text": torch.tensor([[3, 4, 5], [4, 5, -1], [3, -1, -1]]),
            "text_lengths": torch.tensor([3, 2, 1]),
        }

    return make


# --- real files: a data directory, a dense model, a pruning run ------------------


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Twelve short wav files of tones and noise with text, and their lengths."""
    folder = tmp_path_factory.mktemp("dump")
    draw = np.random.default_rng(0)
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2num_samples": []}
    for i, (n, letter) in enumerate(itertools.product(range(4), "ABC")):
        samples = 5000 + 600 * i
        tone = np.sin(np.arange(samples) * (1 + ord(letter) - ord("A")) / 9)
        wav = folder / f"utt{i:02}.wav"
        noise = 0.05 * draw.standard_normal(samples)
        soundfile.write(wav, 0.4 * tone + noise, 16000)
        tables["wav.scp"].append(f"utt{i:02} {wav}")
        tables["text"].append(f"utt{i:02} {letter * (n % 2 + 1)}")
        tables["utt2num_samples"].append(f"utt{i:02} {samples}")
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def data_options(data_dir) -> list[str]:
    """ESPnet's options that name the training and validation data."""
    options = []
    for part in ("train", "valid"):
        name = f"--{part}_data_path_and_name_and_type"
        options += [name, f"{data_dir}/wav.scp,speech,sound"]
        options += [name, f"{data_dir}/text,text,text"]
        options += [f"--{part}_shape_file", f"{data_dir}/utt2num_samples"]
    return options


@pytest.fixture(scope="session")
def make_dense(tmp_path_factory) -> Callable[..., Path]:
    """``make_dense(**options)``: directory of a random ESPnet model, ``global_mvn``."""
    import espnet_prune.task  # noqa: F401

    def make(**options: Any) -> Path:
        from espnet2.tasks.asr import ASRTask

        folder = tmp_path_factory.mktemp("dense")
        stats = folder / "feats_stats.npz"
        total = np.full(FEATURES, 7.0)
        np.savez(stats, count=np.array(10), sum=total, sum_square=20 * total)
        mvn = {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(stats)}}
        args = _model_args(folder, **mvn, **options)
        torch.manual_seed(0)
        model = _shake(ASRTask.build_model(args))
        (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
        torch.save(model.state_dict(), folder / "model.pth")
        return folder

    return make


@pytest.fixture(scope="session")
def dense(make_dense) -> Path:
    """Directory of a random dense Conformer."""
    return make_dense()


RECIPE = {
    "gates": {"mode": "hard_concrete", "drop_rate_init": 0.05},
    "sparsity": {"macs_seconds": 1.0, "warmup": 0.5, "kind": "params", "target": 0.5},
    "distill": {"layers": 2, "layer_weight": 1.0, "output_weight": 1.0},
    "optim_conf": {"lr": 0.0005, "weight_decay": 0.000001, "max_norm": 5.0},
    "batch_type": "numel",
    "batch_bins": 40000,
    "num_workers": 0,
    "max_epoch": 2,
    "seed": 2024,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "best_model_criterion": [["valid", "sparsity_realised", "max"]],
    "keep_nbest_models": 1,
}


@pytest.fixture(scope="session")
def student_command(dense, data_options) -> Callable[..., list[str]]:
    """``student_command(out, **recipe)``: options of a pruning run of ``dense``."""
    from espnet_prune.files import read_yaml
    from espnet_prune.student import pruning_config

    def make(out: Path, **recipe: Any) -> list[str]:
        source = dense / "config.yaml"
        config = pruning_config(read_yaml(source), source, RECIPE | recipe, 126)
        out.mkdir(parents=True, exist_ok=True)
        (out / "student.yaml").write_text(yaml.safe_dump(config))
        teacher = ["--teacher_config", str(source)]
        teacher += ["--teacher_model", str(dense / "model.pth")]
        init = ["--init_param", str(dense / "model.pth")]
        options = ["--config", str(out / "student.yaml"), "--output_dir", str(out)]
        return [*options, "--resume", "true", *data_options, *teacher, *init]

    return make


@pytest.fixture(scope="session")
def pruned(tmp_path_factory, student_command) -> Path:
    """Directory of a pruning run of two epochs, done in one go."""
    from espnet_prune.task import PruneASRTask

    out = tmp_path_factory.mktemp("pruned") / "run"
    PruneASRTask.main(cmd=student_command(out))
    return out


@pytest.fixture(scope="session")
def compact(tmp_path_factory, pruned) -> Path:
    """Directory of the model exported from ``pruned``."""
    from espnet_prune.export import export

    out = tmp_path_factory.mktemp("compact") / "model"
    export(pruned / "config.yaml", pruned / "latest.pth", out)
    return out


@pytest.fixture(scope="session")
def finetune_command(dense, compact, data_options) -> Callable[..., list[str]]:
    """``finetune_command(out)``: options of a fine-tuning of ``compact``."""
    from espnet_prune.files import read_yaml
    from espnet_prune.student import finetuning_config

    source = compact / "config.yaml"
    criterion = {"best_model_criterion": [["valid", "acc", "max"]]}
    config = finetuning_config(read_yaml(source), source, RECIPE | criterion)

    def make(out: Path) -> list[str]:
        out.mkdir()
        (out / "student.yaml").write_text(yaml.safe_dump(config))
        options = ["--config", str(out / "student.yaml"), "--output_dir", str(out)]
        options += ["--teacher_config", str(dense / "config.yaml")]
        options += ["--teacher_model", str(dense / "model.pth")]
        options += ["--init_param", str(compact / "pruned.pth")]
        return [*options, "--resume", "true", *data_options]

    return make


@pytest.fixture
def jobs_here(monkeypatch) -> list[dict[str, Any]]:
    """Slurm jobs become processes of submitit; collects the jobs' Slurm parameters."""
    import submitit

    asked, real = [], submitit.AutoExecutor

    class Here(real):
        def __init__(self, folder: Path, cluster: str):
            assert cluster == "slurm"
            super().__init__(folder, cluster="local")

        def update_parameters(self, **options: Any) -> None:
            slurm = {k: v for k, v in options.items() if k.startswith("slurm_")}
            asked.append(slurm)
            super().update_parameters(**options)

    monkeypatch.setattr(submitit, "AutoExecutor", Here)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # as path.sh does
    return asked


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess]:
    """``python(*arguments)``: run this interpreter in a process of its own.

    It imports the package from the checkout, or from what stands in ``path``.
    """

    def run(*arguments: object, path: str = str(ROOT)) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env)

    return run


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """A directory that holds the package as pip installs it, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    # A copy: setuptools leaves its notes beside pyproject.toml.
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("espnet_prune", "conf"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    build = ["-c", "import setuptools; setuptools.setup()", "build_py", "--build-lib"]
    command = [sys.executable, *build, "site"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "site"
