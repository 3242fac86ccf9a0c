// RUN: edgec-opt %s -p cut-double-reads | filecheck %s

#row = affine_map<(c, i, j) -> (c, i)>
#column = affine_map<(c, i, j) -> (c, j)>
#all = affine_map<(c, i, j) -> (c, i, j)>

// s[i] - s[j]: what makes s stands behind a barrier, of its own size.
// CHECK-LABEL: util.func public @differences
util.func public @differences(%x: tensor<?x8xf32>, %w: tensor<8x8xf32>, %init: tensor<?x8xf32>, %out: tensor<?x8x8xf32>) -> tensor<?x8x8xf32> {
  // CHECK: %[[S:.*]] = linalg.matmul
  %s = linalg.matmul ins(%x, %w : tensor<?x8xf32>, tensor<8x8xf32>) outs(%init : tensor<?x8xf32>) -> tensor<?x8xf32>
  // CHECK: %[[SIZE:.*]] = tensor.dim %[[S]], %{{.*}}
  // CHECK: %[[CUT:.*]] = iree_tensor_ext.compute_barrier.start %[[S]] : tensor<?x8xf32>{%[[SIZE]]}
  // CHECK: ins(%[[CUT]], %[[CUT]] :
  %r = linalg.generic {indexing_maps = [#row, #column, #all], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%s, %s : tensor<?x8xf32>, tensor<?x8xf32>) outs(%out : tensor<?x8x8xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %0 = arith.subf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<?x8x8xf32>
  util.return %r : tensor<?x8x8xf32>
}

// -----

#flat = affine_map<(i, j) -> (i, j)>
#left = affine_map<(i, j) -> (i, 0)>
#right = affine_map<(i, j) -> (0, j)>

// The same by way of other operations and of reshapes, as torch's broadcasting comes in.
// CHECK-LABEL: util.func public @reshaped
util.func public @reshaped(%x: tensor<4x8xf32>, %init: tensor<4xf32>, %out: tensor<4x4xf32>, %like: tensor<4x1xf32>) -> tensor<4x4xf32> {
  // CHECK: %[[S:.*]] = linalg.generic
  // CHECK: iree_tensor_ext.compute_barrier.start %[[S]] : tensor<4xf32>
  %s = linalg.generic {indexing_maps = [#flat, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<4x8xf32>) outs(%init : tensor<4xf32>) {
  ^bb0(%a: f32, %b: f32):
    %0 = arith.addf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<4xf32>
  %rows = tensor.expand_shape %s [[0, 1]] output_shape [4, 1] : tensor<4xf32> into tensor<4x1xf32>
  %exp = linalg.generic {indexing_maps = [#flat, #flat], iterator_types = ["parallel", "parallel"]}
      ins(%rows : tensor<4x1xf32>) outs(%like : tensor<4x1xf32>) {
  ^bb0(%a: f32, %b: f32):
    %0 = math.exp %a : f32
    linalg.yield %0 : f32
  } -> tensor<4x1xf32>
  %columns = tensor.expand_shape %s [[0, 1]] output_shape [1, 4] : tensor<4xf32> into tensor<1x4xf32>
  %r = linalg.generic {indexing_maps = [#left, #right, #flat], iterator_types = ["parallel", "parallel"]}
      ins(%exp, %columns : tensor<4x1xf32>, tensor<1x4xf32>) outs(%out : tensor<4x4xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32):
    %0 = arith.subf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<4x4xf32>
  util.return %r : tensor<4x4xf32>
}

// -----

#all = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i, j) -> (i)>

// A softmax reads its scores twice, at the same place, and their maximum at one of its loops.
// CHECK-LABEL: util.func public @softmax
// CHECK-NOT: compute_barrier
util.func public @softmax(%q: tensor<8x4xf32>, %k: tensor<4x8xf32>, %init: tensor<8x8xf32>, %rows: tensor<8xf32>) -> tensor<8x8xf32> {
  %s = linalg.matmul ins(%q, %k : tensor<8x4xf32>, tensor<4x8xf32>) outs(%init : tensor<8x8xf32>) -> tensor<8x8xf32>
  %m = linalg.generic {indexing_maps = [#all, #row], iterator_types = ["parallel", "reduction"]}
      ins(%s : tensor<8x8xf32>) outs(%rows : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %0 = arith.maximumf %a, %b : f32
    linalg.yield %0 : f32
  } -> tensor<8xf32>
  %r = linalg.generic {indexing_maps = [#all, #all, #row, #all], iterator_types = ["parallel", "parallel"]}
      ins(%s, %s, %m : tensor<8x8xf32>, tensor<8x8xf32>, tensor<8xf32>) outs(%init : tensor<8x8xf32>) {
  ^bb0(%a: f32, %b: f32, %c: f32, %d: f32):
    %0 = arith.mulf %a, %b : f32
    %1 = arith.subf %0, %c : f32
    linalg.yield %1 : f32
  } -> tensor<8x8xf32>
  util.return %r : tensor<8x8xf32>
}
