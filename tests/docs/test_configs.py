"""Configs in the documentation: the option classes and ESPnet's parser take them."""

import pytest
import yaml
from espnet2.bin import asr_inference, asr_inference_streaming
from pages import PAGES, ROOT, blocks

from espnet_prune.config.options import make_options, optimizer_options
from espnet_prune.config.sections import SECTIONS
from espnet_prune.serving.decoders import OWN, read_search
from espnet_prune.serving.streaming import PART
from espnet_prune.training.recipe import OWN_KEYS
from espnet_prune.training.task import DenseASRTask, PruneASRTask

CONFIGS = [(page, text) for page in PAGES for text in blocks(page, "yaml")]
OURS = sorted((ROOT / "conf").glob("*.yaml"))
DECODING = [file for file in OURS if file.name.startswith("decode")]
TRAINING = [file for file in OURS if file not in DECODING]
CONFIGS += [(file, file.read_text()) for file in TRAINING]


@pytest.mark.parametrize(
    ("page", "text"), CONFIGS, ids=[page.name for page, _ in CONFIGS]
)
def test_each_config_is_taken(page, text, tmp_path):
    config = yaml.safe_load(text)
    assert isinstance(config, dict), text
    for section, kind in SECTIONS.items():
        make_options(kind, section, config.get(section))
    if "optim_conf" in config and not page.name.startswith("train_"):
        optimizer_options(config["optim_conf"])
    of_espnet = {k: v for k, v in config.items() if k not in OWN_KEYS}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(of_espnet))
    PruneASRTask.get_parser().parse_args(["--config", str(tmp_path / "train.yaml")])


@pytest.mark.parametrize("file", DECODING, ids=lambda file: file.name)
def test_each_decoding_config_is_taken(file):
    search = read_search(file)
    if search.keys() & OWN.keys():
        return
    program = asr_inference_streaming if PART in search else asr_inference
    options = ["--config", str(file), "--output_dir", "out", "--key_file", "keys"]
    options += ["--data_path_and_name_and_type", "wav.scp,speech,sound"]
    options += ["--asr_train_config", "config.yaml", "--asr_model_file", "model.pth"]
    program.get_parser().parse_args(options)


@pytest.mark.parametrize(
    "file", [f for f in TRAINING if f.name.startswith("train_")], ids=lambda f: f.name
)
def test_each_dense_model_is_built(file):
    parser = DenseASRTask.get_parser()
    args = parser.parse_args(["--config", str(file), "--token_list", "none"])
    args.token_list = ["<blank>", "<unk>", "a", "<sos/eos>"]
    args.normalize = None  # its statistics are the data's
    model = DenseASRTask.build_model(args)
    assert model.encoder.output_size() == args.encoder_conf["output_size"]
    assert len(model.encoder.encoders) == args.encoder_conf["num_blocks"]
