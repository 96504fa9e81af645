"""Trainings on several nodes, started by ESPnet's launcher as on a Slurm cluster."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.export.export import export
from espnet_prune.running.nodes import Node
from tests.fixtures.runs import RECIPE

EPOCHS = 10
ROOT = Path(__file__).resolve().parents[2]
# Slurm, as far as ESPnet's launcher and its workers see it: two nodes, one task each.
SLURM_PL = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift 2; done
log=$1; shift
exec "$@" >"$log" 2>&1
"""
SRUN = """#!/usr/bin/env bash
shift  # --export=ALL
export SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=a,b SLURM_LOCALID=0
SLURM_PROCID=1 SLURM_NODEID=1 "$@" & other=$!
SLURM_PROCID=0 SLURM_NODEID=0 "$@"; first=$?
wait "$other" && exit "$first"
"""


@pytest.fixture
def launch(tmp_path, dense, data_options):
    """``launch(out, recipe, *options)``: starts stage 12 on two nodes, by ESPnet's
    launcher, in a process group of its own."""
    for name, text in {"slurm.pl": SLURM_PL, "srun": SRUN}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(out: Path, recipe: Path) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env["PATH"] = f"{tmp_path}:{env['PATH']}"
        out.mkdir(exist_ok=True)
        start = [sys.executable, "-m", "espnet2.bin.launch", "--ngpu", "0"]
        start += ["--cmd", f"{tmp_path}/slurm.pl --name x", "--num_nodes", "2"]
        start += ["--log", f"{out}/train.log", "--init_file_prefix", f"{out}/.init_"]
        start += ["--multiprocessing_distributed", "true", "--", sys.executable, "-m"]
        start += ["espnet_prune.cli.prune_train", "--recipe", str(recipe)]
        start += ["--output_dir", str(out), "--teacher_config"]
        start += [str(dense / "config.yaml"), "--teacher_model", f"{dense}/model.pth"]
        start += ["--resume", "true", *data_options]
        return subprocess.Popen(start, env=env, start_new_session=True)

    return run


@pytest.mark.slow  # ESPnet's launcher and two nodes that wait for each other
def test_two_nodes_prune_together_and_go_on_after_a_kill(launch, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "pruned"
    recipe.write_text(yaml.safe_dump(RECIPE | {"max_epoch": EPOCHS}))
    process = launch(out, recipe)
    while not (out / "checkpoint.pth").exists():
        assert process.poll() is None, (out / "train.log").read_text()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log = (out / "train.log").read_text()
    assert "node 1 waits" in log and ":0/2]" in log and " 1epoch results" in log
    assert not (out / f"{EPOCHS}epoch.pth").exists()
    assert launch(out, recipe).wait() == 0, (out / "train.log").read_text()
    log = (out / "train.log").read_text()
    assert f"{EPOCHS}epoch started" in log and " 1epoch results" not in log
    summary = export(out / "config.yaml", out / "latest.pth", tmp_path / "compact")
    assert 0.5 <= summary["removed"]["params"] < 0.53


@pytest.mark.slow  # nobody waits for ever
def test_what_the_first_node_refuses_stops_all(launch, tmp_path):
    assert launch(tmp_path / "out", tmp_path / "no.yaml").wait() != 0
    log = (tmp_path / "out/train.log").read_text()
    assert "no.yaml: does not exist" in log and "the first node refused" in log


def two_nodes(folder: Path) -> list[Node]:
    options = ["--dist_init_method", f"file://{folder}/init", "--dist_world_size", "2"]
    return [Node([*options, "--dist_rank", str(rank)], folder) for rank in range(2)]


def test_the_others_wait_for_the_first_node(tmp_path):
    first, second = two_nodes(tmp_path)
    done = []
    waiting = threading.Thread(
        target=lambda: done.append(second.first(lambda: done.append("twice")))
    )
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and not done
    assert first.first(lambda: "plan") == "plan"
    waiting.join(10)
    assert done == [None]


def test_a_failure_of_the_first_node_reaches_the_others(tmp_path):
    first, second = two_nodes(tmp_path)
    with pytest.raises(ValueError, match="no plan"):
        first.first(lambda: (_ for _ in ()).throw(ValueError("no plan")))
    with pytest.raises(InputError, match="the first node refused"):
        second.first(lambda: None)


def test_the_others_do_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_prune.running.nodes.PATIENCE", 0.3)
    with pytest.raises(InputError, match="has not written it"):
        two_nodes(tmp_path)[1].first(lambda: None)


def test_one_node_is_the_first_and_leaves_no_mark(tmp_path):
    node = Node(["--ngpu", "2"], tmp_path / "new")
    assert node.is_first and node.first(lambda: 5) == 5
    assert not list(tmp_path.iterdir())


def test_nodes_without_a_file_to_meet_at_are_refused(tmp_path):
    with pytest.raises(InputError, match="is no file"):
        Node(["--dist_world_size", "2", "--dist_rank", "0"], tmp_path)
