// RUN: not edgec-opt %s -p lower-linear-scan 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-linear-scan: linear_scan: tensor<?x48xf32> from state tensor<40xf32>
func.func @other_channels(%a: !torch.vtensor<[?,48],f32>, %b: !torch.vtensor<[?,48],f32>, %s: !torch.vtensor<[40],f32>) {
  %r:2 = torch.operator "torch.edgec.linear_scan"(%a, %b, %s) : (!torch.vtensor<[?,48],f32>, !torch.vtensor<[?,48],f32>, !torch.vtensor<[40],f32>) -> (!torch.vtensor<[?,48],f32>, !torch.vtensor<[40],f32>)
  return
}
