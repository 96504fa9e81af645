"""What a user would otherwise do: other ways to the same budget.

Stage 12 takes them as ``--method``; everything after it is the same for all, so they
are compared with the same budget, the same data and the same fine-tuning.

| method | what it does |
|---|---|
| ``l0`` | the project's own: L0 gates with distillation |
| ``l0_alone`` | the same without distillation, in pruning and fine-tuning |
| ``magnitude`` | one-shot: in every layer, the units of the smallest weights go |
| ``iterative`` | the same bit by bit, training with distillation in between |
| ``random`` | units at random go |
| ``blocks`` | whole Conformer blocks go, evenly spaced (LayerDrop, arXiv 1909.11556) |
| ``small`` | a small dense Conformer of the same cost, trained from scratch |
| ``small_distilled`` | the same, distilled from the teacher while it is trained |
"""

ONE_SHOT = ("magnitude", "random", "blocks")
SCRATCH = ("small", "small_distilled")
UNTAUGHT = ("l0_alone", "small")  # without distillation
METHODS = ("l0", "l0_alone", "iterative", *ONE_SHOT, *SCRATCH)
