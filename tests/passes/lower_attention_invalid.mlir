// RUN: not edgec-opt %s -p lower-attention 2>&1 | filecheck %s

// The window is part of the code, not an input.

// CHECK: edgec-opt: error: pass lower-attention: expected a torch.constant.int, got
func.func @window_is_no_constant(%q: !torch.vtensor<[1,4,1,16],f32>, %k: !torch.vtensor<[160,2,16],f32>, %start: !torch.vtensor<[],si64>, %window: !torch.int) {
  %none = torch.constant.none
  %scale = torch.constant.float 2.500000e-01
  %a = torch.operator "torch.edgec.attention"(%q, %k, %k, %start, %none, %scale, %window, %scale) : (!torch.vtensor<[1,4,1,16],f32>, !torch.vtensor<[160,2,16],f32>, !torch.vtensor<[160,2,16],f32>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,1,4,16],f32>
  return
}

// -----

// CHECK: edgec-opt: error: pass lower-attention: attention: heads and capacity must be static, got tensor<?x2x16xf32>
func.func @capacity_is_dynamic(%q: !torch.vtensor<[1,4,1,16],f32>, %k: !torch.vtensor<[?,2,16],f32>, %start: !torch.vtensor<[],si64>) {
  %none = torch.constant.none
  %scale = torch.constant.float 2.500000e-01
  %all = torch.constant.int 0
  %a = torch.operator "torch.edgec.attention"(%q, %k, %k, %start, %none, %scale, %all, %scale) : (!torch.vtensor<[1,4,1,16],f32>, !torch.vtensor<[?,2,16],f32>, !torch.vtensor<[?,2,16],f32>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,1,4,16],f32>
  return
}
