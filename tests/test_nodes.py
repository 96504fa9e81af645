"""Trainings on several nodes, started by ESPnet's launcher as on a Slurm cluster."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import yaml

from espnet_prune.base.errors import InputError
from espnet_prune.running.nodes import Node

ROOT = Path(__file__).resolve().parents[1]
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
def launch(tmp_path, data_options):
    """``launch(out, *command)``: ESPnet's launcher on two nodes; its exit status."""
    for name, text in {"slurm.pl": SLURM_PL, "srun": SRUN}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(out: Path, *command: object) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env["PATH"] = f"{tmp_path}:{env['PATH']}"
        out.mkdir(exist_ok=True)
        start = [sys.executable, "-m", "espnet2.bin.launch", "--ngpu", "0"]
        start += ["--cmd", f"{tmp_path}/slurm.pl --name x", "--num_nodes", "2"]
        start += ["--log", f"{out}/train.log", "--init_file_prefix", f"{out}/.init_"]
        start += ["--multiprocessing_distributed", "true", "--"]
        start += [sys.executable, "-m", *map(str, command), "--output_dir", str(out)]
        start += ["--resume", "true", *map(str, data_options)]
        return subprocess.run(start, env=env, capture_output=True, text=True)

    return run


@pytest.fixture
def recipe(tmp_path):
    values = {
        "sparsity": {"macs_seconds": 1.0, "kind": "params", "target": 0.5},
        "distill": {"layers": 2},
        "optim_conf": {"lr": 0.0005},
        "batch_type": "numel", "batch_bins": 40000, "num_workers": 0, "max_epoch": 2,
        "num_att_plot": 0, "use_matplotlib": False, "use_tensorboard": False,
        "best_model_criterion": [["valid", "sparsity_realised", "max"]],
        "keep_nbest_models": 1,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_two_nodes_prune_together_and_go_on_after_a_stop(
    launch, dense, recipe, tmp_path
):
    out = tmp_path / "pruned"
    model = ["--model_config", dense / "config.yaml"]
    model += ["--model_file", dense / "model.pth", "--teacher_config"]
    model += [dense / "config.yaml", "--teacher_model", dense / "model.pth"]
    command = ["espnet_prune.cli.prune_train", "--phase", "prune", "--recipe", recipe]
    for epochs in (1, 2):
        result = launch(out, *command, *model, "--max_epoch", epochs)
        assert result.returncode == 0, result.stderr[-3000:]
        assert (out / f"{epochs}epoch.pth").exists()
    log = (out / "train.log").read_text()
    assert "node 1 waits" in log and ":0/2]" in log
    assert "2epoch started" in log and "1epoch started" not in log
    from espnet_prune.export.export import export

    summary = export(out / "config.yaml", out / "latest.pth", tmp_path / "compact")
    assert 0.5 <= summary["removed"]["params"] < 0.53


@pytest.mark.slow
def test_what_the_first_node_refuses_stops_all(launch, dense, tmp_path):
    command = [
        "espnet_prune.cli.prune_train",
        "--phase",
        "prune",
        "--recipe",
        "no.yaml",
    ]
    model = ["--model_config", dense / "config.yaml"]
    model += ["--model_file", dense / "model.pth", "--teacher_config"]
    model += [dense / "config.yaml", "--teacher_model", dense / "model.pth"]
    result = launch(tmp_path / "out", *command, *model)
    assert result.returncode != 0
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


# --- the mathematics: two processes with half a batch each, one with all of it --------


def gradients(model, batch) -> dict[str, torch.Tensor]:
    """As ESPnet's trainer: the loss is weighted by the share of the batch."""
    torch.manual_seed(1)  # the gates' noise, the same on all ranks
    loss, _, weight = model(**batch)
    if dist.is_initialized():
        whole = weight.clone()
        dist.all_reduce(whole)
        loss = loss * weight / whole * dist.get_world_size()
    loss.backward()
    module = model.module if dist.is_initialized() else model
    named = module.named_parameters()
    return {n: p.grad.clone() for n, p in named if p.grad is not None}


def student(model, teacher):
    model.set_teacher(teacher)
    model.sparsity.total_steps = 10
    model.sparsity.step += 5
    model.train()
    for layer in model.modules():  # its statistics are those of a process's own batch
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.eval()
    return model


def work(rank: int, folder: str) -> None:
    import espnet_prune  # noqa: F401  (a spawned process starts bare)

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2
    )
    model, teacher, batch = torch.load(f"{folder}/all.pth", weights_only=False)
    half = {k: v[2 * rank : 2 * rank + 2] for k, v in batch.items()}
    model = student(model, teacher)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    torch.save(gradients(wrapped, half), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(
    make_model, student_options, tmp_path
):
    torch.manual_seed(0)
    teacher = make_model()
    no_dropout = {"decoder_conf": {"attention_heads": 2, "linear_units": 16}}
    for name in ("dropout_rate", "positional_dropout_rate"):
        no_dropout["decoder_conf"] |= {"num_blocks": 1, name: 0.0}
    model = make_model(**student_options(), **no_dropout)
    batch = {
        "speech": 0.1 * torch.randn(4, 8000),
        "speech_lengths": torch.full((4,), 8000),
        "text": torch.tensor([[3, 4], [4, 5], [5, 3], [3, 3]]),
        "text_lengths": torch.full((4,), 2),
    }
    torch.save((model, teacher, batch), tmp_path / "all.pth")
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    alone = gradients(student(model, teacher), batch)
    assert zero.keys() == one.keys() == alone.keys()
    assert any("log_alpha" in name for name in alone)
    for name, value in alone.items():
        torch.testing.assert_close(zero[name], one[name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(zero[name], value, rtol=1e-4, atol=1e-5, msg=name)
