"""The processor as Linux describes it in /proc/cpuinfo; this module does not import torch."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def read_cpuinfo() -> dict[str, str]:
    """Read the first processor's fields, such as `model name`; empty on other systems."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware, and faster than fp32.

    AMX does, and so does AVX-512's dot product on AMD. On a fifth-generation Intel Xeon without
    AMX, ResNet-18 trained 0.69 times as fast with that product as in fp32 (docs/log.md).
    """
    cpuinfo = read_cpuinfo()
    flags = set(cpuinfo.get("flags", "").split())
    is_amd = cpuinfo.get("vendor_id") == "AuthenticAMD"
    return "amx_bf16" in flags or (is_amd and "avx512_bf16" in flags)
