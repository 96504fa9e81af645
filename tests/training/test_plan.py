"""What a recipe and a command line make of a student's training, before it starts."""

import json
import shutil

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError, OptionError
from espnet_prune.base.files import read_yaml
from espnet_prune.cli.prune_train import get_parser
from espnet_prune.export.export import export
from espnet_prune.families.espnet.checkpoint import load_model
from espnet_prune.measuring.latency import read_table
from espnet_prune.training import plan
from espnet_prune.training.choices import refusing
from espnet_prune.training.configs import frames_of, model_config
from espnet_prune.training.origin import averaged_name

RECIPE = {
    "gates": {"mode": "straight_through"},
    "sparsity": {"target": 0.4},
    "distill": {"layers": 3},
    "optim_conf": {"lr": 0.0005, "weight_decay": 0.000001},
    "max_epoch": 7,
}


@pytest.fixture
def student(dense, tmp_path):
    """``student(*options, **recipe)``: the config that stage 12 would train by."""

    def make(*options, teacher=None, **recipe):
        (tmp_path / "prune.yaml").write_text(yaml.safe_dump(RECIPE | recipe))
        config = dense / "config.yaml"
        if teacher is not None:
            config = tmp_path / "config.yaml"
            config.write_text(yaml.safe_dump(teacher))
        command = [
            "--recipe",
            tmp_path / "prune.yaml",
            "--output_dir",
            tmp_path / "run",
        ]
        command += ["--teacher_config", config]
        command += ["--teacher_model", dense / "model.pth", *options]
        return plan.student_config(get_parser().parse_args([*map(str, command)]))

    return make


@pytest.fixture
def teacher(dense):
    return read_yaml(dense / "config.yaml")


@pytest.mark.parametrize("pruned", [False, True])
def test_a_pruned_decoder_is_not_computed_anew_beside_its_gates(
    student, teacher, pruned
):
    """Checkpointing computes a layer a second time, when its gates are off."""
    teacher["decoder_conf"] |= {"gradient_checkpoint_layers": [1]}
    whole = {"denominator": "model", "macs_tokens": 9} if pruned else {}
    sparsity = {"target": 0.4} | whole
    found = student(teacher=teacher, prune_decoder=pruned, sparsity=sparsity)
    assert ("gradient_checkpoint_layers" in found["decoder_conf"]) is not pruned
    assert found["decoder_conf"]["linear_units"] == 16


def test_student_is_the_teachers_model_trained_by_the_recipe(student, teacher):
    teacher |= {"optim": "sgd", "batch_bins": 1, "scheduler": "x"}
    own = dict(teacher["encoder_conf"])
    teacher["encoder_conf"]["stochastic_depth_rate"] = 0.3
    config = student(teacher=teacher)
    assert config["model"] == "prune" and config["encoder"] == teacher["encoder"]
    assert config["encoder_conf"] == own  # without regularisers of another training
    for key in ("token_list", "frontend_conf", "decoder_conf", "normalize_conf"):
        assert config[key] == teacher[key]
    method = {"sparsity": {"by": "lagrangian"}}
    for section in ("gates", "sparsity", "distill"):
        own = RECIPE[section] | method.get(section, {})
        assert config["model_conf"][section] == own
    assert config["max_epoch"] == 7 and config["optim_conf"] == RECIPE["optim_conf"]
    assert not {"optim", "batch_bins", "scheduler"} & config.keys()
    # Groups are clipped apart by the optimizer, not all together by ESPnet.
    assert config["grad_clip"] == float("inf")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": "longformer"}, "'longformer' cannot be pruned"),
        ({"model": "pit_espnet"}, "'pit_espnet' cannot be pruned"),
        ({"token_list": "tokens.txt"}, "no token list"),
        ({"decoder": "transducer"}, "a transducer decoder"),
        ({"encoder_conf": {"ctc_trim": True}}, "ctc_trim"),
        ({"encoder_conf": {"num_blocks": "two"}}, "num_blocks must be of type int"),
        ({"encoder_conf": {"architecture": {"blocks": []}}}, "compact already"),
    ],
)
def test_model_that_cannot_be_pruned_is_refused_by_name(
    student, teacher, change, named
):
    conf = teacher["encoder_conf"] | change.get("encoder_conf", {})
    with pytest.raises(InputError, match=f"config.yaml: .*{named}"):
        student(teacher=teacher | change | {"encoder_conf": conf})


def test_command_line_wins_over_the_recipe(student):
    options = ("--kind", "macs", "--target", "0.7", "--max_epoch", "9")
    options += ("--sparsity", "macs_seconds=0.5", "--distill", "layers=1")
    options += ("--distill", "task_weight=0.5", "--optim_conf", "lr=0.25")
    config = student(*options)
    sparsity = {"kind": "macs", "target": 0.7, "macs_seconds": 0.5}
    sparsity["by"] = "lagrangian"  # the method's
    assert config["model_conf"]["sparsity"] == sparsity
    assert config["model_conf"]["distill"] == {"layers": 1, "task_weight": 0.5}
    # One key of several, as of the other sections.
    assert config["optim_conf"] == RECIPE["optim_conf"] | {"lr": 0.25}
    assert config["max_epoch"] == 9
    assert config["model_conf"]["budget"]["frames"] == 8000 // 128 + 1


# --- the budget -----------------------------------------------------------------------


def test_student_has_the_very_budget_that_was_planned(student, make_model, monkeypatch):
    made, real = [], plan.make_budget
    monkeypatch.setattr(
        plan, "make_budget", lambda *args: made.append(real(*args)) or made[0]
    )
    config = student(
        gates={"model_dim": True},
        prune_decoder=True,
        sparsity={
            "kind": "params+macs",
            "denominator": "model",
            "groups": {"ffn": 0.6, "decoder": 0.2},
            "macs_tokens": 7,
        },
    )
    (planned,) = made
    written = yaml.safe_load(yaml.safe_dump(config["model_conf"]["budget"]))
    assert {(c["name"], c["kind"]) for c in written["constraints"]} == {
        (name, kind)
        for name in ("ffn", "decoder", "others")
        for kind in ("params", "macs")
    }
    keys = ("encoder_conf", "decoder_conf", "frontend_conf", "model_conf", "model")
    built = make_model(**{key: config[key] for key in keys}).sparsity.budget
    assert built.constraints == planned.constraints
    assert built.dim_target == planned.dim_target > 0
    own = torch.rand(len(planned.layout)).double()
    torch.testing.assert_close(built.cost(own), planned.cost(own), rtol=0, atol=0)


def test_export_meets_the_budget_that_the_run_was_given(pruned, tmp_path):
    """Nobody works out the limits anew: by the target they would be others."""
    config = read_yaml(pruned / "config.yaml")
    (constraint,) = config["model_conf"]["budget"]["constraints"]
    constraint["limit"] *= 0.6
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    summary = export(
        tmp_path / "config.yaml", pruned / "latest.pth", tmp_path / "compact"
    )
    assert 0.7 <= summary["removed"]["params"] < 0.71
    assert summary["constraints"][0]["target"] == pytest.approx(0.7)


def test_frames_are_those_that_the_frontend_makes(dense):
    model, _ = load_model(dense / "config.yaml", dense / "model.pth")
    assert frames_of(model, 16000) == 16000 // 128 + 1


def test_latency_is_priced_by_the_runs_own_table(student, dense, tmp_path, few_points):
    sparsity = {"kind": "latency+macs", "target": 0.1, "macs_seconds": 0.5}
    conf = student(sparsity=sparsity)["model_conf"]
    table = read_table(tmp_path / "run" / "latency.new.json")
    assert not (dense / "latency.json").exists()  # it may be anyone's
    assert conf["budget"]["latency"] == table["prices"]


def test_latency_of_more_than_the_encoder_is_refused(student):
    sparsity = {"kind": "latency", "denominator": "model", "target": 0.1}
    with pytest.raises(InputError, match="latency is that of the encoder"):
        student(sparsity=sparsity)


# --- methods --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["l0", "iterative", "l0_alone", "small"])
@pytest.mark.parametrize("tuned", [False, True])
def test_methods_without_a_teacher_follow_none(student, compact, method, tuned):
    options = ["--method", method, "--distill", "layer_weight=4"]
    options += ["--compact", compact] if tuned else []
    distill = student(*options)["model_conf"]["distill"]
    followed = 0.0 if method in ("l0_alone", "small") else 4
    assert distill["layer_weight"] == followed
    assert distill.get("output_weight", 0.0) == 0.0


def test_what_is_fine_tuned_knows_its_method(student, compact, tmp_path):
    shutil.copytree(compact, tmp_path / "compact")
    told = json.loads((compact / "pruning.json").read_text()) | {"method": "l0_alone"}
    (tmp_path / "compact/pruning.json").write_text(json.dumps(told))
    config = student("--compact", tmp_path / "compact", "--distill", "layer_weight=4")
    assert config["model_conf"]["distill"]["layer_weight"] == 0


@pytest.mark.parametrize(("method", "epochs"), [("small", 50), ("small_distilled", 20)])
def test_small_one_is_trained_at_equal_cost_at_the_dense_rate_or_that_given(
    student, teacher, method, epochs
):
    teacher |= {"max_epoch": 30, "optim_conf": {"lr": 0.003}}
    options = ("--method", method, "--max_epoch", "20")
    config = student(*options, teacher=teacher)
    assert config["max_epoch"] == epochs and config["optim_conf"]["lr"] == 0.003
    config = student(*options, "--optim_conf", "lr=0.25", teacher=teacher)
    assert config["optim_conf"]["lr"] == 0.25
    assert config["encoder_conf"]["output_size"] < config["model_conf"]["teacher_size"]


# --- fine-tuning ----------------------------------------------------------------------


def test_fine_tuning_keeps_the_sizes_and_has_no_gates(student, compact):
    config = student("--compact", compact)
    before = read_yaml(compact / "config.yaml")
    assert config["model"] == "prune" and config["encoder"] == before["encoder"]
    assert config["encoder_conf"] == before["encoder_conf"]
    assert not {"gates", "sparsity", "budget"} & config["model_conf"].keys()
    assert config["init_param"] == [str(compact / "pruned.pth")]
    assert "best_model_criterion" not in config


def test_model_without_decoder_is_fine_tuned_by_its_loss(student, compact, monkeypatch):
    load = plan.load_model

    def without_decoder(*paths):
        model, args = load(*paths)
        model.decoder = None
        return model, args

    monkeypatch.setattr(plan, "load_model", without_decoder)
    config = student("--compact", compact)
    assert config["best_model_criterion"] == [["valid", "loss", "min"]]
    assert averaged_name(config["best_model_criterion"]) == "valid.loss.ave.pth"


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--target", "1.5"), "target"),
        (("--kind", "flops"), "kind"),
        (("--target", "0.999"), "99.9% of the encoder's params cannot be"),
        (("--method", "small", "--sparsity", "groups.ffn=0.4"), "whole encoder"),
        (("--sparsity", "model_dim=0.3"), "needs model_dim: true"),
        (("--sparsity", "groups.fnn=0.3"), r"groups \['fnn'\] are not among"),
        (("--compact", "nowhere"), "nowhere/config.yaml: does not exist"),
        (("--compact", "nowhere", "--gates", "mode=hard"), "belongs to the pruning"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_training(student, options, named):
    with pytest.raises(InputError, match=named):
        student(*options)


@pytest.mark.parametrize("part", ["distill", "gates", "sparsity", "optim_conf"])
def test_wrong_section_of_a_recipe_is_named(student, part):
    with pytest.raises(InputError, match="prune.yaml: .*no_such"):
        student(**{part: RECIPE[part] | {"no_such": 1.0}})
    for options in ((), (f"--{part}", "lr=0.1")):
        with pytest.raises(InputError, match=f"prune.yaml: {part}: must hold `key:"):
            student(*options, **{part: "hello"})


def test_checkpoint_that_does_not_fit_is_refused(student, pruned):
    with pytest.raises(InputError, match="does not fit"):
        student("--teacher_model", pruned / "latest.pth")


def test_config_of_the_teacher_is_left_alone(teacher):
    before = yaml.safe_dump(teacher)
    model_config(teacher, "t")["encoder_conf"]["num_blocks"] = 99
    assert yaml.safe_dump(teacher) == before


@pytest.mark.parametrize("defect", [ValueError, TypeError, KeyError])
def test_a_defect_is_not_told_as_an_option_of_the_user(defect):
    with pytest.raises(InputError, match="a.yaml: too few"), refusing("a.yaml"):
        raise OptionError("too few")
    with pytest.raises(defect) as error, refusing("a.yaml"):
        raise defect("too few")
    assert error.type is defect
