// RUN: edgec-opt %s -p lower-histogram | filecheck %s

// Rows past the true length count for no bin; every bin counts for itself.

// CHECK-LABEL: func.func @load
// CHECK: util.call @edgec.histogram.dx8xi64.bins32(%{{.*}}, %{{.*}})
// CHECK-NOT: torch.operator
func.func @load(%ids: !torch.vtensor<[?,8],si64>, %length: !torch.vtensor<[],si64>) -> !torch.vtensor<[32],si32> {
  %bins = torch.constant.int 32
  %counts = torch.operator "torch.edgec.histogram"(%ids, %length, %bins) : (!torch.vtensor<[?,8],si64>, !torch.vtensor<[],si64>, !torch.int) -> !torch.vtensor<[32],si32>
  return %counts : !torch.vtensor<[32],si32>
}

// CHECK: util.func private @edgec.histogram.dx8xi64.bins32(
// CHECK: arith.cmpi ult
// CHECK: arith.select %{{.*}}, %{{.*}}, %c-1_i32
// CHECK: linalg.generic
// CHECK-SAME: iterator_types = ["parallel", "reduction", "reduction"]
// CHECK-SAME: outs(%{{.*}} : tensor<32xi32>)
