// RUN: edgec-opt %s -p lower-linear{form=cpu} | filecheck %s

// One row of activations is a product of a matrix and a vector whose tiles are stated; a block of
// tokens is left to IREE's choice. 48 is the largest
// divisor of 96 up to 64.

// CHECK: vector_reduction = [0, 48]
// CHECK-LABEL: func.func @decode
func.func @decode(%x: !torch.vtensor<[1,1,96],f32>, %w: !torch.vtensor<[16,96],f16>, %b: !torch.vtensor<[16],f32>) -> !torch.vtensor<[1,1,16],f32> {
  // CHECK: util.call @edgec.linear.1x1x96xf32.16x96xf16.bias(%{{.*}}, %{{.*}}, %{{.*}})
  %y = torch.operator "torch.edgec.linear"(%x, %w, %b) : (!torch.vtensor<[1,1,96],f32>, !torch.vtensor<[16,96],f16>, !torch.vtensor<[16],f32>) -> !torch.vtensor<[1,1,16],f32>
  return %y : !torch.vtensor<[1,1,16],f32>
}

// CHECK-LABEL: func.func @prefill
func.func @prefill(%x: !torch.vtensor<[1,?,96],f32>, %w: !torch.vtensor<[16,96],f16>) -> !torch.vtensor<[1,?,16],f32> {
  %none = torch.constant.none
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,?,96],f32>, !torch.vtensor<[16,96],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  return %y : !torch.vtensor<[1,?,16],f32>
}


// CHECK: util.func private @edgec.linear.1x1x96xf32.16x96xf16.bias(
// CHECK: linalg.generic
// CHECK-SAME: iterator_types = ["parallel", "reduction"]
// CHECK-SAME: outs(%{{.*}} : tensor<16xf32>)
// CHECK-SAME: compilation_info
// CHECK: util.func private @edgec.linear.1xdx96xf32.16x96xf16(
// CHECK-NOT: compilation_info
