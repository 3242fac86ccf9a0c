// RUN: not edgec-opt %s -p verify-lowered 2>&1 | filecheck %s

// Each operator is named once, wherever it stands.

// CHECK: edgec-opt: error: pass verify-lowered: no lowering for torch.edgec.topk, torch.other.op
func.func @left(%x: !torch.vtensor<[4],f32>) -> !torch.vtensor<[4],f32> {
  %a = torch.operator "torch.other.op"(%x) : (!torch.vtensor<[4],f32>) -> !torch.vtensor<[4],f32>
  %b = torch.operator "torch.edgec.topk"(%a) : (!torch.vtensor<[4],f32>) -> !torch.vtensor<[4],f32>
  %c = torch.operator "torch.edgec.topk"(%b) : (!torch.vtensor<[4],f32>) -> !torch.vtensor<[4],f32>
  return %c : !torch.vtensor<[4],f32>
}
