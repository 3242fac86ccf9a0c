// RUN: edgec-opt %s -p bound-reductions{bytes=1024} | filecheck %s

#map = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>

// A sum of two tensors, reduced and then read again: a barrier stands before both.
// CHECK-LABEL: util.func public @norm
util.func public @norm(%x: tensor<?x64xf32>, %y: tensor<?x64xf32>, %empty: tensor<?x64xf32>, %rows: tensor<?xf32>) -> tensor<?x64xf32> {
  // CHECK: %[[SUM:.*]] = linalg.generic
  %sum = linalg.generic {indexing_maps = [#map, #map, #map], iterator_types = ["parallel", "parallel"]}
      ins(%x, %y : tensor<?x64xf32>, tensor<?x64xf32>) outs(%empty : tensor<?x64xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %0 = arith.addf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x64xf32>
  // CHECK: %[[SIZE:.*]] = tensor.dim %[[SUM]], %{{.*}}
  // CHECK: %[[CUT:.*]] = iree_tensor_ext.compute_barrier.start %[[SUM]] : tensor<?x64xf32>{%[[SIZE]]} -> tensor<?x64xf32>
  // CHECK: ins(%[[CUT]] : tensor<?x64xf32>)
  %total = linalg.generic {indexing_maps = [#map, #row], iterator_types = ["parallel", "reduction"]}
      ins(%sum : tensor<?x64xf32>) outs(%rows : tensor<?xf32>) {
  ^bb0(%a: f32, %b: f32):
    %0 = arith.addf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?xf32>
  // CHECK: ins(%[[CUT]], %{{.*}} : tensor<?x64xf32>, tensor<?xf32>)
  %scaled = linalg.generic {indexing_maps = [#map, #row, #map], iterator_types = ["parallel", "parallel"]}
      ins(%sum, %total : tensor<?x64xf32>, tensor<?xf32>) outs(%empty : tensor<?x64xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %0 = arith.divf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x64xf32>
  util.return %scaled : tensor<?x64xf32>
}

// -----

#map = affine_map<(d0, d1) -> (d0, d1)>
#row = affine_map<(d0, d1) -> (d0)>

// Small enough to be kept where it is.
// CHECK-LABEL: util.func public @small
// CHECK-NOT: compute_barrier
util.func public @small(%x: tensor<1x64xf32>, %empty: tensor<1x64xf32>, %rows: tensor<1xf32>) -> (tensor<1x64xf32>, tensor<1xf32>) {
  %sum = linalg.generic {indexing_maps = [#map, #map], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<1x64xf32>) outs(%empty : tensor<1x64xf32>) {
  ^bb0(%a: f32, %c: f32):
    %0 = arith.addf %a, %a : f32
    linalg.yield %0 : f32
  } -> tensor<1x64xf32>
  %total = linalg.generic {indexing_maps = [#map, #row], iterator_types = ["parallel", "reduction"]}
      ins(%sum : tensor<1x64xf32>) outs(%rows : tensor<1xf32>) {
  ^bb0(%a: f32, %b: f32):
    %0 = arith.addf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<1xf32>
  util.return %sum, %total : tensor<1x64xf32>, tensor<1xf32>
}
