"""What the processor can do: the instructions that compiled loops may be written for, and its products."""

from __future__ import annotations

import llvmlite.binding as llvm
from numba.core import config


def features() -> dict[str, bool]:
    """What this processor can do, by LLVM's names; nothing where numba was told to compile for another one."""
    told = (getattr(config, name) for name in ("CPU_NAME", "CPU_FEATURES", "DISABLE_JIT"))
    if any(told):
        return {}
    return dict(llvm.get_host_cpu_features())


def native_bfloat16(device: str) -> bool:
    """Whether products in bfloat16 are faster on this device than in float32."""
    import torch  # what only wants to know instructions need not wait for it

    kind = torch.device(device).type
    return kind != "cpu" or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
