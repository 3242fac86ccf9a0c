// RUN: edgec-opt %s -p lower-argmax | filecheck %s

// CHECK-LABEL: util.func public @greedy
// CHECK-NOT: arg_compare
// CHECK: util.call @edgec.argmax.reductions.1x2048xf32
// CHECK-LABEL: util.func private @edgec.argmax.reductions.1x2048xf32
// CHECK: arith.maximumf
// CHECK: arith.cmpf oeq
// CHECK: arith.minsi
util.func public @greedy(%logits: tensor<1x2048xf32>, %v: tensor<1xf32>, %i: tensor<1xi32>) -> (tensor<1xf32>, tensor<1xi32>) {
  %0:2 = iree_linalg_ext.arg_compare dimension(1) ins(%logits : tensor<1x2048xf32>) outs(%v, %i : tensor<1xf32>, tensor<1xi32>) {
  ^bb0(%a: f32, %b: f32):
    %larger = arith.cmpf ogt, %a, %b : f32
    iree_linalg_ext.yield %larger : i1
  } -> tensor<1xf32>, tensor<1xi32>
  util.return %0#0, %0#1 : tensor<1xf32>, tensor<1xi32>
}
