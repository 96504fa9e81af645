"""Attention in ONNX whose memory grows as the length does, not as its square.

Beyond a block of queries, one block after the other attends. The functions are not run:
onnxscript translates them to the nodes that onnxruntime computes.
"""

import torch
from onnxscript import FLOAT, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

import espnet_prune.families.espnet.graph  # noqa: F401  (its operators)

QUERIES = 256  # of a block
OURS = Opset("espnet_prune", 1)


@script(OURS, default_opset=op)
def in_blocks(q: FLOAT, k: FLOAT, v: FLOAT, scale: float, time: INT64) -> FLOAT:
    """Compute :func:`espnet_prune.families.espnet.graph.attend`."""
    zero = op.Constant(value_ints=[0])
    size = op.Constant(value_ints=[QUERIES])
    axis = op.Constant(value_ints=[2])
    if time <= QUERIES:
        done = op.MatMul(op.Softmax(op.MatMul(q, k) * scale, axis=-1), v)
    else:
        done = op.Slice(v, zero, zero, axis)
        for i in range((time + (QUERIES - 1)) / QUERIES):
            begin = i * size
            scores = op.MatMul(op.Slice(q, begin, begin + size, axis), k)
            context = op.MatMul(op.Softmax(scores * scale, axis=-1), v)
            done = op.Concat(done, context, axis=2)
    return done


@script(OURS, default_opset=op)
def relative_in_blocks(
    content: FLOAT,
    position: FLOAT,
    k: FLOAT,
    p: FLOAT,
    v: FLOAT,
    scale: float,
    time: INT64,
    offsets: INT64,
) -> FLOAT:
    """Compute :func:`espnet_prune.families.espnet.graph.attend_relative`.

    The shift from offsets to keys is one of all rows as they follow each other: with a
    column of zeros before them, the first ``time`` numbers are left out. In a block
    they are fewer by the rows before it; legacy positions look at the row behind it.
    """
    zero = op.Constant(value_ints=[0])
    size = op.Constant(value_ints=[QUERIES])
    axis = op.Constant(value_ints=[2])
    last = op.Constant(value_ints=[3])
    same = op.Constant(value_ints=[0, 0])
    flat = op.Constant(value_ints=[0, 0, -1])
    column = op.Constant(value_ints=[0, 0, 0, 1, 0, 0, 0, 0])
    keys = op.Unsqueeze(time, zero)
    width = op.Unsqueeze(offsets, zero)
    # What all layers share they compute once, if it stands here.
    table = op.Concat(same, keys, width, axis=0)
    end = keys + keys * width
    if time <= QUERIES:  # the same without slices, which short utterances would feel
        x = op.Reshape(op.Pad(op.MatMul(position, p), column), flat)
        x = op.Reshape(op.Slice(x, keys, end, axis), table)
        scores = op.MatMul(content, k) + op.Slice(x, zero, keys, last)
        done = op.MatMul(op.Softmax(scores * scale, axis=-1), v)
    else:
        done = op.Slice(v, zero, zero, axis)
        for i in range((time + (QUERIES - 1)) / QUERIES):
            begin = i * size
            left = keys - begin
            rows = op.Min(left, size)
            x = op.MatMul(op.Slice(position, begin, begin + (size + 1), axis), p)
            x = op.Reshape(op.Pad(x, column), flat)
            x = op.Slice(x, left, left + rows * width, axis)
            x = op.Reshape(x, op.Concat(same, rows, width, axis=0))
            scores = op.MatMul(op.Slice(content, begin, begin + size, axis), k)
            scores = scores + op.Slice(x, zero, keys, last)
            context = op.MatMul(op.Softmax(scores * scale, axis=-1), v)
            done = op.Concat(done, context, axis=2)
    return done


TRANSLATIONS = {
    torch.ops.espnet_prune.attend.default: in_blocks,
    torch.ops.espnet_prune.attend_relative.default: relative_in_blocks,
}
