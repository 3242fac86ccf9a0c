// RUN: edgec-opt %s -p lower-argmax{form=rows} | filecheck %s

// 1,024 rows of two, a thread for each, and then the rows.

// CHECK-LABEL: util.func private @edgec.argmax.rows.1x2048xf32
// CHECK: tensor.expand_shape {{.*}} into tensor<1x1024x2xf32>
// CHECK: iree_linalg_ext.arg_compare dimension(2)
// CHECK: iree_linalg_ext.arg_compare dimension(1)
util.func public @greedy(%logits: tensor<1x2048xf32>, %v: tensor<1xf32>, %i: tensor<1xi32>) -> (tensor<1xf32>, tensor<1xi32>) {
  %0:2 = iree_linalg_ext.arg_compare dimension(1) ins(%logits : tensor<1x2048xf32>) outs(%v, %i : tensor<1xf32>, tensor<1xi32>) {
  ^bb0(%a: f32, %b: f32):
    %larger = arith.cmpf ogt, %a, %b : f32
    iree_linalg_ext.yield %larger : i1
  } -> tensor<1xf32>, tensor<1xi32>
  util.return %0#0, %0#1 : tensor<1xf32>, tensor<1xi32>
}
