"""The surface of run.sh: what is wrong is said in one line, before any work."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from recipe_copy import ROOT, copy_recipe, fake_python, start, unchecked


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return copy_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture
def run(recipe):
    return partial(start, recipe / "run.sh")


@pytest.fixture
def enter(recipe, tmp_path):
    """As ``run``, without the check of options against models."""
    return partial(start, recipe / "run.sh", first=unchecked(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nope", "1"), "unknown option --nope"),
        (("--stage",), "option --stage needs a value"),
        (("12",), "unexpected argument 12"),
        (("--corpus", "nope"), "--corpus nope: unknown"),
        (("--preset", "nope"), "--preset nope: unknown"),
        (("--teacher_config", "x.yaml"), "--teacher_model"),
        (("--stage", "abc"), "--stage"),
        (("--stop_stage", ""), "--stop_stage"),
        (("--corpus", "kaldi"), "--corpus kaldi needs --data_args"),
        (("--nj", "0"), "--nj 0: give a number"),
        (("--precisions", "bf16 fp16"), "--precisions fp16: int8 (CPUs) or bf16"),
        (("--precisions", "int8 int8"), "--precisions int8 int8: names one twice"),
        (
            ("--inference_model", "nope.pth"),
            "--inference_model nope.pth: finetuned.pth",
        ),
        (
            ("--gpu_inference", "true", "--precisions", "int8"),
            "--precisions int8: is for CPUs",
        ),
        (("--gpu_inference", "1"), "--gpu_inference 1: true or false"),
        (("--cuda_cmd", "slurm.pl --config x"), "--cuda_cmd slurm.pl: is no program"),
        (
            ("--num_nodes", "2", "--cuda_cmd", str(ROOT / "tests/recipe/run.pl")),
            "starts on one machine",
        ),
        (("--skip_stages", "2,5"), "--skip_stages 2,5: numbers"),
        (("--targets", " "), "--targets: names none"),
        (("--method", ""), "--method: names none"),
        (("--teacher_tag", "/nope.zip"), "--teacher_tag /nope.zip: does not exist"),
        (("--token_type", "word"), "--token_type word: bpe or char"),
        (("--nbpe", "many"), "--nbpe many: give a number"),
        (("--max_wav_duration", "long"), "--max_wav_duration long: give seconds"),
        (
            ("--valid_set", "a", "--test_sets", "b a"),
            "--valid_set a: is a test set, too",
        ),
        (("--executor", "pbs"), "--executor pbs: local or slurm"),
        (("--executor", "slurm"), "--executor slurm: there is no sbatch here"),
        (("--executor_args", "nonsense"), "--executor_args nonsense: give KEY=VALUE"),
        (("--num_nodes", "two"), "--num_nodes two: give a number"),
        (("--num_nodes", "2"), "--num_nodes 2: what starts it there?"),
        (("--ngpu", "all"), "--ngpu all: give a number"),
        (("--stage", "20"), "--stage 20 --stop_stage 18: no stage lies there"),
        (("--stage", "19"), "finetuned.pth is missing -> run stage 14"),
        (
            (
                *("--teacher_config", "run.sh", "--teacher_model", "run.sh"),
                *("--teacher_tag", "a/b"),
            ),
            "--teacher_tag a/b: there is --teacher_config, too",
        ),
        (
            ("--prune_config", "conf/nope.yaml"),
            "--prune_config conf/nope.yaml: is no file",
        ),
        (
            ("--corpus", "librispeech", "--librispeech", "nope"),
            "--librispeech nope: no",
        ),
        (("--corpus", "digits", "--downloads", "nope"), "--downloads nope: no"),
        (
            ("--round_to", "8", "--method", "small"),
            "--method small: its sizes are even",
        ),
        (("--round_to", "0"), "--round_to 0: give a number"),
        (("--tag", "f 2"), "--tag f 2: letters, digits"),
        (("--tag=f 2=3",), "--tag f 2=3: letters, digits"),
        (("--tag", "../f"), "--tag ../f: letters, digits"),
        (("--fs", "16k"), "--fs 16k: give the rate in Hz"),
        (("--seed", "one"), "--seed one: give a number"),
        (("--soup", "0"), "--soup 0: give a number of fine-tunings from 1 on"),
        (
            ("--soup", "2", "--method", "l0 slimmable"),
            "--method slimmable: its weights are of several sizes, --soup 2 is for one",
        ),
        (("--family", "ssl", "--soup", "2"), "unknown option --soup"),
        (("--targets", "0.5 0.4"), "--targets 0.5 0.4: they must rise"),
        (("--targets", "0.5", "--target", "0.9"), "0.9: there is --targets, too"),
        (("--targets", "0.5 75"), "--target, --targets 75: give fractions"),
        (("--target_kind", "flops"), "--target_kind flops: params, macs"),
        (("--method", "l0 slim"), "--method slim: unknown"),
        (("--method", "l0 l0"), "--method l0 l0: names one twice"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_option_is_one_clear_line(run, options, message):
    result = run(*options)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize(
    ("stage", "made_by"),
    [(3, 1), (4, 3), (5, 4), (10, 4), (11, 4), (12, 4), (13, 12), (14, 4)]
    + [(15, 3), (16, 15), (17, 3), (18, 13)],
)
@pytest.mark.parametrize("token_type", ["bpe", "char"])
def test_stage_without_its_input_names_the_stage_that_makes_it(
    enter, stage, made_by, token_type
):
    options = ("--stage", str(stage), "--stop_stage", str(stage))
    result = enter(*options, "--token_type", token_type)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "is missing" in line
    assert f"run stage {made_by} " in line


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ("corpus=synth", True),
        ("corpus=digits", True),
        ("corpus=kaldi", False),
        ("corpus=synth teacher_tag=a/b", False),
        ("corpus=synth asr_config=mine.yaml", False),
    ],
)
def test_thorough_gates_the_model_dimension_of_the_recipes_own_models(
    variables, chosen
):
    unset = "asr_args= asr_config= teacher_config= teacher_tag="
    script = f"{unset} {variables} prune_args=--mine finetune_args=\n"
    script += ". conf/presets/thorough.sh; echo ${prune_args}"
    result = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ("--gates model_dim=true" in result.stdout) == chosen
    assert result.stdout.endswith("--max_epoch 20 --mine\n")


@pytest.mark.parametrize(
    "corpus", ["synth", "commands", "digits", "librispeech", "kaldi"]
)
@pytest.mark.parametrize("preset", ["default", "quick", "thorough"])
def test_every_corpus_and_preset_can_be_entered(enter, corpus, preset):
    options = ("--corpus", corpus, "--preset", preset, "--stage", "5")
    result = enter(*options, "--stop_stage", "5")
    assert result.returncode == 2
    assert "run stage 4 " in result.stderr


def test_skipped_stages_and_those_after_the_last_do_not_run(run):
    skipped = run("--stage", "15", "--skip_stages", "15 16 17 18")
    beyond = run("--stage", "16", "--stop_stage", "15")
    no_factors = run("--stage", "2", "--stop_stage", "2")
    teacher = ("--teacher_config", "run.sh", "--teacher_model", "run.sh")
    given = run(*teacher, "--stage", "10", "--stop_stage", "11")
    for result in (skipped, beyond, no_factors, given):
        assert result.returncode == 2 and not result.stdout
        assert "no stage lies there" in result.stderr


def test_options_may_be_spelled_with_dashes(run):
    result = run("--stage", "16", "--stop-stage", "15")
    assert "--stop_stage 15: no stage lies there" in result.stderr


def test_teacher_of_the_users_own_is_asked_for_by_name(run):
    options = ("--teacher_config", "my/config.yaml", "--teacher_model", "my/a.pth")
    result = run(*options, "--stage", "15")
    assert result.returncode == 2 and "my/config.yaml" in result.stderr


def test_model_before_finetuning_can_be_decoded_and_is_asked_of_stage_13(enter, recipe):
    dense, test = recipe / "exp" / "synth_dense", recipe / "dump/raw/synth_test"
    for path in (dense / "config.yaml", dense / "valid.acc.ave.pth", test / "wav.scp"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    result = enter("--stage", "15", "--inference_model", "pruned.pth")
    for name in ("exp", "dump"):
        shutil.rmtree(recipe / name)
    assert "pruned.pth is missing -> run stage 13 " in result.stderr


def test_model_that_cannot_be_pruned_is_refused_before_the_data(run, recipe):
    result = run("--asr_args", "--encoder multiconv_conformer")
    assert result.returncode == 2 and not (recipe / "data").exists()
    assert result.stdout == "checking options, models and machine\n"
    (told,) = result.stderr.splitlines()
    assert told.startswith(
        "error: conf/train_small.yaml: encoder 'multiconv_conformer'"
    )


TEACHER = ("--teacher_config", "dense/config.yaml")
TEACHER += ("--teacher_model", "dense/model.pth")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--asr_args", "--max_epoch 3"),
            " --max_epoch 3 --inference_asr_model valid.acc.ave.pth",
        ),
        (
            TEACHER,
            " --config dense/config.yaml --teacher_model dense/model.pth --fs 16000",
        ),
    ],
    ids=["trained", "given"],
)
def test_what_would_be_noticed_late_is_checked_early(recipe, tmp_path, options, told):
    calls = tmp_path / "calls"
    given = {
        "ngpu": "3", "gpu_inference": "true", "precisions": "bf16",
        "inference_config": "conf/decode_greedy.yaml", "method": "l0 small",
        "target_kind": "macs", "targets": "0.5 0.75", "prune_args": "--seed 1",
        "finetune_args": "--seed 2", "soup": "3",
    }  # fmt: skip
    (recipe / "dense").mkdir(exist_ok=True)
    for name in ("config.yaml", "model.pth"):
        (recipe / "dense" / name).touch()
    for name, value in given.items():
        options += (f"--{name}", value)
    fake_python(tmp_path / "bin", calls)
    start(recipe / "run.sh", *options, first=tmp_path / "bin")
    line = next(x for x in calls.read_text().splitlines() if "check_early" in x)
    assert line.startswith(
        "-m espnet_prune.cli.check_early --ngpu 3 --precisions bf16 --decode_ngpu 1"
        " --inference_config conf/decode_greedy.yaml --methods l0 small"
        " --target_kind macs --targets 0.5 0.75 --prune_config conf/prune.yaml"
        # The corpus has epochs of its own, which options of the user's come after.
        " --prune_args=--max_epoch 4 --optim_conf lr=0.0015 --seed 1"
        " --finetune_config conf/finetune.yaml"
        " --finetune_args=--max_epoch 3 --optim_conf lr=0.0015 --seed 2 --soup 3"
        " --config "
    )
    assert line.endswith(told)


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ((), "0.5 0.75"),
        (("--target", "0.6"), "0.6"),
        (("--preset", "quick"), "0.5"),
        (TEACHER, "0.5"),
    ],
    ids=["own model", "asked for", "a first look", "given"],
)
def test_what_the_recipe_trains_is_pruned_to_two_sizes_and_timed_in_int8(
    recipe, tmp_path, options, targets
):
    calls = tmp_path / "calls"
    (recipe / "dense").mkdir(exist_ok=True)
    for name in ("config.yaml", "model.pth"):
        (recipe / "dense" / name).touch()
    fake_python(tmp_path / "bin", calls)
    start(recipe / "run.sh", *options, first=tmp_path / "bin")
    line = next(x for x in calls.read_text().splitlines() if "check_early" in x)
    assert f" --target_kind params+macs --targets {targets} --prune_config " in line
    # The default run shows the fastest way, too.
    assert (" --precisions int8 " in line) == (not options)


def test_misspelled_test_set_is_refused_before_the_training(enter, recipe):
    for name in ("synth_train", "synth_dev", "synth_test"):
        folder = recipe / "dump/raw" / name
        folder.mkdir(parents=True)
        for table in ("wav.scp", "utt2num_samples"):
            (folder / table).touch()
    result = enter("--stage", "12", "--test_sets", "synth_tset")
    shutil.rmtree(recipe / "dump")
    assert result.returncode == 2 and "stage 12" not in result.stdout
    assert "synth_tset/wav.scp is missing" in result.stderr
    assert "synth_test/" in result.stderr  # the ones that are there


def test_set_that_stage_1_does_not_make_is_refused_there(run, recipe, tmp_path):
    chapter = tmp_path / "LibriSpeech/dev-clean/1/2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 A WORD\n")
    (chapter / "1-2-0000.flac").touch()
    options = ("--corpus", "librispeech", "--librispeech", str(tmp_path))
    result = run(*options, "--stop_stage", "1")
    shutil.rmtree(recipe / "data")
    assert result.returncode == 2
    message = result.stderr.splitlines()[-1]
    assert "data/librispeech_train_clean_100 is not what stage 1 made" in message
    assert "there are: librispeech_dev_clean/" in message


def test_missing_set_is_answered_with_those_that_are_there(enter, recipe):
    for name in ("mine_train", "token_list"):
        (recipe / "data" / name).mkdir(parents=True)
    result = enter("--stage", "3", "--train_set", "mine")
    shutil.rmtree(recipe / "data")
    assert "there are: mine_train/ (--train_set" in result.stderr


def test_help_lists_every_option_with_a_default(run):
    result = run("--help")
    assert result.returncode == 0
    script = (ROOT / "run.sh").read_text()
    start = script.index("\nstage=1") + 1
    defaults = script[start : script.index(". local/parse_options.sh")].splitlines()
    words = " ".join(line for line in defaults if not line.startswith("#")).split()
    names = [word.split("=")[0] for word in words if "=" in word]
    assert "prune_config" in names
    for name in names:
        assert f"--{name} " in result.stdout, name


def test_every_rung_of_every_method_has_its_directory(run, recipe):
    """The methods are asked for rung by rung, the project's own first."""
    options = ("--method", "random l0", "--targets", "0.5 0.75", "--stage", "17")
    for name in ("data", "dump/raw/digits_test"):
        (recipe / name).mkdir(parents=True, exist_ok=True)
    teacher = recipe / "dense"
    teacher.mkdir(exist_ok=True)
    (teacher / "config.yaml").write_text("encoder: conformer\n")
    (teacher / "model.pth").touch()
    given = ("--teacher_config", "dense/config.yaml")
    given += ("--teacher_model", "dense/model.pth", "--corpus", "digits")
    (recipe / "dump/raw/digits_test/wav.scp").touch()
    expected = [f"{m}params_macs{t}" for m in ("", "random_") for t in (50, 75)]
    for goal in expected:
        result = run(*options, *given)
        assert f"exp/digits_compact_{goal}/finetuned.pth is missing" in result.stderr
        folder = recipe / f"exp/digits_compact_{goal}"
        folder.mkdir(parents=True)
        (folder / "finetuned.pth").touch()


def test_model_that_cannot_be_had_is_noticed_before_the_data(enter, recipe):
    (recipe / "junk.zip").write_text("no archive")
    result = enter("--preset", "quick", "--teacher_tag", "junk.zip")
    assert result.returncode != 0
    assert "--teacher_tag junk.zip: cannot be had" in result.stderr
    assert "stage 11:" in result.stdout and "stage 1:" not in result.stdout


@pytest.mark.parametrize("program", ["./run.sh", "./run.sh --family ssl"])
def test_killed_program_says_that_memory_was_too_little(recipe, tmp_path, program):
    folder = tmp_path / "bin"
    fake_python(folder, tmp_path / "calls")
    with (folder / "python3").open("a") as f:
        f.write("case $2 in espnet_prune.cli.*) kill -9 $$;; esac\n")
    result = subprocess.run(
        ["bash", "-c", f"PATH={folder}:$PATH {program}"],
        cwd=recipe,
        capture_output=True,
        text=True,
    )
    told = "error: a program was killed, most likely for want of memory"
    assert result.returncode == 137, result.stderr
    assert result.stderr.splitlines()[-1].startswith(told)
