"""The padding benchmark: `edgec bench ablation` under the name of a script.

    python benchmarks/padding.py bundled:tiny-dense --target cpu,vulkan:llvmpipe
    python benchmarks/padding.py preset:qwen3-0.6b --layers 4 --target cpu --report out/

On a machine with a GPU but no compiler: `--compile-only` here, with `--keep DIR`, and
`--measure-only --keep DIR` there (benchmarks/gpu/README.md).
"""

from __future__ import annotations

import sys

from edgec.cli import execute

if __name__ == "__main__":
    sys.exit(execute(["bench", "ablation", *sys.argv[1:]]))
