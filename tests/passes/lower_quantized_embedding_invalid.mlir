// RUN: not edgec-opt %s -p lower-quantized-embedding 2>&1 | filecheck %s

// CHECK: pass lower-quantized-embedding: quantized_embedding:
// CHECK-SAME: does not hold 64 columns
func.func @wrong(%ids: !torch.vtensor<[1,?],si32>, %w: !torch.vtensor<[3,4,16,4],si8>, %s: !torch.vtensor<[3,2,16],f16>) -> !torch.vtensor<[1,?,64],f32> {
  %k = torch.constant.int 64
  %y = torch.operator "torch.edgec.quantized_embedding"(%ids, %w, %s, %k) : (!torch.vtensor<[1,?],si32>, !torch.vtensor<[3,4,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.int) -> !torch.vtensor<[1,?,64],f32>
  return %y : !torch.vtensor<[1,?,64],f32>
}
