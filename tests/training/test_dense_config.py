"""What would end a dense training after hours is refused before its data are made."""

import copy
from pathlib import Path

import pytest
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.cli import check_early

CONF = Path(__file__).parents[2] / "conf"
ACC = ["valid", "acc", "max"]
SMALL = yaml.safe_load((CONF / "train_small.yaml").read_text())


@pytest.fixture
def check(tmp_path):
    """Run the check on a training config with changes, without a pruning to come.

    Options are added to their section, unless the change names another class for it.
    """

    def run(changes, asr_args="", *options):
        config = copy.deepcopy(SMALL)
        for key, value in changes.items():
            same = key.removesuffix("_conf") not in changes
            if same and isinstance(value, dict) and key in config:
                config[key] |= value
            else:
                config[key] = value
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config))
        command = ["--config", str(path), f"--asr_args={asr_args}", *map(str, options)]
        check_early.main(command)

    return run


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decoder_conf": {"bogus": 1}}, "decoder_conf: transformer has no option"),
        ({"specaug_conf": {"bogus": 1}}, "specaug_conf: specaug has no option 'bogus'"),
        ({"model_conf": {"bogus": 1}}, "model_conf: espnet has no option 'bogus'"),
        ({"frontend_conf": {"bogus": 1}}, "frontend_conf: default has no option"),
        ({"ctc_conf": {"bogus": 1}}, "ctc_conf: ctc has no option 'bogus'"),
        ({"normalize_conf": {"bogus": 1}}, "normalize_conf: utterance_mvn has no opt"),
        ({"frontend_conf": ["fs"]}, r"frontend_conf must hold options, not \['fs'\]"),
        ({"decoder_conf": None}, "decoder_conf is empty -> leave it out"),
        ({"frontend": None, "frontend_conf": {}}, "its model: ESPnet cannot use that"),
        ({"optim": "adaam"}, "argument --optim: invalid choice: 'adaam'"),
        ({"init": "xavier"}, "argument --init: invalid choice: 'xavier'"),
        ({"decoder": "transformr"}, "argument --decoder: invalid choice"),
        ({"specaug": "specaugg"}, "argument --specaug: invalid choice: 'specaugg'"),
        ({"scheduler": "warmup"}, "argument --scheduler: invalid choice: 'warmup'"),
        ({"batch_type": "foldd"}, "argument --batch_type: invalid choice: 'foldd'"),
        ({"max_epoch": "ten"}, "argument --max_epoch: invalid int value: 'ten'"),
        ({"max_epoch": 2.5}, "argument --max_epoch: invalid int value: '2.5'"),
        ({"max_epoch": None}, "argument --max_epoch: invalid int value: 'null'"),
        ({"keep_nbest_models": ["4x"]}, "argument --keep_nbest_models: invalid int"),
        (
            {"encoder_conf": {"activation_type": "gelu"}},
            r"encoder_conf: ESPnet cannot use that \(KeyError: 'gelu'\)",
        ),
        (
            {"decoder_conf": {"attention_heads": 5}},
            r"decoder_conf: .*\(AssertionError: assert n_feat % n_head == 0\)",
        ),
        ({"frontend_conf": {"win_length": [1]}}, "frontend_conf: ESPnet cannot use"),
        ({"optim_conf": {"lr": -1}}, "optim_conf: .*Invalid learning rate: -1"),
        ({"scheduler_conf": {"warmup_ratio": "many"}}, "scheduler_conf: ESPnet cannot"),
        ({"optim_conf": {"lr": "0.001"}}, 'lr: "0.001" is a text .* -> write 0.001$'),
        ({"model_conf": {"ctc_weight": "0.3"}}, "model_conf.ctc_weight: .*write 0.3$"),
        (
            {"best_model_criterion": [ACC, ["valid", "bogus", "max"]]},
            "best_model_criterion: the model reports no valid,bogus,max",
        ),
        ({"best_model_criterion": [["valid", "acc"]]}, "argument --best_model_crit"),
        (
            {"best_model_criterion": [["valid", "acc", "most"]]},
            "best_model_criterion: the model reports no valid,acc,most",
        ),
        ({"early_stopping_criterion": ["valid", "los", "min"]}, "no valid,los,min"),
    ],
)  # fmt: skip
def test_fault_of_the_config_is_named(check, changes, told):
    with pytest.raises(InputError, match=f"train.yaml: .*{told}"):
        check(changes)


@pytest.mark.parametrize(
    ("asr_args", "told"),
    [
        ("--optim_conf momentum=0.9", "optim_conf: adam has no option 'momentum'"),
        (
            "--scheduler tristagelr --scheduler_conf warmup_steps=10",
            "scheduler_conf: tristagelr has no option 'warmup_steps'",
        ),
        ("--decoder_conf bogus=1", "decoder_conf: transformer has no option 'bogus'"),
        ("--model_conf ctc_weight=2", "model_conf: ESPnet cannot use that"),
        ("--optim adaam", "argument --optim: invalid choice: 'adaam'"),
        ("--best_model_criterion valid,bogus,max", "reports no valid,bogus,max"),
        ("--teacher_model x", "no option '--teacher_model'"),
    ],
)
def test_fault_of_the_options_is_named(check, asr_args, told):
    with pytest.raises(InputError, match=f"^--asr_args: .*{told}"):
        check({}, asr_args)


def test_ctc_weight_as_a_text_is_named_before_the_search_asks_for_it(check):
    with pytest.raises(InputError, match="ctc_weight: .*is a text to YAML"):
        check(
            {"model_conf": {"ctc_weight": "0.3"}}, "",
            *("--inference_config", CONF / "decode.yaml"),
        )  # fmt: skip


@pytest.mark.parametrize("frontend", [{"bogus": 1}, {"n_mels": [40]}])
def test_odd_frontend_is_told_where_the_model_is_to_be_pruned(tmp_path, frontend):
    config, pruning = tmp_path / "config.yaml", CONF / "prune.yaml"
    config.write_text(yaml.safe_dump(SMALL | {"frontend_conf": frontend}))
    with pytest.raises(InputError, match="config.yaml: ESPnet makes no frontend of"):
        check_early.main(["--config", str(config), "--prune_config", str(pruning)])


@pytest.mark.parametrize(
    ("changes", "asr_args"),
    [
        ({}, "--scheduler TriStageLR --max_epoch 3"),
        ({"scheduler": "tristagelr", "scheduler_conf": None}, ""),
        ({"scheduler": "TriStageLR", "scheduler_conf": {"warmup_ratio": 0.1}}, ""),
        ({"normalize": "global_mvn", "normalize_conf": {"eps": 1.0e-10}}, ""),
        ({"frontend": None, "frontend_conf": {}, "input_size": 80}, ""),
        ({"encoder": "torchaudiohubert",  # has no form without weights
          "encoder_conf": {"encoder_num_layers": 1}}, ""),
        ({"keep_nbest_models": [4, 10], "grad_clip": 5, "patience": None}, ""),
        ({"frontend": "s3prl", "specaug": None, "preencoder": "linear",
          "frontend_conf": {"frontend_conf": {"upstream": "wavlm"}, "fs": "16k"},
          "preencoder_conf": {"input_size": 1024, "output_size": 80}}, ""),
        ({"decoder": None, "decoder_conf": {}, "model_conf": {"ctc_weight": 1.0}}, ""),
        ({"encoder_conf": {"interctc_layer_idx": [2]},
          "model_conf": {"interctc_weight": 0.3},
          "best_model_criterion": [["valid", "loss_interctc_layer2", "min"]]}, ""),
        ({"optim": "AdamW", "optim_conf": {"lr": 1}, "init": "Xavier_Uniform"}, ""),
    ],
)  # fmt: skip
def test_what_espnet_trains_passes(check, changes, asr_args):
    check(changes, asr_args)
