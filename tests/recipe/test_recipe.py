"""The recipe as a user runs it, in a copy of the repository.

What no quick test shows: that the stages of the shell fit each other, one run after
another in the same directories, after a kill, too.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git tracks, as a clone would have it."""
    folder = tmp_path_factory.mktemp("recipe") / "espnet_prune"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def run(checkout):
    """Run ./run.sh there, with this Python as the active environment."""

    def run(*options):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["./run.sh", *options],
            cwd=checkout,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=1800,
        )

    return run


# The processes that import ESPnet take the time, not what they compute.
FEW = ("--nj", "1", "--measure_args", "--utts 2 --rounds 2")
SIZES = ("output_size=32", "linear_units=64", "num_blocks=4")
DENSE = ("--asr_args", " ".join(f"--encoder_conf {size}" for size in SIZES))


@pytest.fixture(scope="module")
def quick(run):
    data = ("--data_args", "--train 80 --dev 10 --test 10")
    result = run("--preset", "quick", "--precisions", "int8", *FEW, *data, *DENSE)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def test_quick_preset_goes_from_nothing_to_a_report(quick, checkout):
    report = json.loads((checkout / "exp/synth_quick_report/report.json").read_text())
    assert report["corpus"] == "synth"
    rows = report["rows"]
    assert [(row["system"], row["precision"]) for row in rows] == [
        ("dense", "fp32"), ("dense", "int8"), ("compact", "fp32"), ("compact", "int8")
    ]  # fmt: skip
    dense, _, compact, _ = rows
    for row in rows:
        assert row["quality"]["WER"]["value"] is not None and row["rtf"]["search"] > 0
        assert ("dense" in row["vs"]) == (row is not dense)
    for row in (dense, compact):
        rate = row["quality"]["WER"]
        assert rate["value"] is not None and rate["ci"][0] <= rate["value"]
        for costs in (row["params"], row["macs_per_second"]):
            assert costs.pop("frontend") == 0 and all(v > 0 for v in costs.values())
        assert all(v > 0 for v in row["rtf"].values())
    assert compact["target"] == {"kind": "params+macs", "value": 0.5}
    removed = [
        1 - compact[part]["encoder"] / dense[part]["encoder"]
        for part in ("params", "macs_per_second")
    ]
    assert 0.5 <= min(removed) <= 0.505
    assert compact["bytes"] < dense["bytes"]
    page = (checkout / "exp/synth_quick_report/report.html").read_text()
    assert "QUICK PRESET" in page and "ynthetic" in page


def test_terminal_names_stages_epochs_logs_and_shows_the_table(quick):
    for number in (1, 3, 4, 5, 10, 11, 12, 13, 14, 15, 16, 17, 18):
        assert f"stage {number}: " in quick.stdout
    assert "epoch 2/" in quick.stdout
    assert "train.log" in quick.stdout
    assert "compact -50 % params+macs int8" in quick.stdout


def test_dense_experiment_is_stock_espnet(quick, checkout):
    code = (
        "import gc; gc.disable()\n"  # half of the import's time
        "from espnet2.bin.asr_inference import Speech2Text\n"
        "d = 'exp/synth_quick_dense/'\n"
        "Speech2Text(d + 'config.yaml', d + 'valid.acc.ave.pth')\n"
        "import sys; assert 'espnet_prune' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, check=True)


def test_packed_model_is_a_teacher_that_can_be_fetched(quick, run, checkout):
    result = run("--preset", "quick", "--stage", "19", "--license", "cc0-1.0")
    assert result.returncode == 0, result.stderr
    name = "synth_quick_compact_params_macs50"
    # A copy: a teacher's experiment directory is named after its zip.
    shutil.copy(checkout / f"exp/{name}/{name}.zip", checkout / "published.zip")
    tag = ("--teacher_tag", "published.zip")
    result = run("--preset", "quick", "--stage", "11", "--stop_stage", "11", *tag)
    assert result.returncode == 0, result.stderr
    packed = checkout / f"exp/{name}/finetuned.pth"
    fetched = checkout / "exp/published"
    assert (fetched / "model.pth").read_bytes() == packed.read_bytes()


def test_a_training_can_be_started_by_another_program(quick, run, checkout):
    log = checkout / "exp/synth_quick_compact_params_macs50/finetune/train.log"
    before = log.read_text()
    result = run(
        *("--preset", "quick", "--stage", "14", "--stop_stage", "14"),
        *("--cuda_cmd", str(ROOT / "tests/recipe/run.pl")),
        *("--finetune_args", "--max_epoch 2"),
    )
    assert result.returncode == 0, result.stderr
    assert "epoch 2/2" in result.stdout and "epoch 1/2" not in result.stdout
    assert log.with_name("train.1.log").read_text() == before != log.read_text()


def test_stages_can_be_entered_alone(quick, run, checkout):
    shutil.rmtree(checkout / "exp/synth_quick_report")
    result = run("--preset", "quick", "--stage", "16", "--stop_stage", "16")
    assert result.returncode == 0, result.stderr
    result = run("--preset", "quick", "--stage", "18")
    assert result.returncode == 0, result.stderr
    assert (checkout / "exp/synth_quick_report/report.md").exists()


def test_finished_trainings_are_not_done_again(quick, run):
    result = run("--preset", "quick", "--stage", "11", "--stop_stage", "11", *DENSE)
    assert result.returncode == 0, result.stderr
    assert "epoch 1/" not in result.stdout


def test_teacher_of_another_recipe_can_be_pruned_instead(quick, run, checkout):
    teacher = shutil.copytree(checkout / "exp/synth_quick_dense", checkout / "their")
    result = run(
        *("--preset", "quick", "--tag", "synth_quick", "--stage", "10"),
        *("--stop_stage", "13", "--target", "0.7", "--target_kind", "macs"),
        *("--teacher_config", f"{teacher}/config.yaml"),
        *("--teacher_model", f"{teacher}/valid.acc.ave.pth"),
        *("--prune_args", "--max_epoch 1"),
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "stage 11" not in result.stdout
    pruning = json.loads(
        (checkout / "exp/synth_quick_compact_macs70/pruning.json").read_text()
    )
    assert 0.7 <= pruning["realised"] <= 0.705


LADDER = (
    *("--preset", "quick", "--stage", "12", "--targets", "0.5 0.75"),
    *("--target_kind", "params+macs", "--method", "magnitude l0 slimmable"),
    *("--prune_args", "--max_epoch 2", "--finetune_args", "--max_epoch 1"),
    *("--inference_config", "fast.yaml", *FEW),
)


@pytest.fixture(scope="module")
def ladder(quick, run, checkout):
    """Two rungs of L0 and of a baseline; killed in the second rung, and run again."""
    (checkout / "fast.yaml").write_text("beam_size: 1\nctc_weight: 1.0\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["./run.sh", *LADDER],
        cwd=checkout,
        env=os.environ | {"PATH": path},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    second = checkout / "exp/synth_quick_pruned_params_macs75"
    while not (second / "1epoch.pth").exists() and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = checkout / "exp/synth_quick_compact_params_macs50/finetune/1epoch.pth"
    before = first.stat().st_mtime_ns
    result = run(*LADDER)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return first.stat().st_mtime_ns - before


def test_ladder_resumes_after_a_kill(ladder, checkout):
    """The first rung is not trained again, and the second starts from its gates."""
    assert ladder == 0
    pruned = checkout / "exp/synth_quick_pruned_params_macs75"
    config = yaml.safe_load((pruned / "config.yaml").read_text())
    start = config["model_conf"]["sparsity"]["start"]
    assert start["encoder/params"] == pytest.approx(0.5)
    train_log = (pruned / "train.log").read_text()
    assert "The training was resumed using" in train_log
    assert "params_macs50/latest.pth" in config["init_param"][0]


def test_report_holds_rungs_and_baselines_together(ladder, checkout):
    report = json.loads((checkout / "exp/synth_quick_report/report.json").read_text())
    rows = [(row["method"], row["target"]["value"]) for row in report["rows"]]
    assert rows == [
        *(("dense", None), ("l0", 0.5), ("l0", 0.75)),
        *(("magnitude", 0.5), ("magnitude", 0.75)),
        *(("slimmable", 0.5), ("slimmable", 0.75), ("slimmable", 0.0)),
    ]
    dense, *others = report["rows"]
    for row in others:
        target = row["target"]["value"]
        assert row["target"]["kind"] == "params+macs"
        for part in ("params", "macs_per_second"):
            assert 1 - row[part]["encoder"] / dense[part]["encoder"] >= target - 1e-3
    text = (checkout / "exp/synth_quick_report/report.md").read_text()
    assert "pareto_1.png" in text and "WER - L0's" in text
    assert "| slimmable, all of it |" in text and "not there yet" not in text
    assert (checkout / "exp/synth_quick_report/pareto_1.png").exists()


SOUP = ("--preset", "quick", "--round_to", "2", "--stop_stage", "14", "--soup", "2")


@pytest.fixture(scope="module")
def soup(quick, checkout, run):
    """Two fine-tunings of one more export, killed in the second one; then done.

    It gives the directory, and what the first fine-tuning had left by then.
    """
    compact = checkout / "exp/synth_quick_compact_params_macs50_r2"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["./run.sh", "--stage", "13", *SOUP],
        cwd=checkout,
        env=os.environ | {"PATH": path},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (compact / "finetune_2/config.yaml").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = compact / "finetune/1epoch.pth"
    before = first.stat().st_mtime_ns
    assert not (compact / "finetuned.pth").exists()
    result = run("--stage", "14", *SOUP)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert first.stat().st_mtime_ns == before
    return compact


def test_soup_is_the_average_of_what_its_file_tells(soup):
    told = json.loads((soup / "soup.json").read_text())
    runs = ["finetune", "finetune_2"]
    assert [one["run"] for one in told["ingredients"]] == runs
    assert [one["seed"] for one in told["ingredients"]] == [2024, 2025]
    rates = [one["error_rate"] for one in told["ingredients"]]
    assert told["best_single"] == min(rates) and told["error_rate"] <= min(rates)
    chosen = [one["run"] for one in told["ingredients"] if one["is_in"]]
    states = [torch.load(soup / run / "valid.acc.ave.pth") for run in chosen]
    if len(states) == 2:  # they are trainings of their own
        name = "ctc.ctc_lo.weight"
        assert not torch.equal(states[0][name], states[1][name])
    for name, value in torch.load(soup / "finetuned.pth").items():
        mean = sum(state[name].double() for state in states) / len(states)
        expected = mean if value.is_floating_point() else states[0][name]
        torch.testing.assert_close(value, expected.to(value.dtype), rtol=0, atol=0)


def test_soup_is_not_made_again_and_stands_in_the_report(soup, run, checkout):
    files = [soup / name for name in ("finetuned.pth", "soup.json")]
    before = [file.stat().st_mtime_ns for file in files]
    assert run("--stage", "14", *SOUP).returncode == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    result = run("--stage", "18", *SOUP[:4])
    assert result.returncode == 0, result.stderr
    text = (checkout / "exp/synth_quick_report/report.md").read_text()
    assert "greedy soup" in text and "dump/raw/synth_quick_dev" in text


def test_missing_input_names_the_stage_that_makes_it(run):
    result = run("--tag", "nothing", "--stage", "13", "--stop_stage", "13")
    assert result.returncode != 0
    assert "run stage 12" in result.stderr
