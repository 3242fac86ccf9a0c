"""Run by an AArch64 Python: greedy tokens of an artifact for a prompt of ids, as JSON.

The emulator shows the host's /proc/cpuinfo. It executes what a Cortex-A76 does, so that file says.
"""

import json
import sys
from pathlib import Path

from edgec.runtime import Session, cpu

artifact, ids, cpuinfo = sys.argv[1:]
Path(cpuinfo).write_text("Features\t: fp asimd atomics fphp asimdhp lrcpc dcpop asimddp asimdrdm\n")
cpu._CPUINFO = Path(cpuinfo)
session = Session(artifact)
prompt = [int(token) for token in ids.split(",")]
print(
    json.dumps(session.generate(prompt, max_new_tokens=16, temperature=0, ignore_eos=True).tokens)
)
