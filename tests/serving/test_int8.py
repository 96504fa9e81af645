"""Convolutions as products in int8: what they compute, and what stays in fp32."""

import onnx
import pytest
import torch
from torch import nn

from espnet_prune.serving.int8 import quantize_convolutions, write_int8
from espnet_prune.serving.onnx import Runner, write_onnx


class Stack(nn.Module):
    """Convolutions of (batch, time, channel), as an encoder has them."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.flat = isinstance(layers[0], nn.Conv1d)

    def forward(self, x):
        x = self.layers(x.transpose(1, 2) if self.flat else x[:, None])
        return x.transpose(1, 2) if self.flat else x.transpose(1, 2).flatten(2)


CASES = {
    "subsampling": (
        lambda: (nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 12, 3, 2)),
        30,
        {"Conv": 0, "MatMulIntegerToFloat": 1, "MatMul": 1},
    ),
    "waves": (
        lambda: (nn.Conv1d(9, 10, 3, 2), nn.GELU(), nn.Conv1d(10, 9, 2, bias=False)),
        9,
        {"Conv": 0, "MatMulIntegerToFloat": 2},
    ),
    "uneven": (
        lambda: (nn.Conv2d(1, 8, (5, 3), (3, 1)), nn.Conv2d(8, 9, (1, 4), (1, 2))),
        20,
        {"Conv": 0, "MatMulIntegerToFloat": 1, "MatMul": 1},
    ),
    "others": (
        lambda: (
            nn.Conv1d(12, 12, 3, groups=4),
            nn.Conv1d(12, 8, 3, padding=1),
            nn.Conv1d(8, 8, 3, dilation=2),
            nn.Conv1d(8, 4, 3),
            nn.Conv1d(4, 8, 3),
        ),
        12,
        {"Conv": 4, "MatMulIntegerToFloat": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_convolutions_compute_the_same_at_any_length(case, tmp_path):
    make, features, counts = CASES[case]
    torch.manual_seed(0)
    module = Stack(*make()).eval()
    dense, small = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    write_onnx(
        module, torch.randn(2, 50, features), dense, ("x", "time"), ["y"], shortest=24
    )
    write_int8(dense, small)
    nodes = [node.op_type for node in onnx.load(small).graph.node]
    assert {op: nodes.count(op) for op in counts} == counts
    run, exact = Runner(small), Runner(dense)
    for shape in ((1, 24), (1, 33), (3, 50), (2, 211)):
        x = torch.randn(*shape, features)
        wanted = torch.from_numpy(exact(x)[0])
        (found,) = run(x)
        assert found.shape == wanted.shape
        error = (torch.from_numpy(found) - wanted).square().mean().sqrt()
        assert 0 < error < 0.02 * wanted.square().mean().sqrt()


def test_filters_that_eight_bits_hold_are_exact(tmp_path):
    module = Stack(nn.Conv1d(8, 8, 3, 2, bias=False))
    with torch.no_grad():
        module.layers[0].weight.zero_()
        module.layers[0].weight[:, :, 1] = torch.eye(8)
    dense, small = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    write_onnx(module, torch.randn(2, 50, 8), dense, ("x", "time"), ["y"], shortest=3)
    write_int8(dense, small)
    x = torch.randint(-128, 128, (1, 41, 8)).float()
    x[0, 0, 0], x[0, 1, 0] = -128, 127  # so that the step is 1
    assert Runner(small)(x)[0] == pytest.approx(x[:, 1:-1:2].numpy(), abs=1e-4)


def test_a_file_without_convolutions_stays_as_it_is():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        plain (float[n, 8] x) => (float[n, 8] y) <float[8, 8] w = {}>
        { y = MatMul(x, w) }""".replace("{}", f"{{{', '.join('1' * 64)}}}")
    )
    before = [node.op_type for node in model.graph.node]
    assert quantize_convolutions(model) == []
    assert [node.op_type for node in model.graph.node] == before
