"""A loaded model whose ESPnet encoder becomes ours, with the same weights."""

import argparse
import logging

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_prune.families.espnet.conformer import PrunableConformerEncoder
from espnet_prune.families.espnet.e_branchformer import PrunableEBranchformerEncoder
from espnet_prune.families.espnet.transformer import PrunableTransformerEncoder

OURS = {
    ConformerEncoder: PrunableConformerEncoder,
    TransformerEncoder: PrunableTransformerEncoder,
    EBranchformerEncoder: PrunableEBranchformerEncoder,
}


def with_prunable_encoder(
    model: ESPnetASRModel, args: argparse.Namespace
) -> ESPnetASRModel:
    """The model with an encoder of the same function, that compact ones are made of.

    (A Conformer is faster at inference, too.) A model with another encoder than a
    supported one is left as it is.

    Args:
        model, args: as ``ASRTask.build_model_from_file`` returns them.

    Returns:
        the model that was given.
    """
    stock = model.encoder
    if type(stock) not in OURS:
        return model
    features = args.input_size or model.frontend.output_size()
    try:
        encoder = OURS[type(stock)](features, **args.encoder_conf)
    except ValueError as e:
        logging.info(f"ESPnet's own encoder is kept: {e}")
        return model
    encoder.load_state_dict(stock.state_dict(), strict=True)
    model.encoder = encoder.to(next(stock.parameters())).train(stock.training)
    return model
