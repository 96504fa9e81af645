"""ESPnet's programs by way of ours: what is not ours stays as it was."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.cli import asr_inference, drop_in_train, run, verbs
from espnet_prune.families.espnet.tasks import ASR
from espnet_prune.training.recipe import OWN_KEYS

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def decode(monkeypatch):
    """``decode(config, model)``: build the decoder that ESPnet's program would."""

    def run(config, model):
        program = ["asr_inference", "--asr_train_config", str(config)]
        monkeypatch.setattr("sys.argv", [*program, "--asr_model_file", str(model)])
        monkeypatch.setattr(asr_inference, "hand_logging_to_espnet", lambda: None)
        built, espnet = [], ASR.inference
        monkeypatch.setattr(
            espnet, "main", lambda cmd: built.append(espnet.Speech2Text(*cmd[1::2]))
        )
        asr_inference.main()
        return built[0].asr_model.state_dict()

    return run


def test_files_that_espnet_alone_can_read_are_left_to_it(dense, decode, tmp_path):
    weights = torch.load(dense / "model.pth")
    wrapped, partial = tmp_path / "deepspeed.pth", tmp_path / "adapter_only.pth"
    torch.save({"module": weights}, wrapped)
    torch.save({"ctc.ctc_lo.bias": weights["ctc.ctc_lo.bias"]}, partial)
    for model in (wrapped, partial):
        loaded = decode(dense / "config.yaml", model)
        assert torch.equal(loaded["ctc.ctc_lo.bias"], weights["ctc.ctc_lo.bias"])


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_of_our_models_must_be_complete(dense, decode, tmp_path, part):
    config = read_yaml(dense / "config.yaml")
    config[part] = f"prunable_{config[part]}"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    weights = torch.load(shutil.copy(dense / "model.pth", tmp_path))
    assert decode(tmp_path / "config.yaml", tmp_path / "model.pth")
    del weights["ctc.ctc_lo.bias"]
    torch.save(weights, tmp_path / "model.pth")
    with pytest.raises(InputError, match="does not fit"):
        decode(tmp_path / "config.yaml", tmp_path / "model.pth")


@pytest.mark.parametrize("key", OWN_KEYS)
def test_a_config_of_ours_without_a_teacher_is_told_so(key, tmp_path, monkeypatch):
    config = tmp_path / "prune.yaml"
    config.write_text(yaml.safe_dump({key: {}, "max_epoch": 3}))
    monkeypatch.setattr("sys.argv", ["asr_train", "--config", str(config)])
    monkeypatch.setattr(drop_in_train.ASRTask, "main", pytest.fail)
    with pytest.raises(InputError, match="prune.yaml: lacks teacher_config"):
        drop_in_train.main()


@pytest.mark.parametrize("upstream, ours", [("espnet_prune", True), ("hubert", False)])
def test_a_dense_model_that_hears_by_our_upstream_is_trained_here(
    upstream, ours, tmp_path, monkeypatch
):
    """With the checks that go with what is of this package."""
    config = tmp_path / "train.yaml"
    conf = {"frontend_conf": {"upstream": upstream, "path_or_url": "a"}}
    config.write_text(yaml.safe_dump({"frontend": "s3prl", "frontend_conf": conf}))
    monkeypatch.setattr("sys.argv", ["asr_train", "--config", str(config)])
    monkeypatch.setattr(drop_in_train.asr_train, "main", lambda: sys.exit("ours"))
    stock = lambda: sys.exit("ESPnet's")  # noqa: E731
    monkeypatch.setattr(drop_in_train.ASRTask, "main", stock)
    with pytest.raises(SystemExit, match="ours" if ours else "ESPnet's"):
        drop_in_train.main()


@pytest.fixture
def stage10(dense, tmp_path, monkeypatch):
    """``stage10(*options, **recipe)``: a job of asr.sh's stage 10, as it calls it."""

    def run(*options, **recipe):
        config, out = tmp_path / "ours.yaml", tmp_path / "stats/logdir/stats.1"
        whole = {"teacher_config": str(dense / "config.yaml")}
        whole |= {"teacher_model": str(dense / "model.pth")}
        config.write_text(yaml.safe_dump(whole | {"optim_conf": {"lr": 0.1}} | recipe))
        argv = ["asr_train", "--config", str(config), "--collect_stats", "true"]
        monkeypatch.setattr("sys.argv", [*argv, "--output_dir", str(out), *options])
        # What is not refused would be begun.
        monkeypatch.setattr(drop_in_train, "collect_stats", pytest.fail)
        try:
            drop_in_train.main()
        finally:
            assert not out.exists()

    return run


@pytest.mark.parametrize("more", [{}, {"compact": "nowhere"}])
@pytest.mark.parametrize(
    "options, recipe, told",
    [
        ((), {"distill": {"layrs": 2}}, "ours.yaml: distill: no option 'layrs'"),
        (("--distill", "layers=0"), {}, "--distill: distill: layers must be >= 1"),
        (("--distill", "layers"), {}, "--asr_args: argument --distill: "),
    ],
)
def test_wrong_option_of_ours_is_noticed_before_the_statistics(
    stage10, more, options, recipe, told
):
    with pytest.raises(InputError, match=told):
        stage10(*options, **recipe | more)


def test_an_unreachable_target_is_noticed_before_the_statistics(stage10):
    with pytest.raises(InputError, match="99.9% of the encoder's params cannot be"):
        stage10("--sparsity", "target=0.999")


@pytest.mark.parametrize("more", [{}, {"compact": "nowhere"}])
def test_a_file_of_the_teacher_is_missed_before_the_statistics(
    stage10, dense, tmp_path, more
):
    config = read_yaml(dense / "config.yaml")
    config["normalize_conf"] = {"stats_file": "exp/elsewhere.npz"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="stats_file exp/elsewhere.npz does not exist"):
        stage10(teacher_config=str(tmp_path / "config.yaml"), **more)
    with pytest.raises(InputError, match="nowhere.pth: does not exist"):
        stage10(teacher_model="nowhere.pth", **more)


@pytest.mark.parametrize("given", ["--use_lightning true", "--use-lightning 'true'"])
def test_lightning_is_refused_before_the_statistics(stage10, tmp_path, given):
    (tmp_path / "stats").mkdir()
    said = f'./asr.sh --lang en {given} --nj 2 --stage 10 "$@"; exit $?\n'
    (tmp_path / "stats/run.sh").write_text(said)
    with pytest.raises(InputError, match="--use_lightning true: a student is trained"):
        stage10()


@pytest.mark.parametrize("name", ["prune", "finetune"])
def test_shipped_configs_for_asr_sh_prune_as_run_sh_does(name):
    ours, theirs = (read_yaml(CONF / f"{name}{end}.yaml") for end in ("", "_asr_sh"))
    if name == "prune":  # run.sh has options for these
        ours["sparsity"] |= {"kind": "params", "target": 0.5}
    same = ours.keys() - {"batch_bins", "num_workers", "max_epoch", "seed"}
    same -= {"log_interval"}
    assert {k: theirs[k] for k in same} == {k: ours[k] for k in same}
    added = theirs.keys() - ours.keys()
    assert added == {*drop_in_train.TEACHER, *(["compact"] * (name == "finetune"))}


def test_a_program_run_through_the_package_hands_it_to_spawned_processes(
    python, tmp_path, monkeypatch
):
    # ESPnet's multi-GPU training spawns; these programs know nothing of the package.
    (tmp_path / "some_program.py").write_text(
        "import sys, multiprocessing\n"
        "def look():\n"
        "    print('child', 'espnet_prune' in sys.modules)\n"
        "def main():\n"
        "    print('arguments', *sys.argv)\n"
        "    child = multiprocessing.get_context('spawn').Process(target=look)\n"
        "    child.start()\n"
        "    child.join()\n"
        "    return child.exitcode\n"
    )
    program = ["-m", "some_program", "--option", "1"]
    monkeypatch.chdir(tmp_path)
    result = python("-m", "espnet_prune", *program)
    assert "arguments some_program --option 1" in result.stdout
    assert "child True" in result.stdout and result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "runs modules only"),
        (["espnet2.bin.asr_train"], "runs modules only"),
        # Which asr.sh does first of all where a training is Lightning's.
        (
            ["pyscripts/rotate_logfile.py", "train.log"],
            "leave out --use_lightning true",
        ),
        (["-m", "espnet2.bin.no_such"], "there is no such module"),
        (["-m", "espnet2.bin"], r"has no main\(\)"),
    ],
)
def test_what_cannot_be_run_through_the_package_is_refused(arguments, told):
    with pytest.raises(InputError, match=told):
        run.program(arguments)


IMPORTING = """
import torch
engine = torch.backends.quantized.supported_engines[-1]
torch.set_num_threads(3)
torch.set_num_interop_threads(2)
torch.set_default_dtype(torch.float64)
torch.backends.quantized.engine = engine
import espnet_prune.cli.asr_train, espnet_prune.cli.asr_inference
assert callable(espnet_prune.load)
assert torch.get_num_threads() == 3
assert torch.get_num_interop_threads() == 2
assert torch.get_default_dtype() is torch.float64
assert torch.backends.quantized.engine == engine
assert not torch.cuda.is_initialized()
"""


def test_importing_leaves_torch_as_it_was_says_nothing_and_fetches_nothing(
    python, tmp_path, monkeypatch
):
    """Importing ESPnet 202511 would fetch data of nltk, and print that it could not."""
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    result = python("-c", IMPORTING)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not [*tmp_path.rglob("*nltk*")]


def test_every_program_is_a_verb(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["espnet-prune"])
    assert verbs.main() == 0
    told = capsys.readouterr().out.split()
    assert {"measure", "ssl_train", "ladder"} <= set(told) and "in_process" not in told
    monkeypatch.setattr("sys.argv", ["espnet-prune", "ssl-measure", "--help"])
    with pytest.raises(SystemExit):
        verbs.main()
    assert "usage: espnet-prune ssl_measure" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["espnet-prune", "nope"])
    with pytest.raises(InputError, match="espnet-prune nope: there is none"):
        verbs.main()
    for name in verbs.verbs():
        assert hasattr(importlib.import_module(f"espnet_prune.cli.{name}"), "main")


def test_help_of_decoding_tells_our_options_and_espnets(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["asr_inference", "--help"])
    with pytest.raises(SystemExit) as end:
        asr_inference.main()
    told = capsys.readouterr().out
    assert end.value.code == 0 and told.count("--asr_train_config") > 0
    assert "ctc_greedy" in told and "--precision" in told and "--beam_size" in told
