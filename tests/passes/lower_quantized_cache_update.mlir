// RUN: edgec-opt %s -p lower-quantized-cache-update | filecheck %s

// Rows are scaled by their largest magnitude, rounded, and written with their scales.

// CHECK-LABEL: func.func @update
func.func @update(%c: !torch.vtensor<[160,2,16],si8>, %s: !torch.vtensor<[160,2],f32>, %x: !torch.vtensor<[?,2,16],f32>, %start: !torch.vtensor<[],si64>) -> (!torch.vtensor<[160,2,16],si8>, !torch.vtensor<[160,2],f32>) {
  // CHECK: %[[R:.*]]:2 = util.call @edgec.quantized_cache_update.160x2x16xi8.dx2x16xf32(
  %straight = torch.constant.bool false
  %r:2 = torch.operator "torch.edgec.quantized_cache_update"(%c, %s, %x, %start, %straight) : (!torch.vtensor<[160,2,16],si8>, !torch.vtensor<[160,2],f32>, !torch.vtensor<[?,2,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> (!torch.vtensor<[160,2,16],si8>, !torch.vtensor<[160,2],f32>)
  return %r#0, %r#1 : !torch.vtensor<[160,2,16],si8>, !torch.vtensor<[160,2],f32>
}

// CHECK: util.func private @edgec.quantized_cache_update.160x2x16xi8.dx2x16xf32
// CHECK: math.absf
// CHECK: math.roundeven
// CHECK: arith.fptosi %{{.*}} : f32 to i8
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%[[FIRST:.*]], 0, 0] [%{{.*}}, 2, 16] [1, 1, 1] : tensor<?x2x16xi8> into tensor<160x2x16xi8>
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%[[FIRST]], 0] [%{{.*}}, 2] [1, 1] : tensor<?x2xf32> into tensor<160x2xf32>
