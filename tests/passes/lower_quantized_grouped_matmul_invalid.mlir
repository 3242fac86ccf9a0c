// RUN: not edgec-opt %s -p lower-quantized-grouped-matmul 2>&1 | filecheck %s

// Scales of three experts for the matrices of four.
// CHECK: pass lower-quantized-grouped-matmul: quantized_grouped_matmul: weight
func.func @wrong(%x: !torch.vtensor<[2,64],f32>, %w: !torch.vtensor<[4,3,16,16,4],si8>, %s: !torch.vtensor<[3,3,2,16],f16>, %experts: !torch.vtensor<[2],si32>) -> !torch.vtensor<[2,40],f32> {
  %none = torch.constant.none
  %n = torch.constant.int 40
  %y = torch.operator "torch.edgec.quantized_grouped_matmul"(%x, %w, %s, %none, %none, %none, %experts, %n) : (!torch.vtensor<[2,64],f32>, !torch.vtensor<[4,3,16,16,4],si8>, !torch.vtensor<[3,3,2,16],f16>, !torch.none, !torch.none, !torch.none, !torch.vtensor<[2],si32>, !torch.int) -> !torch.vtensor<[2,40],f32>
  return %y : !torch.vtensor<[2,40],f32>
}
