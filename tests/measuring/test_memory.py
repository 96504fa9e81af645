"""Peaks of memory; what was freed is kept when asked, and not faulted in again."""

import argparse
import json

import pytest

from espnet_prune.measuring.allocator import keep_freed_memory
from espnet_prune.measuring.memory import attention_bytes, refuse_too_long

# In a process of its own, whose heap has no large holes.
PROGRAM = """
import json, resource, torch
from espnet_prune.measuring.allocator import keep_freed_memory

def faults(megabytes):
    counts = []
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(megabytes * 2**18)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sorted(counts)[10]

keep_freed_memory(False)
usual = faults(16), faults(100)
keep_freed_memory()
print(json.dumps([*usual, faults(100)]))
"""


def test_freed_memory_is_kept_and_otherwise_handled_as_usual(python):
    if not keep_freed_memory(False):
        pytest.skip("malloc is not glibc's")
    tensor, large, kept = json.loads(python("-c", PROGRAM).stdout)
    # A training's own tensors are kept in any process, or it would crawl.
    assert tensor < 100
    assert large > 10000 and kept < 100


# In a process of its own, too: the holes in the heap that other tests leave serve calls
# in part, and the mark then sees more or less than the calls had in use.
PEAKS = """
import gc, json, torch
from espnet_prune.measuring.memory import peak_bytes

CPU = torch.device("cpu")

def run():
    for _ in range(3):  # one after the other: not added up
        torch.ones(20_000_000)

def nothing():
    pass

def garbage():
    cycle = [torch.ones(20_000_000)]
    cycle.append(cycle)

def collect_and_run():
    gc.collect()
    run()

kept = []
peaks = {"run": peak_bytes(run, CPU), "nothing": peak_bytes(nothing, CPU)}
peaks["nothing after run"] = peak_bytes(nothing, CPU, first=run)
keep = lambda: kept.append(torch.ones(10_000_000))
peaks["run beside kept"] = peak_bytes(run, CPU, first=keep)
garbage()
peaks["run after garbage"] = peak_bytes(collect_and_run, CPU)
print(json.dumps(peaks))
"""


def test_peak_memory_is_what_a_call_had_in_use(python):
    peaks = json.loads(python("-c", PEAKS).stdout)
    if peaks["run"] is None:
        pytest.skip("this system has no high-water mark")
    assert 75e6 < peaks["run"] < 120e6
    assert peaks["nothing"] < 5e6
    assert peaks["nothing after run"] < 5e6
    assert 115e6 < peaks["run beside kept"] < 140e6
    # What garbage collection frees meanwhile does not hide the peak.
    assert 75e6 < peaks["run after garbage"] < 120e6


ATTENTION = """
import argparse, itertools, json
import torch
from espnet_prune.families.espnet.encoders import ENCODERS
from espnet_prune.measuring.memory import attention_bytes, peak_bytes

SIZES = {"output_size": 16, "attention_heads": 4, "linear_units": 8, "num_blocks": 2}
MORE = {"macaron_style": True, "rel_pos_type": "latest", "cnn_module_kernel": 5}

@torch.no_grad()
def taken(kind, heads):
    conformer = kind == "conformer"
    conf = SIZES | (MORE if conformer else {})
    if heads:  # else as ESPnet has it
        block = {"heads": heads, "qk_dim": 3, "v_dim": 3, "ffn2": 8}
        block |= {"ffn1": 8, "conv": 8} if conformer else {}
        conf["architecture"] = {"subsampling": [8, 8], "blocks": [block, None]}
    name = f"prunable_{kind}"
    encoder = ENCODERS[name](20, **conf).eval()
    model = argparse.Namespace(encoder=name, encoder_conf=conf, frontend="default")
    model.frontend_conf = {"fs": "16k", "hop_length": 160}
    x = torch.randn(1, 6000, 20), torch.tensor([6000])
    peak = peak_bytes(lambda: encoder(*x), torch.device("cpu"))
    return peak / attention_bytes(model, 60.0)

cases = itertools.product(("conformer", "transformer"), (0, 3))
print(json.dumps({str(case): taken(*case) for case in cases}))
"""


def test_attention_takes_about_the_memory_that_is_foreseen(python):
    done = python("-c", ATTENTION)
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])  # ESPnet speaks, too
    assert len(ratios) == 4 and all(0.7 < x < 1.3 for x in ratios.values()), ratios


@pytest.mark.parametrize(
    "encoder, conf, frontend",
    [
        ("contextual_block_conformer", {}, "default"),  # it attends within blocks
        ("rnn", {}, "default"),
        ("conformer", {"input_layer": "linear"}, "default"),
        ("conformer", {"use_sdpa": True}, "default"),
        ("conformer", {}, "s3prl"),
    ],
)
def test_of_what_is_not_known_nothing_is_refused(encoder, conf, frontend):
    model = argparse.Namespace(encoder=encoder, encoder_conf=conf, frontend=frontend)
    model.frontend_conf = None
    assert attention_bytes(model, 1e6) == 0
    refuse_too_long("set", {"a": 1e6}, model)


def test_limit_of_the_shell_counts(python):
    code = "import resource; from espnet_prune.measuring.memory import available_bytes;"
    code += "resource.setrlimit(resource.RLIMIT_AS, (3 << 31,) * 2);"
    code += "print(available_bytes())"
    assert 0 < int(python("-c", code).stdout) <= 3 << 31
