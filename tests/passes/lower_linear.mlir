// RUN: edgec-opt %s -p lower-linear | filecheck %s

// The weights are widened element by element, inside the contraction. Two uses of one form share
// a function.

// CHECK-LABEL: func.func @project
// CHECK-COUNT-2: util.call @edgec.linear.1xdx64xf32.16x64xf16(%{{.*}}, %{{.*}})
// CHECK-NOT: torch.operator
func.func @project(%x: !torch.vtensor<[1,?,64],f32>, %w: !torch.vtensor<[16,64],f16>)
    -> (!torch.vtensor<[1,?,16],f32>, !torch.vtensor<[1,?,16],f32>) {
  %none = torch.constant.none
  %q = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[16,64],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  %k = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[16,64],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  return %q, %k : !torch.vtensor<[1,?,16],f32>, !torch.vtensor<[1,?,16],f32>
}

// CHECK-LABEL: func.func @biased
func.func @biased(%x: !torch.vtensor<[1,1,64],f32>, %w: !torch.vtensor<[16,64],f32>, %b: !torch.vtensor<[16],f32>) -> !torch.vtensor<[1,1,16],f32> {
  // CHECK: util.call @edgec.linear.1x1x64xf32.16x64xf32.bias(%{{.*}}, %{{.*}}, %{{.*}})
  %y = torch.operator "torch.edgec.linear"(%x, %w, %b) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[16,64],f32>, !torch.vtensor<[16],f32>) -> !torch.vtensor<[1,1,16],f32>
  return %y : !torch.vtensor<[1,1,16],f32>
}

// CHECK: util.func private @edgec.linear.1xdx64xf32.16x64xf16(
// CHECK: linalg.generic
// CHECK-SAME: iterator_types = ["parallel", "parallel", "reduction"]
// CHECK-SAME: tensor<?x64xf32>, tensor<16x64xf16>
// CHECK: arith.extf %{{.*}} : f16 to f32
// CHECK: util.func private @edgec.linear.1x1x64xf32.16x64xf32.bias(
// CHECK: linalg.broadcast
// CHECK-NOT: arith.extf
