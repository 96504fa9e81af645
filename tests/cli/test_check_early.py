"""What contradicts itself is refused before the hours of the dense training."""

import sys
from pathlib import Path

import pytest
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.cli import check_early

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Run the check on a pruning config of these lines, beside other options."""

    def run(lines, *options):
        recipe = tmp_path / "prune.yaml"
        recipe.write_text(f"optim_conf: {{lr: 0.001}}\n{lines}\n")
        command = ["--config", CONF / "train_small.yaml", "--prune_config", recipe]
        command += ["--finetune_config", CONF / "finetune.yaml", *options]
        monkeypatch.setattr(sys, "argv", ["check_early", *map(str, command)])
        check_early.main()

    return run


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ("optim_conf: {}", (), "lr is missing"),
        ("prune_decoder: 'no'", (), "prune_decoder must be true or false, not 'no'"),
        ("sparsety: {}", (), r"prune.yaml: no option 'sparsety' -> is it sparsity\?"),
        ("max_epochs: 7", (), r"no option 'max_epochs' -> is it max_epoch\?"),
        ("batch_type: foldd", (), "prune.yaml: argument --batch_type: invalid choice"),
        (
            "",
            ("--prune_args", "--max_epoch ten"),
            "--prune_args: argument --max_epoch: invalid int value: 'ten'$",
        ),
        ("", ("--prune_args", "--distill layers"), "--prune_args: argument --distill:"),
        (
            "",
            ("--prune_args", "--distill layers=2 match=random"),
            "--prune_args: no option 'match=random' -> give every KEY=VALUE an option",
        ),
        (
            "",
            ("--finetune_args", "--max_epochs 3"),
            r"--finetune_args: no option '--max_epochs' -> is it --max_epoch\?",
        ),
        ("", ("--asr_args", "--use_amp maybe"), "--asr_args: argument --use_amp: "),
        (
            "",
            ("--asr_args", "--encoder_conf num_blocks=two"),
            "train_small.yaml: encoder_conf: num_blocks must be of type int, not 'two'",
        ),
        (
            "",
            ("--asr_args", "--encoder_conf input_size=80"),
            r"train_small.yaml: encoder_conf: unknown option\(s\) \['input_size'\]",
        ),
        ("", ("--finetune_args", "--gates mode=hard"), "belongs to the pruning"),
        ("prune_decoder: true", (), "the denominator must be model"),
        ("prune_frontend: 1", (), "prune_frontend must be true or false, not 1"),
        ("prune_frontend: true", (), "with prune_frontend the denominator must be mod"),
        ("sparsity: {groups: {frontend: 0.5}}", (), "needs prune_frontend: true"),
        (
            "prune_frontend: true\nsparsity: {denominator: model}",
            (),
            "train_small.yaml: frontend 'default' cannot be pruned",
        ),
        (
            "prune_frontend: true\nsparsity: {denominator: model}",
            ("--asr_args", "--frontend s3prl"),
            "train_small.yaml: upstream None of its frontend cannot be pruned",
        ),
        (
            "prune_frontend: true\nsparsity: {denominator: model}",
            ("--methods", "blocks"),
            "--method blocks: only an encoder .*leave out prune_frontend",
        ),
        ("sparsity: {groups: {decoder: 0.5}}", (), "decoder needs prune_decoder: true"),
        (
            "",
            ("--targets", "0.5", "--prune_args", "--sparsity target=0.7"),
            "--sparsity: target is not of one stage alone -> give --target",
        ),
        (
            "",
            ("--target_kind", "macs", "--prune_args", "--sparsity kind=params"),
            "--sparsity: kind is not of one stage alone -> give --target_kind",
        ),
        (
            "sparsity: {groups: {ffn: 0.1}}",
            ("--targets", "0.5 0.9"),
            "of .*'attention'.* must go to remove 90.0% of the encoder's",
        ),
        (
            "gates: {model_dim: true}\nsparsity: {model_dim: 0.9}",
            ("--targets", "0.5"),
            "model_dim 0.9 removes more than the targets ask for",
        ),
        ("", ("--prune_args", "--max_epoch 0"), "--max_epoch 0: must be at least 1"),
        ("", ("--prune_args", "--distill layrs=2"), "no option 'layrs'"),
        ("", ("--finetune_args", "--distill layrs=2"), "no option 'layrs'"),
        ("gates: {mood: straight_through}", (), "gates: no option 'mood'"),
        (
            "prune_decoder: true\nsparsity: {denominator: model}",
            ("--asr_args", "--decoder rnn"),
            "decoder 'rnn' cannot be pruned -> leave out prune_decoder",
        ),
        (
            "",
            ("--methods", "small", "--target_kind", "latency"),
            "in params or macs of the whole encoder",
        ),
        (
            "",
            ("--inference_config", CONF / "decode_beam60_lm.yaml"),
            "decode_beam60_lm.yaml: lm_train_config",
        ),
        ("", ("--ngpu", "99"), "--ngpu 99: torch"),
        ("", ("--decode_ngpu", "99"), "--gpu_inference true: torch"),
        ("", ("--targets", "0.5 0.9999"), "100.0% of the encoder's params cannot be"),
        (
            "distill: {precision: int8}",
            (),
            "prune.yaml: distill: precision is of the fine-tuning; leave it out",
        ),
        (
            "",
            ("--asr_args", "--max_epoch 3 --optim_conf lr=2e-3"),
            "--asr_args: lr: 2e-3 is a text to YAML, not a number -> write 0.002",
        ),
        ("sparsity: {groups: {fnn: 0.5}}", (), "groups \\['fnn'\\] are not among"),
        ("", ("--methods", "l0 slim"), "slim: is unknown -> give one of: l0, "),
        (
            "",
            ("--asr_args", "--encoder rnn"),
            "train_small.yaml: encoder 'rnn' cannot be pruned",
        ),
        ("sparsity: {model_dim: 0.3}", (), "needs model_dim: true in gates"),
        (
            "prune_decoder: true\nsparsity: {denominator: model}",
            ("--methods", "l0 blocks"),
            "--method blocks: only an encoder has blocks to drop",
        ),
        (
            "sparsity: {groups: {ffn: 0.6}}",
            ("--methods", "l0 small"),
            "--method small: takes a target in params or macs of the whole encoder",
        ),
        (
            "sparsity: {denominator: model}",
            ("--methods", "small_distilled"),
            "--method small_distilled: takes a target in params or macs",
        ),
    ],
)
def test_contradiction_is_named(check, lines, options, message):
    with pytest.raises(InputError, match=message):
        check(lines, *options)


@pytest.fixture
def teacher(dense, check):
    """Run the check with a teacher, whose config has these options."""

    def run(options=None, model=None, *more):
        config = yaml.safe_load((dense / "config.yaml").read_text()) | (options or {})
        changed = dense / "changed.yaml"
        changed.write_text(yaml.safe_dump(config))
        model = model or dense / "model.pth"
        check("", "--config", changed, "--teacher_model", model, *more)

    return run


def test_teacher_is_loaded_before_any_data_stage(teacher, tmp_path):
    teacher()
    teacher({"noise_scp": "elsewhere/noise.scp", "rir_scp": "elsewhere/rir.scp"})
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="lfs.pth: .*but a text, 'version"):
        teacher({}, tmp_path / "lfs.pth")
    with pytest.raises(InputError, match="normalize_conf.stats_file .*does not exist"):
        teacher({"normalize_conf": {"stats_file": "exp/asr_stats/feats_stats.npz"}})
    with pytest.raises(InputError, match="--fs: 8000 Hz, but .* hears 16000 Hz"):
        teacher({}, None, "--fs", 8000)


@pytest.mark.parametrize(
    "options",
    [
        {"token_type": "whisper_multilingual"},
        {"token_type": "hugging_face", "bpemodel": "facebook/bart-base"},
        {"token_type": "phn", "bpemodel": None, "g2p": "pyopenjtalk"},
    ],
    ids=lambda options: options["token_type"],
)
def test_tokenizer_that_needs_more_is_named(teacher, options):
    with pytest.raises(InputError, match=f"token_type {options['token_type']} cannot"):
        teacher(options)


@pytest.fixture
def of_kind(check, tmp_path):
    """Run the check on a training config of an encoder in ESPnet's usual sizes."""

    def run(encoder, lines, *options):
        config = tmp_path / "train.yaml"
        config.write_text(f"encoder: {encoder}\ndecoder: transformer\n")
        check(lines, "--config", config, *options)

    return run


STREAMING = "contextual_block_transformer"
NO_RUNTIME = "onnxruntime does not run it -> leave out int8 and latency"


@pytest.mark.parametrize(
    ("encoder", "lines", "options", "message"),
    [
        (
            "transformer",
            "gates: {model_dim: true}",
            (),
            "prune.yaml: .*model dimension cannot be",
        ),
        (
            "transformer",
            "sparsity: {groups: {convolution: 0.1}}",
            (),
            r"\['convolution'\] are not",
        ),
        (
            "transformer",
            "",
            ("--methods", "l0 small"),
            "--method small: .*no small one to train",
        ),
        (STREAMING, "", ("--target_kind", "params+latency"), f"yaml: .*{NO_RUNTIME}"),
        (STREAMING, "sparsity: {kind: latency}", (), NO_RUNTIME),
        (
            STREAMING,
            "",
            ("--finetune_args", "--distill precision=int8"),
            f"--distill: .*{NO_RUNTIME}",
        ),
        (STREAMING, "", ("--precisions", "int8"), f"--precisions int8: .*{NO_RUNTIME}"),
    ],
)
def test_what_this_kind_of_encoder_cannot_do_is_named(
    of_kind, encoder, lines, options, message
):
    with pytest.raises(InputError, match=message):
        of_kind(encoder, lines, *options)


def test_what_a_streaming_encoder_can_do_passes(of_kind):
    lines = "prune_decoder: true\nsparsity: {denominator: model}"
    of_kind("contextual_block_conformer", lines, "--target_kind", "params+macs")
    of_kind(STREAMING, "", "--targets", "0.5 0.9", "--target_kind", "macs")
    with pytest.raises(InputError, match="100.0% of the encoder's macs cannot be"):
        of_kind(STREAMING, "", "--targets", "0.9999", "--target_kind", "macs")


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            "gates: {model_dim: true}",
            (),
            "prune.yaml: .*interctc_use_conditioning .*model dimension cannot be",
        ),
        ("", ("--precisions", "int8"), f"int8: .*interctc_use_cond.*{NO_RUNTIME}"),
        (
            "",
            ("--finetune_args", "--distill precision=int8"),
            f"--distill: .*interctc_use_conditioning .*{NO_RUNTIME}",
        ),
        ("", ("--methods", "small"), "'conformer' with interctc_layer_idx .*no small"),
    ],
)
def test_what_an_encoder_of_self_conditioned_ctc_cannot_do_is_named(
    check, lines, options, message
):
    options_of_encoder = "interctc_layer_idx=[2,4]", "interctc_use_conditioning=true"
    words = " ".join(f"--encoder_conf {option}" for option in options_of_encoder)
    given = "--asr_args", words
    check("prune_decoder: true\nsparsity: {denominator: model}", *given)
    with pytest.raises(InputError, match=message):
        check(lines, *given, *options)


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("", ("--prune_args", "--max_epoch 20 --gates model_dim=true --seed 1")),
        ("use_amp: false", ("--prune_args", "--num_iters_per_epoch 5 --use_amp true")),
        ("", ("--methods", "l0 l0_alone iterative magnitude random blocks small")),
        (
            "prune_decoder: true\n"
            "sparsity: {denominator: model, groups: {decoder: 0.3, ffn: 0.6}}",
            ("--target_kind", "params+macs", "--methods", "l0 magnitude"),
        ),
    ],
)
def test_what_fits_together_passes(check, lines, options):
    check(lines, *options)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        (
            "ctc_greedy: true\nbatch_seconds: 60\n",
            r"\['batch_seconds'\] do not go with",
        ),
        ("beam_size: 5\nbatch_seconds: 60\n", "no option 'batch_seconds' of ESPnet's"),
        ("sim_chunk_length: 0\nstreaming: true\n", "no option 'streaming' of ESPnet's"),
        ("sim_chunk_length: -1\n", "sim_chunk_length must not be negative"),
        ("sim_chunk_length: 1e3\n", "sim_chunk_length must be of type int, not '1e3'"),
        ("sim_chunk_length: 0\n", "its encoder, 'conformer', does not stream"),
    ],
)
def test_a_decoding_config_that_espnet_would_refuse_is_refused(
    check, tmp_path, search, told
):
    config = tmp_path / "decode.yaml"
    config.write_text(search)
    with pytest.raises(InputError, match=told):
        check("", "--inference_config", config)


@pytest.mark.parametrize("search", ["ctc_greedy: true", "ctc_beam: {beam_size: 4}"])
def test_a_model_without_ctc_is_not_decoded_by_it(check, tmp_path, search):
    config, decode = tmp_path / "train.yaml", tmp_path / "decode.yaml"
    config.write_text("encoder: transformer\nmodel_conf: {ctc_weight: 0.0}\n")
    decode.write_text(search)
    with pytest.raises(InputError, match="train.yaml: has no CTC head"):
        check("", "--config", config, "--inference_config", decode)


def test_a_soup_needs_a_ctc_head_to_choose_by(check, tmp_path, owsm):
    config = tmp_path / "train.yaml"
    config.write_text("encoder: transformer\nmodel_conf: {ctc_weight: 0.0}\n")
    check("", "--config", config, "--soup", 1)
    with pytest.raises(InputError, match="train.yaml: has no CTC head .* --soup 2 "):
        check("", "--config", config, "--soup", 2)
    with pytest.raises(InputError, match="task s2t .* -> leave out --soup"):
        check("", "--config", owsm / "config.yaml", "--soup", 2)


@pytest.fixture
def dense_config(tmp_path, check):
    """Run the check on a changed training config of the dense model."""

    def run(old, new, *options):
        text = (CONF / "train_small.yaml").read_text()
        assert old in text
        path = tmp_path / "train.yaml"
        path.write_bytes(text.replace(old, new).encode("latin-1"))
        check("", "--config", path, "--asr_args", "", *options)

    return run


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        ("lr: 0.0015", "lr: 2e-3", (), "lr: 2e-3 is a text .* -> write 0.002$"),
        ("seed: 2024", "use_lora: true", (), "no option 'use_lora' -> is it use_amp"),
        (
            "scheduler: tristagelr",
            "scheduler: onecyclelr",
            (),
            "scheduler_conf: onecyclelr has no option 'warmup_ratio' -> it has: max_lr",
        ),
        (
            "weight_decay: 0.000001",
            "momentum: 0.9",
            (),
            "optim_conf: adam has no option 'momentum' -> it has: lr, betas",
        ),
        ("use_cnn_module: true", "use_cnn_module: false", (), "it must be True"),
        ("output_size: 96", "output_size: 98", (), "is no multiple of attention_heads"),
        ("output_size: 96", "architecture: {}", (), "is compact already"),
        ("decoder: transformer", "decoder: transducer", (), "cannot be distilled"),
        ("swish", "gelu", (), "train.yaml: ESPnet makes no encoder .*'gelu'"),
        ("seed: 2024", "seed: 2024  # caf\xe9", (), "train.yaml: is not UTF-8"),
        (
            "ctc_weight: 0.5",
            "ctc_weight: 0.0",
            ("--inference_config", CONF / "decode.yaml"),
            "has no CTC head .* -> set ctc_weight: 0.0 in a copy",
        ),
        (
            "ctc_weight: 0.5",
            "ctc_weight: 1.0",
            ("--inference_config", CONF / "decode.yaml"),
            "has no decoder .* -> take conf/decode_greedy.yaml",
        ),
        (
            "ctc_weight: 0.5",
            "ctc_weight: 1.0",
            ("--inference_asr_model", "valid.acc.ave.pth"),
            "no accuracy -> .* --inference_asr_model valid.loss.ave.pth",
        ),
        (
            "- acc",
            "- cer_ctc",
            ("--inference_asr_model", "valid.acc.ave.pth"),
            "keeps no valid.acc.ave.pth -> give .* valid.cer_ctc.ave.pth",
        ),
    ],
)
def test_fault_of_a_training_config_is_named(dense_config, old, new, options, message):
    with pytest.raises(InputError, match=message):
        dense_config(old, new, *options)


def test_other_training_configs_are_taken(dense_config):
    greedy = ("--inference_config", CONF / "decode_greedy.yaml")
    dense_config("ctc_weight: 0.5", "ctc_weight: 1.0", *greedy)
    args = "--model_conf ctc_weight=0.5 --bpemodel=@x --grad_clip=1e-1"
    dense_config(
        "ctc_weight: 0.5", "ctc_weight: 1.0", "--asr_args", args,
        *("--inference_config", CONF / "decode.yaml"),
    )  # fmt: skip
    dense_config(
        "- acc", "- cer_ctc",
        *("--asr_args", "--best_model_criterion valid,acc,max"),
        *("--inference_asr_model", "valid.acc.ave.pth"),
    )  # fmt: skip
    kept = ("--inference_asr_model", "valid.acc.ave_4best.pth")
    dense_config("batch_type: numel", "batch_type: folded", *kept)


def test_data_without_the_texts_of_s2t_are_refused(owsm, dense, data_dir, tmp_path):
    data = ["--data", str(data_dir)]
    check_early.main(["--config", str(dense / "config.yaml"), *data])
    with pytest.raises(InputError, match="text.prev: does not exist, .*docs/owsm.md"):
        check_early.main(["--config", str(owsm / "config.yaml"), *data])
    (tmp_path / "decode.yaml").write_text("lang_sym: eng\n")
    search = ["--inference_config", str(tmp_path / "decode.yaml")]
    check_early.main(["--config", str(owsm / "config.yaml"), *search])
    with pytest.raises(InputError, match="no option 'lang_sym' of ESPnet's search"):
        check_early.main(["--config", str(dense / "config.yaml"), *search])
