"""Two processes, spawned by ESPnet's own main(), train together.

As on a machine with two GPUs, but for the device, gloo in place of NCCL, and what would
make two halves of a batch differ from the whole: dropout is off, BatchNorm is frozen
(its statistics are those of each process's own share), and all utterances are equally
long (some losses are means over a batch's frames).
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException

import espnet_prune.base.quiet  # noqa: F401  (first: spawned processes import this file)

# isort: split
from espnet_prune.export.export import export
from espnet_prune.training.task import PruneASRTask
from espnet_prune.training.trainer import PruneTrainer

UTTERANCES, SAMPLES, UPDATES = 8, 8000, 4
NO_DROPOUT = [
    word
    for part in ("encoder", "decoder")
    for name in ("dropout_rate", "positional_dropout_rate")
    for word in (f"--{part}_conf", f"{name}=0.0")
]


class Watched(PruneTrainer):
    """Leaves what each process saw and ended with; one may be killed on the way."""

    @classmethod
    def run(cls, *args, **kwargs):
        model, (optimizer,) = kwargs["model"], kwargs["optimizers"]
        seen, drawn = [], []
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm1d):
                layer.eval()
                layer.train = lambda mode=True, layer=layer: layer

        def look(module, args, batch):
            if module.training:
                seen.append(len(batch["speech"]))

        def draw(module, args, values):
            if module.training:
                drawn.append(values.detach().clone())

        model.register_forward_pre_hook(look, with_kwargs=True)
        if model.gates is not None:
            model.gates.register_forward_hook(draw)
        super().run(*args, **kwargs)
        out = Path(kwargs["trainer_options"].output_dir)
        rank = kwargs["distributed_option"].dist_rank or 0
        torch.save(model.state_dict(), out / f"rank{rank}.pth")
        updates = {int(state["step"]) for state in optimizer.state.values()}
        torch.save((seen, updates, drawn), out / f"did{rank}.pth")

    @classmethod
    def validate_one_epoch(cls, *args, **kwargs):
        kill = Path(kwargs["options"].output_dir) / "kill"
        second = kwargs["reporter"].get_epoch() == 2
        if second and kill.exists() and kwargs["distributed_option"].dist_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().validate_one_epoch(*args, **kwargs)


class Task(PruneASRTask):
    trainer = Watched

    @classmethod
    def main_worker(cls, args):
        args.ngpu = 0  # main() has spawned one process for each, and here are none
        super().main_worker(args)


@pytest.fixture
def of_one_length(data_dir, tmp_path):
    """``of_one_length(options)``: with utterances of one length, without dropout."""
    data, draw = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    wavs = [data / f"utt{i:02}.wav" for i in range(UTTERANCES)]
    for wav in wavs:
        soundfile.write(wav, 0.1 * draw.standard_normal(SAMPLES), 16000)
    texts = {"wav.scp": map(str, wavs), "text": "AB BC CA AC".split() * 2}
    texts["utt2num_samples"] = [str(SAMPLES)] * UTTERANCES
    for name, values in texts.items():
        lines = zip(wavs, values, strict=True)
        (data / name).write_text("".join(f"{w.stem} {v}\n" for w, v in lines))

    def make(options: list[str]) -> list[str]:
        options = [word.replace(str(data_dir), str(data)) for word in options]
        return [*options, *NO_DROPOUT, "--batch_bins", str(4 * SAMPLES)]

    return make


SPAWNED = ["--ngpu", "2", "--dist_backend", "gloo"]
SPAWNED += ["--multiprocessing_distributed", "true"]


def assert_same_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Both processes ended with the weights that were saved."""
    first, second = (torch.load(folder / f"rank{rank}.pth") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    saved = torch.load(folder / "latest.pth")
    torch.testing.assert_close(first, saved, rtol=0, atol=0)
    return first


@pytest.mark.slow  # ESPnet spawns for real: processes import what they unpickle
def test_spawned_processes_fine_tune_as_one_does(
    finetune_command, compact, of_one_length, tmp_path, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one, two = tmp_path / "one", tmp_path / "two"
    Task.main(cmd=of_one_length(finetune_command(one)))
    Task.main(cmd=[*of_one_length(finetune_command(two)), *SPAWNED])

    whole, *_ = torch.load(one / "did0.pth")
    parts = []
    for rank in range(2):
        seen, updates, _ = torch.load(two / f"did{rank}.pth")
        assert updates == {UPDATES} and all(seen)
        parts.append(seen)
    assert list(map(sum, zip(*parts, strict=True))) == whole  # a share of each batch
    start, found = torch.load(compact / "pruned.pth"), assert_same_weights(two)
    for name, value in torch.load(one / "rank0.pth").items():
        # Nothing depends on the keys' biases, and little on some positions: Adam makes
        # of gradients that are rounding errors steps as long as of others.
        noise = name.endswith(("linear_k.bias", "linear_pos.weight"))
        atol = 5e-4 if noise else 1e-5
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)
        if name.endswith("w_1.weight"):
            assert not torch.allclose(value, start[name], rtol=0, atol=1e-3)


@pytest.mark.slow  # gates and their generators in DDP, after a kill, too
def test_spawned_processes_draw_gates_of_their_own_and_the_same_after_a_kill(
    student_command, of_one_length, dense, tmp_path, monkeypatch
):
    """Gradients are averaged, so weights stay equal; two samples are less noise."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    commands = {
        out: [*of_one_length(student_command(out)), *SPAWNED] for out in (whole, killed)
    }
    Task.main(cmd=commands[whole])
    (killed / "kill").touch()
    with pytest.raises(ProcessExitedException):
        Task.main(cmd=commands[killed])
    assert (killed / "1epoch.pth").exists() and not (killed / "2epoch.pth").exists()
    (killed / "kill").unlink()
    Task.main(cmd=commands[killed])

    drawn = [torch.load(whole / f"did{rank}.pth")[2] for rank in range(2)]
    assert len(drawn[0]) == UPDATES
    seen = {tuple(values.tolist()) for of_one in drawn for values in of_one}
    assert len(seen) == 2 * UPDATES  # none twice, in no process and at no step
    for rank, of_one in enumerate(drawn):
        again = torch.load(killed / f"did{rank}.pth")[2]  # of the second epoch
        torch.testing.assert_close(again, of_one[UPDATES // 2 :], rtol=0, atol=0)
    end = assert_same_weights(whole)
    torch.testing.assert_close(assert_same_weights(killed), end, rtol=0, atol=0)
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    start = torch.load(dense / "model.pth")[name]
    assert not torch.allclose(end[name], start, rtol=0, atol=1e-3)
    summary = export(killed / "config.yaml", killed / "rank1.pth", tmp_path / "compact")
    assert 0.5 <= summary["removed"]["params"] < 0.53


# --- the mathematics: two processes with half a batch each, one with all of it --------


def gradients(model, batch) -> dict[str, torch.Tensor]:
    """As ESPnet's trainer: the loss is weighted by the share of the batch."""
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
    model.gates.eval()  # not drawn: each process would have noise of its own
    for layer in model.modules():  # its statistics are those of a process's own batch
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.eval()
    return model


def work(rank: int, folder: str) -> None:
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


@pytest.mark.slow  # DDP averages what we add to the loss
def test_two_processes_have_the_gradients_of_one_with_the_whole_batch(
    make_model, student_options, tmp_path
):
    torch.manual_seed(0)
    teacher = make_model()
    no_dropout = {"decoder_conf": {"attention_heads": 2, "linear_units": 16}}
    for name in ("dropout_rate", "positional_dropout_rate"):
        no_dropout["decoder_conf"] |= {"num_blocks": 1, name: 0.0}
    options = student_options()
    # Their values are learned, drawn or not.
    options["model_conf"]["gates"] = {"mode": "hard_concrete"}
    model = make_model(**options, **no_dropout)
    with torch.no_grad():
        model.gates.log_alpha *= 0.2  # where they are neither 0 nor 1
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
    assert alone["gates.log_alpha"].any()
    for name, value in alone.items():
        torch.testing.assert_close(zero[name], one[name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(zero[name], value, rtol=1e-4, atol=1e-5, msg=name)
