from __future__ import annotations
from edgec.compiler.targets.target import Target
def target(variant: str) -> Target:
    variant = variant or "llvmpipe"
    flags = ["--iree-hal-target-device=vulkan", f"--iree-vulkan-target={variant}"]
    return Target("vulkan", variant, "vulkan", tuple(flags), {})
