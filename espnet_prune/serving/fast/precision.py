"""In which number format an encoder computes its products."""

import functools
import logging
import platform

import torch

from espnet_prune.base.errors import InputError

PRECISIONS = ("fp32", "bf16", "int8")


def data_type(precision: str) -> torch.dtype | None:
    """Of convolutions and attention; None: that of the weights as they are."""
    return torch.bfloat16 if precision == "bf16" else None


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what the hardware would do slowly, or not at all.

    int8 that is hardly faster, but still small, is warned of.

    Raises:
        InputError: unknown, or without the instructions that make it fast.
    """
    if precision not in PRECISIONS:
        raise InputError("precision", f"{precision!r} is none of {PRECISIONS}")
    if precision == "bf16" and not _has_bf16(device):
        raise InputError(
            "precision",
            f"bf16 has no fast products on this {device.type}",
            "use fp32 or int8; a CPU needs AVX-512 BF16, AMX or Arm BF16",
        )
    if precision == "int8" and device.type != "cpu":
        raise InputError(
            "precision", f"int8 is for CPUs, not for {device.type}", "use bf16"
        )
    if precision == "int8" and quantized_engine() is None:
        raise InputError(
            "precision", "this build of torch has no int8 products", "use fp32 or bf16"
        )
    if precision == "int8":
        _warn_of_slow_int8()


@functools.cache  # once
def _warn_of_slow_int8() -> None:
    emulated = platform.machine() == "x86_64" and not torch.cpu._is_vnni_supported()
    if emulated or quantized_engine() == "qnnpack":
        why = "this CPU has no VNNI" if emulated else "torch has only QNNPACK for it"
        logging.warning(f"int8 will hardly be faster than fp32 here: {why}")


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN can arrange weights of that type for its products beforehand."""
    if device.type != "cpu" or not _has_onednn():
        return False
    return dtype is torch.float or (dtype is torch.bfloat16 and _has_bf16(device))


def has_int8_convolutions() -> bool:
    """Whether oneDNN has kernels for them: elsewhere it may do them step by step."""
    return _has_onednn() and platform.machine() == "x86_64"


def int8_levels() -> int:
    """The largest 8-bit input of a product.

    Without VNNI kernels add pairs of products in 16 bits, which 8 bits overflow.
    """
    return 255 if torch.cpu._is_vnni_supported() else 127


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not _has_onednn():
        return False
    # oneDNN says so of every AVX-512, and emulates what the others lack.
    emulated = platform.machine() == "x86_64" and not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and not emulated


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def quantized_engine() -> str | None:
    """The backend of int8 products that serves best here; oneDNN knows AMX."""
    have = torch.backends.quantized.supported_engines
    return next((e for e in ("onednn", "fbgemm", "qnnpack") if e in have), None)
