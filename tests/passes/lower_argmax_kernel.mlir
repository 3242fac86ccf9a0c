// RUN: edgec-opt %s -p lower-argmax{kernel=x86_64_avx2} | filecheck %s

// 15 parts of 20 blocks, and then the parts. A short row is searched as a whole; what is no argmax stays.

// CHECK: util.call @edgec.argmax.whole.1x1000xf32
// CHECK: util.call @edgec.argmax.x86_64_avx2.3x151937xf32
// CHECK: iree_linalg_ext.arg_compare
// CHECK: stream.executable private @edgec_argmax
// CHECK: argmax_x86_64_avx2.o
// CHECK: call @edgec_argmax(
// CHECK-LABEL: util.func private @edgec.argmax.x86_64_avx2.3x151937xf32
// CHECK: arith.constant 10240 : index
// CHECK: flow.dispatch @edgec_argmax::@argmax{{.*}} -> (tensor<3x15xf32>, tensor<3x15xi32>)
// CHECK: arith.cmpf ogt
util.func public @short(%logits: tensor<1x1000xf32>, %v: tensor<1xf32>, %i: tensor<1xi32>) -> (tensor<1xf32>, tensor<1xi32>) {
  %0:2 = iree_linalg_ext.arg_compare dimension(1) ins(%logits : tensor<1x1000xf32>) outs(%v, %i : tensor<1xf32>, tensor<1xi32>) {
  ^bb0(%a: f32, %b: f32):
    %larger = arith.cmpf ogt, %a, %b : f32
    iree_linalg_ext.yield %larger : i1
  } -> tensor<1xf32>, tensor<1xi32>
  util.return %0#0, %0#1 : tensor<1xf32>, tensor<1xi32>
}
util.func public @greedy(%logits: tensor<3x151937xf32>, %v: tensor<3xf32>, %i: tensor<3xi32>) -> (tensor<3xf32>, tensor<3xi32>) {
  %0:2 = iree_linalg_ext.arg_compare dimension(1) ins(%logits : tensor<3x151937xf32>) outs(%v, %i : tensor<3xf32>, tensor<3xi32>) {
  ^bb0(%a: f32, %b: f32):
    %larger = arith.cmpf ogt, %a, %b : f32
    iree_linalg_ext.yield %larger : i1
  } -> tensor<3xf32>, tensor<3xi32>
  util.return %0#0, %0#1 : tensor<3xf32>, tensor<3xi32>
}
util.func public @smallest(%x: tensor<1x151936xf32>, %v: tensor<1xf32>, %i: tensor<1xi32>) -> (tensor<1xf32>, tensor<1xi32>) {
  %0:2 = iree_linalg_ext.arg_compare dimension(1) ins(%x : tensor<1x151936xf32>) outs(%v, %i : tensor<1xf32>, tensor<1xi32>) {
  ^bb0(%a: f32, %b: f32):
    %smaller = arith.cmpf olt, %a, %b : f32
    iree_linalg_ext.yield %smaller : i1
  } -> tensor<1xf32>, tensor<1xi32>
  util.return %0#0, %0#1 : tensor<1xf32>, tensor<1xi32>
}
