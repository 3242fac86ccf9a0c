// RUN: edgec-opt %s -p lower-cache-update | filecheck %s

// New rows become one contiguous slice of the buffer, in the type that the buffer has.

// CHECK-LABEL: func.func @prefill
func.func @prefill(%cache: !torch.vtensor<[160,2,16],f16>, %new: !torch.vtensor<[?,2,16],f32>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f16> {
  // CHECK: util.call @edgec.cache_update.160x2x16xf16.dx2x16xf32
  // CHECK-NOT: torch.operator
  %straight = torch.constant.bool false
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start, %straight) : (!torch.vtensor<[160,2,16],f16>, !torch.vtensor<[?,2,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[160,2,16],f16>
  return %r : !torch.vtensor<[160,2,16],f16>
}

// CHECK-LABEL: func.func @decode
func.func @decode(%cache: !torch.vtensor<[160,2,16],f32>, %new: !torch.vtensor<[1,2,16],f32>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f32> {
  // CHECK: util.call @edgec.cache_update.160x2x16xf32.1x2x16xf32
  %straight = torch.constant.bool false
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start, %straight) : (!torch.vtensor<[160,2,16],f32>, !torch.vtensor<[1,2,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[160,2,16],f32>
  return %r : !torch.vtensor<[160,2,16],f32>
}

// In a ring of rows the block may go past the last: two slices, the second from row 0 on.

// CHECK-LABEL: func.func @ring
func.func @ring(%cache: !torch.vtensor<[160,2,16],f32>, %new: !torch.vtensor<[?,2,16],f32>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[160,2,16],f32> {
  // CHECK: util.call @edgec.cache_update.160x2x16xf32.dx2x16xf32.ring
  %ring = torch.constant.bool true
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start, %ring) : (!torch.vtensor<[160,2,16],f32>, !torch.vtensor<[?,2,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[160,2,16],f32>
  return %r : !torch.vtensor<[160,2,16],f32>
}

// CHECK: util.func private @edgec.cache_update.160x2x16xf16.dx2x16xf32(
// CHECK: %[[FIRST:.*]] = util.assume.int %{{.*}}<umin = 0, umax = 160> : index
// CHECK: arith.truncf %{{.*}} : f32 to f16
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%[[FIRST]], 0, 0] [%{{.*}}, 2, 16] [1, 1, 1] : tensor<?x2x16xf16> into tensor<160x2x16xf16>
// CHECK: util.func private @edgec.cache_update.160x2x16xf32.1x2x16xf32(
// CHECK-NOT: arith.truncf
// CHECK: tensor.insert_slice %{{.*}} into %{{.*}}[%{{.*}}, 0, 0] [1, 2, 16] [1, 1, 1] : tensor<1x2x16xf32> into tensor<160x2x16xf32>
// CHECK: util.func private @edgec.cache_update.160x2x16xf32.dx2x16xf32.ring(
// CHECK: %[[ROW:.*]] = arith.remui %{{.*}}, %c160 : index
// CHECK: %[[ROOM:.*]] = arith.subi %c160, %[[ROW]] : index
// CHECK: %[[FITTING:.*]] = arith.minui %[[ROOM]], %{{.*}} : index
// CHECK: %[[BEFORE:.*]] = tensor.insert_slice %{{.*}} into %{{.*}}[%[[ROW]], 0, 0] [%[[FITTING]], 2, 16]
// CHECK: tensor.insert_slice %{{.*}} into %[[BEFORE]][0, 0, 0] [%{{.*}}, 2, 16]
