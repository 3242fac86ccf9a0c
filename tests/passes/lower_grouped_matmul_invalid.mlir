// RUN: not edgec-opt %s -p lower-grouped-matmul 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-grouped-matmul: edgec::grouped_matmul: weights tensor<4x?x64xf32>
func.func @unknown_width(%x: !torch.vtensor<[?,64],f32>, %w: !torch.vtensor<[4,?,64],f32>, %offsets: !torch.vtensor<[5],si32>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %y = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %none, %offsets, %none, %false) : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,?,64],f32>, !torch.none, !torch.vtensor<[5],si32>, !torch.none, !torch.bool) -> !torch.vtensor<[?,128],f32>
  return
}

// -----

// CHECK: edgec-opt: error: pass lower-grouped-matmul: edgec::grouped_matmul: rows tensor<?x32xf32> by weights tensor<4x128x64xf32>
func.func @widths_differ(%x: !torch.vtensor<[?,32],f32>, %w: !torch.vtensor<[4,128,64],f32>, %offsets: !torch.vtensor<[5],si32>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %y = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %none, %offsets, %none, %false) : (!torch.vtensor<[?,32],f32>, !torch.vtensor<[4,128,64],f32>, !torch.none, !torch.vtensor<[5],si32>, !torch.none, !torch.bool) -> !torch.vtensor<[?,128],f32>
  return
}
