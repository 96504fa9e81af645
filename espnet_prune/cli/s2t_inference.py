"""Run ``espnet2.bin.s2t_inference`` as ``asr_inference`` runs that of ASR."""

from espnet_prune.base.errors import run_main
from espnet_prune.cli.asr_inference import run
from espnet_prune.families.espnet.tasks import S2T


def main() -> None:
    run(S2T)


if __name__ == "__main__":
    run_main(main)
