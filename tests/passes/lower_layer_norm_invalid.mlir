// RUN: not edgec-opt %s -p lower-layer-norm 2>&1 | filecheck %s

// Epsilon is part of the code, not an input.

// CHECK: edgec-opt: error: pass lower-layer-norm: expected a torch.constant.float, got
func.func @epsilon_is_no_constant(%x: !torch.vtensor<[1,4,48],f32>, %eps: !torch.float) -> !torch.vtensor<[1,4,48],f32> {
  %width = torch.constant.int 48
  %shape = torch.prim.ListConstruct %width : (!torch.int) -> !torch.list<int>
  %none = torch.constant.none
  %cudnn = torch.constant.bool false
  %y = torch.aten.layer_norm %x, %shape, %none, %none, %eps, %cudnn : !torch.vtensor<[1,4,48],f32>, !torch.list<int>, !torch.none, !torch.none, !torch.float, !torch.bool -> !torch.vtensor<[1,4,48],f32>
  return %y : !torch.vtensor<[1,4,48],f32>
}
