"""What the stages leave for a report, without running them."""

import datetime
import json

import torch

from espnet_prune.measuring.scoring import score_set


def transcripts(last):
    """Forty utterances: of fewer than thirty nothing is claimed."""
    return "".join(f"u{i:02d} A B\nv{i:02d} C {last}\n" for i in range(20))


RIGHT, WRONG = transcripts("D"), transcripts("X")


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def checkpoint(path, **values):
    """Three epochs of statistics as ESPnet's reporter keeps them."""
    took = datetime.timedelta(seconds=1)
    stats = {e: {"train": {**values, "time": took}, "valid": values} for e in (1, 2, 3)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"reporter": {"epoch": 3, "stats": stats}}, path)


def scored(folder, ref, hyp, vs=None):
    folder.mkdir(parents=True)
    (folder / "text").write_text(hyp)
    score_set(ref, folder / "text", vs or {})


def measured(exp, scale):
    machine = {
        "cpu": "A CPU", "cores": 2, "instruction_sets": ["avx2"], "threads": 1,
        "torch": "2", "load_average": [0.1, 0.1, 0.1], "warning": None,
    }  # fmt: skip
    parts = {"subsampling": 100 * scale, "blocks": 900 * scale, "encoder": 1000 * scale}
    rtf = {
        column: {"median": 0.01 * scale, "iqr": 0.0}
        for column in ("frontend", "encoder", "ctc_greedy", "search")
    }
    params = {**parts, "decoder": 500, "total": 1000 * scale + 500}
    result = {"params": params, "macs_per_second": parts, "rtf": rtf}
    result["rtf_espnet"] = rtf if exp.name == "dense" else None
    dump(exp / "measure.json", {**result, "bytes": 4000 * scale, "machine": machine})


BLOCK = {"ffn1": 32, "heads": 4, "qk_dim": 8, "v_dim": 8, "conv": 8, "ffn2": 32}
DENSE = {"subsampling": [8, 8], "blocks": [BLOCK, BLOCK]}
# The second block is gone as a whole.
COMPACT = {"subsampling": [8, 8], "blocks": [BLOCK | {"ffn1": 0, "heads": 1}, None]}


PRUNING = {
    "teacher": "t", "method": "l0", "realised": 0.5,
    "expected_before_projection": 0.51, "realised_before_projection": 0.49,
    "target": {"kind": "params", "value": 0.5, "denominator": "encoder"},
    "architecture": COMPACT, "dense_architecture": DENSE,
}  # fmt: skip


def options(exp, *more):
    names = {"dense": "dense", "compact": "compact", "pruned": "pruned", "out": "out"}
    paths = [f"--{option}={exp / name}" for option, name in names.items()]
    return [
        *paths,
        "--corpus=synth",
        "--decode_tag=decode_d",
        "--test_sets=test",
        *more,
    ]
