"""ESPnet's programs by way of ours: what is not ours stays as it was."""

import importlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.cli import asr_inference, drop_in_train, run, verbs
from espnet_prune.training.recipe import OWN_KEYS

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def decode(monkeypatch):
    """``decode(config, model)``: build the decoder that ESPnet's program would."""

    def run(config, model):
        program = ["asr_inference", "--asr_train_config", str(config)]
        monkeypatch.setattr("sys.argv", [*program, "--asr_model_file", str(model)])
        monkeypatch.setattr(asr_inference, "hand_logging_to_espnet", lambda: None)
        monkeypatch.setattr(
            asr_inference.espnet,
            "main",
            lambda cmd: built.append(asr_inference.espnet.Speech2Text(*cmd[1::2])),
        )
        built = []
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
    # ESPnet's program would take the place of this process.
    monkeypatch.setattr("os.execv", lambda *command: pytest.fail(str(command)))
    with pytest.raises(InputError, match="prune.yaml: lacks teacher_config"):
        drop_in_train.main()


@pytest.mark.parametrize("more", [{}, {"compact": "nowhere"}])
def test_wrong_option_of_a_config_of_ours_is_noticed_before_the_statistics(
    dense, tmp_path, monkeypatch, more
):
    config = tmp_path / "ours.yaml"
    recipe = {"teacher_config": str(dense / "config.yaml"), "optim_conf": {"lr": 0.1}}
    recipe |= {"teacher_model": str(dense / "model.pth"), "distill": {"layrs": 2}}
    config.write_text(yaml.safe_dump(recipe | more))
    argv = ["asr_train", "--config", str(config), "--collect_stats", "true"]
    monkeypatch.setattr("sys.argv", [*argv, "--output_dir", str(tmp_path / "stats")])
    with pytest.raises(InputError, match="ours.yaml: distill: no option 'layrs'"):
        drop_in_train.main()
    assert not (tmp_path / "stats").exists()


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
        "    from espnet2.tasks.asr import encoder_choices\n"
        "    print('child', 'prunable_conformer' in encoder_choices.classes)\n"
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
        (["-m", "espnet2.bin.no_such"], "there is no such module"),
        (["-m", "espnet2.bin"], r"has no main\(\)"),
    ],
)
def test_what_cannot_be_run_through_the_package_is_refused(arguments, told):
    with pytest.raises(InputError, match=told):
        run.program(arguments)


@pytest.mark.parametrize(
    "program", ["asr_train", "asr_inference", "prune_train", "export", "measure"]
)
def test_programs_of_the_recipe_download_nothing(
    python, tmp_path, monkeypatch, program
):
    pytest.importorskip("nltk", reason="ESPnet 202511 alone brings it")
    monkeypatch.delenv("NLTK_DATA")
    # A dependency of ESPnet asks nltk for data as soon as it is imported.
    (tmp_path / "sitecustomize.py").write_text(
        "import nltk\n"
        "def download(*args, **kwargs): raise SystemExit(f'asked for {args}')\n"
        "nltk.download = download\n"
    )
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import sitecustomize; "
    result = python("-c", f"{code}import espnet_prune.cli.{program}")
    assert result.returncode == 0, result.stderr


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
