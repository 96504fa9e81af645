import argparse
import copy

import pytest
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.measuring.latency import read_table
from espnet_prune.training.configs import (
    finetuning_config,
    frames_of,
    model_config,
    pruning_config,
)

RECIPE = {
    "gates": {"mode": "straight_through"},
    "sparsity": {"target": 0.4},
    "distill": {"layers": 3},
    "optim_conf": {"lr": 0.0005, "weight_decay": 0.000001},
    "max_epoch": 7,
}


@pytest.fixture
def teacher(dense):
    return read_yaml(dense / "config.yaml")


def test_pruning_config_is_the_teachers_model_with_gates(teacher):
    config = pruning_config(teacher, "t", RECIPE, 123)
    assert config["model"] == "prune" and config["encoder"] == "prunable_conformer"
    assert config["encoder_conf"] == teacher["encoder_conf"] | {
        "gates": RECIPE["gates"]
    }
    assert config["model_conf"]["sparsity"] == {"target": 0.4}
    assert config["model_conf"]["macs_frames"] == 123
    for key in ("token_list", "frontend_conf", "decoder_conf", "normalize_conf"):
        assert config[key] == teacher[key]
    assert config["max_epoch"] == 7
    # Groups are clipped apart by the optimizer, not all together by ESPnet.
    assert config["grad_clip"] == float("inf")


def test_how_the_teacher_was_trained_does_not_matter(teacher):
    teacher |= {"optim": "sgd", "max_epoch": 99, "batch_bins": 1, "scheduler": "x"}
    config = pruning_config(teacher, "t", RECIPE, 1)
    assert not {"optim", "batch_bins", "scheduler"} & config.keys()


def test_student_is_not_regularised_by_stochastic_depth(teacher):
    teacher["encoder_conf"]["stochastic_depth_rate"] = 0.3
    assert "stochastic_depth_rate" not in model_config(teacher, "t")["encoder_conf"]


def test_config_of_the_teacher_is_left_alone(teacher):
    before = copy.deepcopy(teacher)
    pruning_config(teacher, "t", RECIPE, 1)
    finetuning_config(teacher, "t", RECIPE)
    assert teacher == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": "branchformer"}, "branchformer"),
        ({"model": "pit_espnet"}, "pit_espnet"),
        ({"token_list": "tokens.txt"}, "token list"),
    ],
)
def test_model_that_cannot_be_pruned_is_refused_by_name(teacher, change, named):
    with pytest.raises(InputError, match=named):
        pruning_config(teacher | change, "config.yaml", RECIPE, 1)


def test_transducer_is_refused_by_name(teacher):
    teacher["decoder"] = "transducer"
    with pytest.raises(InputError, match="transducer"):
        pruning_config(teacher, "config.yaml", RECIPE, 1)


def test_compact_model_is_not_pruned_again(compact):
    config = read_yaml(compact / "config.yaml")
    with pytest.raises(InputError, match="compact already"):
        pruning_config(config, "config.yaml", RECIPE, 1)


def test_finetuning_config_has_no_gates_and_keeps_the_sizes(compact):
    config = read_yaml(compact / "config.yaml")
    result = finetuning_config(config, "t", {"distill": {"layers": 2}, "max_epoch": 3})
    assert result["model"] == "prune" and "gates" not in result["encoder_conf"]
    assert result["encoder_conf"] == config["encoder_conf"]
    assert "sparsity" not in result["model_conf"]


@pytest.mark.parametrize("content", ["a: [", "- 1\n", ""])
def test_unreadable_yaml_is_named(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="recipe.yaml"):
        read_yaml(path)


def test_frames_of_audio_are_those_of_the_frontend(dense):
    model, args = load_model(dense / "config.yaml", dense / "model.pth")
    assert frames_of(model, args, 1.0) == 16000 // 128 + 1


@pytest.fixture
def student_config(dense, tmp_path):
    """What stage 12's command line makes of its options."""
    from espnet_prune.cli.prune_train import get_parser
    from espnet_prune.training import plan

    recipe = tmp_path / "prune.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))

    def run(*options):
        argv = ["--phase", "prune", "--recipe", str(recipe), "--output_dir", "out"]
        argv += ["--model_config", str(dense / "config.yaml")]
        argv += ["--model_file", str(dense / "model.pth"), *options]
        args, _ = get_parser().parse_known_args(argv)
        return plan.student_config(args)

    return run


def test_command_line_overrides_the_recipes_target(student_config):
    config = student_config("--kind", "macs", "--target", "0.7")
    assert config["model_conf"]["sparsity"] == {"kind": "macs", "target": 0.7}
    # 10 s at 16 kHz with hop 128
    assert config["model_conf"]["macs_frames"] == 1251


@pytest.mark.parametrize("method", ["l0", "iterative", "l0_alone", "small"])
@pytest.mark.parametrize("phase", ["prune", "finetune"])
def test_methods_without_a_teacher_follow_none(
    student_config, dense, tmp_path, method, phase
):
    options = ["--phase", phase, "--method", method, "--distill", "layer_weight=4"]
    options += ["--teacher_config", str(dense / "config.yaml")]
    distill = student_config(*options)["model_conf"]["distill"]
    if method in ("l0_alone", "small"):
        assert (distill["layer_weight"], distill["output_weight"]) == (0.0, 0.0)
    else:
        assert distill["layer_weight"] == 4


@pytest.mark.parametrize("method", ["small", "small_distilled"])
def test_training_from_scratch_goes_on_for_both_trainings_at_the_dense_rate(
    student_config, dense, tmp_path, method
):
    config = yaml.safe_load((dense / "config.yaml").read_text())
    config |= {"max_epoch": 30, "optim_conf": {"lr": 0.003}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    options = ("--model_config", str(tmp_path / "config.yaml"), "--max_epoch", "20")
    options += ("--optim_conf", "lr=0.25")  # of what is pruned
    student = student_config(*options, "--method", method)
    assert student["max_epoch"] == 50 and student["optim_conf"]["lr"] == 0.003
    student = student_config(*options)
    assert student["max_epoch"] == 20 and student["optim_conf"]["lr"] == 0.25
    # One key of several, as of the other sections.
    assert student["optim_conf"].keys() == RECIPE["optim_conf"].keys()


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--target", "1.5"), "target"), (("--kind", "flops"), "kind")],
)
def test_command_line_refuses_a_wrong_target(student_config, options, named):
    with pytest.raises(InputError, match=named):
        student_config(*options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--method", "small", "--sparsity", "groups.ffn=0.4"), "whole encoder"),
        (("--sparsity", "model_dim=0.3"), "needs model_dim: true"),
    ],
)
def test_contradiction_is_refused_by_the_training_too(student_config, options, named):
    with pytest.raises(InputError, match=named):
        student_config(*options)


def test_target_that_no_masks_can_meet_is_refused_before_the_training(student_config):
    with pytest.raises(InputError, match="99.9% of the encoder's params cannot be"):
        student_config("--target", "0.999")


def test_latency_of_the_whole_model_counts_what_is_beyond_the_encoder(
    student_config, dense, tmp_path
):
    recipe = yaml.safe_load((tmp_path / "prune.yaml").read_text())
    recipe["sparsity"] |= {"kind": "latency+macs", "denominator": "model"}
    recipe["sparsity"] |= {"target": 0.1, "macs_seconds": 0.5, "macs_tokens": 2}
    (tmp_path / "prune.yaml").write_text(
        yaml.safe_dump(recipe | {"prune_decoder": True})
    )
    options = student_config("--output_dir", str(tmp_path / "run"))["model_conf"]
    table = read_table(tmp_path / "run" / "latency.new.json")
    assert not (dense / "latency.json").exists()  # it may be anyone's
    assert options["latency"] == table["prices"]
    assert any(name.startswith("decoder.self.") for name in options["latency"])
    assert options["rest"]["latency"] == table["beyond"] > 0
    assert options["rest"]["macs"] > 0


@pytest.mark.parametrize(
    ("part", "option"),
    [("distill", "layer_wight"), ("gates", "mood"), ("sparsity", "rate")]
    + [("optim_conf", "lr_max")],
)
@pytest.mark.parametrize("phase", ["prune", "finetune"])
def test_misspelled_option_of_a_recipe_is_named_at_once(
    student_config, tmp_path, phase, part, option
):
    recipe = yaml.safe_load((tmp_path / "prune.yaml").read_text())
    recipe[part] = (recipe.get(part) or {}) | {option: 1.0}
    (tmp_path / "prune.yaml").write_text(yaml.safe_dump(recipe))
    if phase == "finetune" and part in ("gates", "sparsity"):
        student_config("--phase", phase)  # nothing of it matters there
        return
    with pytest.raises(InputError, match=f"prune.yaml: .*{option}"):
        student_config("--phase", phase)


@pytest.mark.parametrize("part", ["distill", "gates", "sparsity", "optim_conf"])
def test_section_of_a_recipe_that_is_none_is_named(student_config, tmp_path, part):
    recipe = yaml.safe_load((tmp_path / "prune.yaml").read_text())
    (tmp_path / "prune.yaml").write_text(yaml.safe_dump(recipe | {part: "hello"}))
    for options in ((), (f"--{part}", "lr=0.1")):
        with pytest.raises(InputError, match=f"prune.yaml: {part}: must hold `key:"):
            student_config(*options)


def test_small_model_is_not_fine_tuned_without_the_dense_ones_config(student_config):
    with pytest.raises(InputError, match="--teacher_config: is missing"):
        student_config("--phase", "finetune", "--method", "small_distilled")


def test_encoder_option_that_is_not_prunable_is_named_at_once(dense, tmp_path):
    from espnet_prune.cli.prune_train import get_parser
    from espnet_prune.training import plan

    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["encoder_conf"]["ctc_trim"] = True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "prune.yaml").write_text(yaml.safe_dump(RECIPE))
    argv = ["--phase", "prune", "--recipe", str(tmp_path / "prune.yaml")]
    argv += ["--model_config", str(tmp_path / "config.yaml"), "--output_dir", "out"]
    argv += ["--model_file", str(dense / "model.pth")]
    args = get_parser().parse_args(argv)
    with pytest.raises(InputError, match="config.yaml: .*ctc_trim"):
        plan.student_config(args)


def test_model_without_decoder_is_finetuned_by_its_loss(
    student_config, compact, monkeypatch
):
    from espnet_prune.cli.prune_train import averaged_name
    from espnet_prune.training import plan

    options = ("--phase", "finetune", "--model_config", str(compact / "config.yaml"))
    options += ("--model_file", str(compact / "pruned.pth"))
    assert "best_model_criterion" not in student_config(*options)
    load = plan.load_model

    def without_decoder(*paths):
        model, args = load(*paths)
        model.decoder = None
        return model, args

    monkeypatch.setattr(plan, "load_model", without_decoder)
    config = student_config(*options)
    assert config["best_model_criterion"] == [["valid", "loss", "min"]]
    options = argparse.Namespace(**config)
    assert averaged_name(options) == "valid.loss.ave.pth"


def test_options_of_espnet_are_not_taken_for_abbreviations_of_ours():
    from espnet_prune.cli.prune_train import get_parser

    ours = ["--phase", "prune", "--recipe", "r", "--output_dir", "o"]
    ours += ["--model_config", "c", "--model_file", "m"]
    args, rest = get_parser().parse_known_args([*ours, "--model_conf", "ctc_weight=1"])
    assert str(args.model_config) == "c"
    assert rest == ["--model_conf", "ctc_weight=1"]


def test_command_line_refuses_a_checkpoint_that_does_not_fit(student_config, pruned):
    with pytest.raises(InputError, match="does not fit"):
        student_config("--model_file", str(pruned / "latest.pth"))
