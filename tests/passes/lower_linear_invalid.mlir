// RUN: not edgec-opt %s -p lower-linear 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-linear: expected a !torch.vtensor with known rank, got !torch.vtensor<*,f32>
func.func @rank_unknown(%x: !torch.vtensor<*,f32>, %w: !torch.vtensor<[16,64],f32>) {
  %none = torch.constant.none
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<*,f32>, !torch.vtensor<[16,64],f32>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  return
}

// -----

// CHECK: edgec-opt: error: pass lower-linear: linear: the widths of tensor<1x4x32xf32> and tensor<16x64xf32> differ
func.func @widths_differ(%x: !torch.vtensor<[1,4,32],f32>, %w: !torch.vtensor<[16,64],f32>) {
  %none = torch.constant.none
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,4,32],f32>, !torch.vtensor<[16,64],f32>, !torch.none) -> !torch.vtensor<[1,4,16],f32>
  return
}
