"""Quantize an ONNX file: matrix products with weights, and convolutions.

Weights have seven bits, since sums of two products with eight overflow on CPUs without
VNNI, and the file may be run anywhere. Inputs are quantized as they come, each tensor
with a scale of its own: no calibration is needed.
"""

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from espnet_prune.serving.onnx import quiet

LEVELS = 64  # of a weight, to each side, as onnxruntime's quantizer has them
NARROW = 8  # channels: with fewer a convolution is not worth quantizing
LAST = np.iinfo(np.int64).max


def write_int8(source: Path, path: Path, keep: tuple[str, ...] = ()) -> None:
    """Quantize an ONNX file.

    Args:
        source: what :func:`espnet_prune.serving.onnx.write_onnx` wrote.
        path: the file.
        keep: products with weights of these submodules stay in fp32.

    Raises:
        RuntimeError: no product has weights of one of ``keep``.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    kept = []
    for part in keep:
        own = [
            node.name
            for node in model.graph.node
            if any(name.startswith(f"{part}.") for name in node.input)
        ]
        if not own:
            raise RuntimeError(f"{source}: no product has weights of {part}")
        kept += own
    kept += quantize_convolutions(model)
    # It recommends a pre-processing that changes nothing here.
    with quiet():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=kept,
        )


def quantize_convolutions(model: onnx.ModelProto) -> list[str]:
    """Make products in int8 of convolutions, in place.

    The channels come last; the windows of the quantized input stand beside each other,
    and meet the filters in one product. onnxruntime's own convolutions are slower in
    int8 (``ConvInteger``), or want calibration (``QLinearConv``); it takes out the
    transpositions between two of these. A two-dimensional convolution of one channel
    becomes a product in fp32, for what follows to have its channels last.

    Args:
        model: its convolutions with groups, padding or dilation stay as they are.

    Returns:
        names of products that stay in fp32.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found, kept = [], []
    for number, node in enumerate(model.graph.node):
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or not _is_plain(node):
            found.append(node)
            continue
        filters = numpy_helper.to_array(weight)
        _, channels, *kernel = filters.shape
        if channels < NARROW and (channels > 1 or len(kernel) < 2):
            found.append(node)
            continue
        product = _Product(f"{node.name or 'conv'}_{number}", node, filters)
        found += product.in_int8() if channels >= NARROW else product.in_fp32()
        model.graph.initializer.extend(product.constants)
        kept += [n.name for n in product.nodes if n.op_type == "MatMul"]
    del model.graph.node[:]
    model.graph.node.extend(found)
    if not any(known.domain == "com.microsoft" for known in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return kept


def _is_plain(conv: onnx.NodeProto) -> bool:
    plain = {"group": {1}, "pads": {0}, "dilations": {1}}
    for attribute in conv.attribute:
        value = helper.get_attribute_value(attribute)
        values = {*value} if isinstance(value, list) else {value}
        if not values <= plain.get(attribute.name, values):
            return False
        if attribute.name == "auto_pad" and value != b"NOTSET":
            return False
    return True


class _Product:
    """The product that a convolution becomes.

    Args:
        name: with which the names of nodes and constants begin.
        conv: the convolution.
        filters: (output, input, tap, ...).
    """

    def __init__(self, name: str, conv: onnx.NodeProto, filters: np.ndarray):
        self.name, self.conv, self.filters = name, conv, filters
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def in_int8(self) -> list[onnx.NodeProto]:
        """Return the nodes of a product with seven-bit weights."""
        filters = self._as_matrix()
        scale = np.maximum(np.abs(filters).max(0), 1e-12) / LEVELS
        quantized, step, zero = self._add(
            "DynamicQuantizeLinear", self._channels_last(), outputs=3
        )
        inputs = [
            self._windows(quantized),
            self._constant((filters / scale).round().astype(np.int8)),
            step,
            self._constant(scale.astype(np.float32)),
            zero,
            self._constant(np.zeros(len(scale), np.int8)),
            *self.conv.input[2:],
        ]
        found = self._add("MatMulIntegerToFloat", *inputs, domain="com.microsoft")
        return self._channels_first(found)

    def in_fp32(self) -> list[onnx.NodeProto]:
        """Return the nodes of a product with the weights as they are."""
        windows = self._windows(self._channels_last())
        found = self._add("MatMul", windows, self._constant(self._as_matrix()))
        for bias in self.conv.input[2:]:
            found = self._add("Add", found, bias)
        return self._channels_first(found)

    def _as_matrix(self) -> np.ndarray:
        """Arrange the filters as (tap x input, output)."""
        axes = *range(2, self.filters.ndim), 1, 0
        return self.filters.transpose(axes).reshape(-1, len(self.filters))

    def _windows(self, x: str) -> str:
        """Put the taps of each window beside each other: (..., tap x channel)."""
        kernel = self.filters.shape[2:]
        (strides,) = (
            helper.get_attribute_value(a)
            for a in self.conv.attribute
            if a.name == "strides"
        ) or ([1] * len(kernel),)
        axes = self._constant(np.arange(1, 1 + len(kernel)))
        steps = self._constant(np.array(strides))
        taps = []
        for tap in itertools.product(*map(range, kernel)):
            ends = [i - k + 1 or LAST for i, k in zip(tap, kernel, strict=True)]
            begin, end = self._constant(np.array(tap)), self._constant(np.array(ends))
            taps.append(self._add("Slice", x, begin, end, axes, steps))
        return self._add("Concat", *taps, axis=-1)

    def _channels_last(self) -> str:
        rank = self.filters.ndim
        return self._add("Transpose", self.conv.input[0], perm=[0, *range(2, rank), 1])

    def _channels_first(self, x: str) -> list[onnx.NodeProto]:
        """Give the result the place of the convolution's."""
        rank = self.filters.ndim
        self._add("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)])
        self.nodes[-1].output[0] = self.conv.output[0]
        return self.nodes

    def _add(self, op: str, *inputs: str, outputs: int = 1, **options):
        """Add a node, and return the names of its outputs."""
        name = f"{self.name}.{len(self.nodes)}"
        names = [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **options))
        return names if outputs > 1 else names[0]

    def _constant(self, value: np.ndarray) -> str:
        """Add a constant, and return its name."""
        name = f"{self.name}.constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name
