"""Run ``espnet2.bin.asr_inference_streaming`` as ``asr_inference`` runs that of ASR.

ESPnet's recipes call it where they are given ``--use_streaming true``.
"""

from espnet_prune.base.errors import run_main
from espnet_prune.cli.asr_inference import run
from espnet_prune.families.espnet.tasks import ASR


def main() -> None:
    run(ASR, streaming=True)


if __name__ == "__main__":
    run_main(main)
