"""The kinds of encoder beside the Conformer: ESPnet's class, ours, sizes."""

from dataclasses import dataclass
from typing import Any

from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from hypothesis import strategies as st

from espnet_prune.families.espnet.e_branchformer import PrunableEBranchformerEncoder
from espnet_prune.families.espnet.transformer import PrunableTransformerEncoder

FEATURES = 20
SIZES = {"output_size": 16, "attention_heads": 4, "linear_units": 24, "num_blocks": 2}
NO_DROPOUT = dict.fromkeys(
    ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.0
)


@dataclass(frozen=True, eq=False)
class Kind:
    """ESPnet's encoder and ours, tiny sizes, and options of the kind to draw."""

    name: str
    stock: type
    ours: type
    sizes: dict[str, Any]
    drawn: st.SearchStrategy[dict[str, Any]]

    def __str__(self) -> str:
        return self.name


def branch_sizes(half, kernel, merge, ffn, gating):
    conf = {"cgmlp_linear_units": 2 * half, "cgmlp_conv_kernel": 2 * kernel + 1}
    conf |= {"merge_conv_kernel": 2 * merge + 1, "gate_activation": gating}
    return conf | {"use_ffn": ffn > 0, "macaron_ffn": ffn > 1}


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "transformer",
            TransformerEncoder,
            PrunableTransformerEncoder,
            SIZES,
            st.just({}),
        ),
        Kind(
            "e_branchformer",
            EBranchformerEncoder,
            PrunableEBranchformerEncoder,
            SIZES | branch_sizes(20, 2, 1, 2, "identity"),
            st.builds(
                branch_sizes,
                st.integers(1, 20),
                st.integers(0, 4),
                st.integers(0, 2),
                st.integers(0, 2),
                st.sampled_from(["identity", "swish", "relu"]),
            ),
        ),
    )
}


def assert_same(one, other, x, lengths, limit=1e-5):
    (first, hidden), lens, _ = one(x, lengths, return_all_hs=True)
    (second, others), other_lens, _ = other(x, lengths, return_all_hs=True)
    scale = first.abs().max()
    assert (first - second).abs().max() <= limit * scale
    assert lens.equal(other_lens)
    for a, b in zip(hidden, others, strict=True):
        assert (a - b).abs().max() <= limit * max(a.abs().max(), 1)
