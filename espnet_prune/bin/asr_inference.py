"""``espnet2.bin.asr_inference`` with the prunable encoder registered (stage 15)."""

from espnet2.bin.asr_inference import main

import espnet_prune  # noqa: F401  (registers the encoder)

if __name__ == "__main__":
    main()
