// RUN: edgec-opt %s -p lower-quantized-embedding | filecheck %s

// A row is gathered from its panel and dequantised as it is read.

// CHECK-LABEL: func.func @embed
func.func @embed(%ids: !torch.vtensor<[1,?],si32>, %w: !torch.vtensor<[3,8,16,4],si8>, %s: !torch.vtensor<[3,2,16],f16>) -> !torch.vtensor<[1,?,64],f32> {
  // CHECK: util.call @edgec.quantized_embedding.1xdxi32.3x8x16x4xi8.3x2x16xf16.64(
  // CHECK-NOT: torch.operator
  %k = torch.constant.int 64
  %y = torch.operator "torch.edgec.quantized_embedding"(%ids, %w, %s, %k) : (!torch.vtensor<[1,?],si32>, !torch.vtensor<[3,8,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.int) -> !torch.vtensor<[1,?,64],f32>
  return %y : !torch.vtensor<[1,?,64],f32>
}

// CHECK: util.func private @edgec.quantized_embedding
// CHECK: tensor.extract %{{.*}} : tensor<3x8x16x4xi8>
// CHECK: arith.shrui
// CHECK: arith.mulf
