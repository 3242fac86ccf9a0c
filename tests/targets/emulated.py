"""Run by an AArch64 Python: greedy tokens of an artifact for a prompt of ids, as JSON.

With ids that follow the prompt, the logits before each of them instead, into a file of NumPy's.

The emulator shows the host's /proc/cpuinfo. It executes what the CPUs of the tests do, a Cortex-A76
and an Apple M2, so that file says.
"""

import json
import sys
from pathlib import Path

import numpy as np

from edgec.runtime import Session, cpu

artifact, ids, cpuinfo, *given = sys.argv[1:]
Path(cpuinfo).write_text(
    "Features\t: fp asimd atomics fphp asimdhp lrcpc dcpop asimddp asimdrdm bf16 i8mm\n"
)
cpu._CPUINFO = Path(cpuinfo)
session = Session(artifact)
prompt = [int(token) for token in ids.split(",")]
if given:
    following = [int(token) for token in given[0].split(",")]
    rows = [session.sequence.extend(prompt).logits()]
    rows += [session.sequence.step(token).logits() for token in following[:-1]]
    np.save(given[1], np.stack(rows))
    sys.exit()
print(
    json.dumps(session.generate(prompt, max_new_tokens=16, temperature=0, ignore_eos=True).tokens)
)
