// RUN: edgec-opt %s -p verify-dispatches | filecheck %s

// Read twice, at one place.
// CHECK: stream.executable private @same
stream.executable private @same {
  stream.executable.export public @f
  builtin.module {
    func.func @f(%x: tensor<8x4xf32>, %w: tensor<4x8xf32>, %init: tensor<8x8xf32>, %out: tensor<8x8x8xf32>) {
      %s = linalg.matmul ins(%x, %w : tensor<8x4xf32>, tensor<4x8xf32>) outs(%init : tensor<8x8xf32>) -> tensor<8x8xf32>
      %r = linalg.generic {indexing_maps = [affine_map<(c, i, j) -> (c, i)>, affine_map<(c, i, j) -> (c, i)>, affine_map<(c, i, j) -> (c, i, j)>], iterator_types = ["parallel", "parallel", "parallel"]}
          ins(%s, %s : tensor<8x8xf32>, tensor<8x8xf32>) outs(%out : tensor<8x8x8xf32>) {
      ^bb0(%a: f32, %b: f32, %c: f32):
        %0 = arith.subf %a, %b : f32
        linalg.yield %0 : f32
      } -> tensor<8x8x8xf32>
      return
    }
  }
}
