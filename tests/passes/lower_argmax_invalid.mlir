// RUN: not edgec-opt %s -p lower-argmax 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-argmax: an arg_compare that is no argmax of f32 logits: tensor<1x2048xf32>
util.func public @greedy(%logits: tensor<1x2048xf32>, %v: tensor<1xf32>, %i: tensor<1xi32>) -> (tensor<1xf32>, tensor<1xi32>) {
  %0:2 = iree_linalg_ext.arg_compare dimension(1) ins(%logits : tensor<1x2048xf32>) outs(%v, %i : tensor<1xf32>, tensor<1xi32>) {
  ^bb0(%a: f32, %b: f32):
    %larger = arith.cmpf olt, %a, %b : f32
    iree_linalg_ext.yield %larger : i1
  } -> tensor<1xf32>, tensor<1xi32>
  util.return %0#0, %0#1 : tensor<1xf32>, tensor<1xi32>
}
