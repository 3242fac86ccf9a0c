// RUN: edgec-opt %s -p lower-cache-update | filecheck %s

// New rows become one contiguous slice of the buffer, in the type that the buffer has.

// CHECK-LABEL: func.func @prefill
func.func @prefill(%cache: !torch.vtensor<[160,2,16],f16>, %new: !torch.vtensor<[?,2,16],f32>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f16> {
  // CHECK: util.call @edgec.cache_update.160x2x16xf16.dx2x16xf32
  // CHECK-NOT: torch.operator
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start) : (!torch.vtensor<[160,2,16],f16>, !torch.vtensor<[?,2,16],f32>, !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f16>
  return %r : !torch.vtensor<[160,2,16],f16>
}

// CHECK-LABEL: func.func @decode
func.func @decode(%cache: !torch.vtensor<[160,2,16],f32>, %new: !torch.vtensor<[1,2,16],f32>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f32> {
  // CHECK: util.call @edgec.cache_update.160x2x16xf32.1x2x16xf32
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start) : (!torch.vtensor<[160,2,16],f32>, !torch.vtensor<[1,2,16],f32>, !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f32>
  return %r : !torch.vtensor<[160,2,16],f32>
}

// CHECK: util.func private @edgec.cache_update.160x2x16xf16.dx2x16xf32(
// CHECK: %[[FIRST:.*]] = util.assume.int %{{.*}}<umin = 0, umax = 160> : index
// CHECK: arith.truncf %{{.*}} : f32 to f16
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%[[FIRST]], 0, 0] [%{{.*}}, 2, 16] [1, 1, 1] : tensor<?x2x16xf16> into tensor<160x2x16xf16>
// CHECK: util.func private @edgec.cache_update.160x2x16xf32.1x2x16xf32(
// CHECK-NOT: arith.truncf
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%{{.*}}, 0, 0] [1, 2, 16] [1, 1, 1] : tensor<1x2x16xf32> into tensor<160x2x16xf32>
