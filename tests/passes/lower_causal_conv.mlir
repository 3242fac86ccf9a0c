// RUN: edgec-opt %s -p lower-causal-conv | filecheck %s

// One token is written into a row of the ring, and every row is then read from the ring. A block
// is put after the last rows before it, and the last true ones are kept.

// CHECK-LABEL: func.func @decode
func.func @decode(%x: !torch.vtensor<[1,64],f32>, %state: !torch.vtensor<[3,64],f32>, %weight: !torch.vtensor<[64,3],f32>, %start: !torch.vtensor<[],si64>) -> (!torch.vtensor<[1,64],f32>, !torch.vtensor<[3,64],f32>) {
  %none = torch.constant.none
  // CHECK: util.call @edgec.causal_conv.1x64xf32.3x64xf32.64x3xf32.full
  // CHECK-NOT: torch.operator
  %r:2 = torch.operator "torch.edgec.causal_conv"(%x, %state, %weight, %none, %start, %none) : (!torch.vtensor<[1,64],f32>, !torch.vtensor<[3,64],f32>, !torch.vtensor<[64,3],f32>, !torch.none, !torch.vtensor<[],si64>, !torch.none) -> (!torch.vtensor<[1,64],f32>, !torch.vtensor<[3,64],f32>)
  return %r#0, %r#1 : !torch.vtensor<[1,64],f32>, !torch.vtensor<[3,64],f32>
}

// CHECK-LABEL: func.func @prefill
func.func @prefill(%x: !torch.vtensor<[?,64],f32>, %state: !torch.vtensor<[4,64],f32>, %weight: !torch.vtensor<[64,4],f32>, %bias: !torch.vtensor<[64],f32>, %start: !torch.vtensor<[],si64>, %length: !torch.vtensor<[],si64>) -> (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,64],f32>) {
  // CHECK: util.call @edgec.causal_conv.dx64xf32.4x64xf32.64x4xf32.biased
  %r:2 = torch.operator "torch.edgec.causal_conv"(%x, %state, %weight, %bias, %start, %length) : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,4],f32>, !torch.vtensor<[64],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[],si64>) -> (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,64],f32>)
  return %r#0, %r#1 : !torch.vtensor<[?,64],f32>, !torch.vtensor<[4,64],f32>
}

// CHECK: util.func private @edgec.causal_conv.1x64xf32.3x64xf32.64x3xf32.full(
// CHECK: %[[ROW:.*]] = arith.remui
// CHECK: %[[NEW:.*]] = tensor.insert_slice %{{.*}} into %{{.*}}[%[[ROW]], 0] [1, 64] [1, 1] : tensor<1x64xf32> into tensor<3x64xf32>
// CHECK-COUNT-3: tensor.extract_slice %[[NEW]]
// CHECK: util.return %{{.*}}, %[[NEW]]
// CHECK: util.func private @edgec.causal_conv.dx64xf32.4x64xf32.64x4xf32.biased(
// CHECK: tensor.concat dim(0) %{{.*}}, %{{.*}} : (tensor<3x64xf32>, tensor<?x64xf32>) -> tensor<?x64xf32>
// CHECK: linalg.generic {{.*}} outs(%{{.*}} : tensor<4x64xf32>)
// CHECK-COUNT-4: arith.mulf
