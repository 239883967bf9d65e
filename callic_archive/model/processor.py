"""What instructions compiled loops may be written for."""

from __future__ import annotations

import llvmlite.binding as llvm
from numba.core import config


def features() -> dict[str, bool]:
    """What this processor can do, by LLVM's names; nothing where numba was told to compile for another one."""
    told = (getattr(config, name) for name in ("CPU_NAME", "CPU_FEATURES", "DISABLE_JIT"))
    if any(told):
        return {}
    return dict(llvm.get_host_cpu_features())
