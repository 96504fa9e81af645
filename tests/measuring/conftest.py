"""A tiny random ESPnet model and some noise to decode with it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDE", "<sos/eos>"]


def make_model(folder: Path, blocks: int) -> tuple[Path, Path]:
    """Write ``config.yaml`` and ``model.pth`` of a random stock Conformer."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    command = ["--token_list", str(folder / "tokens.txt"), "--token_type", "char"]
    command += ["--encoder", "conformer", "--normalize", "utterance_mvn"]
    args = ASRTask.get_parser().parse_args([*command, "--decoder", "transformer"])
    args.frontend_conf = {"n_mels": 40, "hop_length": 160}
    args.encoder_conf = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 24,
        "num_blocks": blocks,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "cnn_module_kernel": 7,
    }
    args.decoder_conf = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    model = ASRTask.build_model(args)
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "config.yaml", folder / "model.pth"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Config and weights of a ``dense`` and a smaller ``compact`` model."""
    root = tmp_path_factory.mktemp("exp")
    return {
        "dense": make_model(root / "dense", blocks=2),
        "compact": make_model(root / "compact", blocks=1),
    }


@pytest.fixture
def noise_set(tmp_path) -> Path:
    """A data directory of three short utterances of noise at 16 kHz."""
    draw = np.random.default_rng(0)
    lines = []
    for i in range(3):
        path = tmp_path / f"{i}.flac"
        soundfile.write(path, 0.1 * draw.standard_normal(4800 * (i + 1)), 16000)
        lines.append(f"utt{i} {path}\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    return tmp_path
