"""Compiles a model with a pass of one's own: SiLU becomes `x * sigmoid(x)`.

    python examples/05_own_pass.py

The compile stops after the export, the pass rewrites the dumped module, and a second compile goes
on from there. One layer of the model, so that it takes seconds. docs/add-a-pass.md has the rest.
"""

from dataclasses import dataclass
from pathlib import Path

from iree.compiler import ir

import edgec
from edgec.passes import PASSES, Pipeline, parse_module
from edgec.passes.rewriting import walk


@dataclass(frozen=True)
class ExpandSilu:
    """Its options would be fields."""

    def run(self, module: ir.Module) -> None:
        for op in walk(module.operation):
            if op.name == "torch.aten.silu":
                (x,), kind = op.operands, [op.results[0].type]
                with ir.InsertionPoint(op), op.location:
                    gate = ir.Operation.create("torch.aten.sigmoid", kind, [x]).result
                    product = ir.Operation.create("torch.aten.mul.Tensor", kind, [x, gate]).result
                op.results[0].replace_all_uses_with(product)
                op.erase()


DUMP = Path("build/own-pass")
MODEL = {"model": "bundled:tiny-dense", "layers": 1, "ctx_size": 64}
edgec.compile(**MODEL, dump_ir=DUMP, stop_after="torch")

PASSES["expand-silu"] = f"{__name__}:ExpandSilu"
exported = DUMP / "torch.mlir"
with ir.Context():
    module = parse_module(exported.read_text(encoding="utf-8"))
    Pipeline.parse("expand-silu").run(module)
    exported.write_text(str(module), encoding="utf-8")

artifact = edgec.compile(**MODEL, start_from=exported, output=DUMP / "one-layer.edgec", force=True)
print(edgec.Session(artifact).generate("In the", max_new_tokens=12, temperature=0).text)
