// RUN: edgec-opt %s -p lower-linear{block=32} | filecheck %s

// Rows that the export states as a multiple of 32 are computed in blocks of 32, and those that it
// states as a multiple of 48 in blocks of 16. All others keep one dynamic dimension.

// CHECK-LABEL: func.func @multiple
func.func @multiple(%x: !torch.vtensor<[1,?,96],f32>, %w: !torch.vtensor<[16,96],f16>, %b: !torch.vtensor<[16],f32>) -> !torch.vtensor<[1,?,16],f32> {
  %n = torch.symbolic_int "n" {min_val = 1, max_val = 8} : !torch.int
  torch.bind_symbolic_shape %x, [%n], affine_map<()[s0] -> (1, s0 * 32, 96)> : !torch.vtensor<[1,?,96],f32>
  // CHECK: util.call @edgec.linear.1xdx96xf32.16x96xf16.bias.by32(
  %y = torch.operator "torch.edgec.linear"(%x, %w, %b) : (!torch.vtensor<[1,?,96],f32>, !torch.vtensor<[16,96],f16>, !torch.vtensor<[16],f32>) -> !torch.vtensor<[1,?,16],f32>
  return %y : !torch.vtensor<[1,?,16],f32>
}

// CHECK-LABEL: func.func @divisor
func.func @divisor(%x: !torch.vtensor<[?,96],f32>, %w: !torch.vtensor<[16,96],f16>) -> !torch.vtensor<[?,16],f32> {
  %none = torch.constant.none
  %n = torch.symbolic_int "n" {min_val = 1, max_val = 8} : !torch.int
  torch.bind_symbolic_shape %x, [%n], affine_map<()[s0] -> (s0 * 48, 96)> : !torch.vtensor<[?,96],f32>
  // CHECK: util.call @edgec.linear.dx96xf32.16x96xf16.by16(
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[?,96],f32>, !torch.vtensor<[16,96],f16>, !torch.none) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// CHECK-LABEL: func.func @any
func.func @any(%x: !torch.vtensor<[1,?,96],f32>, %z: !torch.vtensor<[1,?,96],f32>, %u: !torch.vtensor<[1,?,96],f32>, %w: !torch.vtensor<[16,96],f16>) -> (!torch.vtensor<[1,?,16],f32>, !torch.vtensor<[1,?,16],f32>, !torch.vtensor<[1,?,16],f32>) {
  %none = torch.constant.none
  %n = torch.symbolic_int "n" {min_val = 1, max_val = 8} : !torch.int
  torch.bind_symbolic_shape %x, [%n], affine_map<()[s0] -> (1, s0, 96)> : !torch.vtensor<[1,?,96],f32>
  torch.bind_symbolic_shape %z, [%n], affine_map<()[s0] -> (1, s0 * 32 + 1, 96)> : !torch.vtensor<[1,?,96],f32>
  // CHECK: util.call @edgec.linear.1xdx96xf32.16x96xf16(
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,?,96],f32>, !torch.vtensor<[16,96],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  // CHECK: util.call @edgec.linear.1xdx96xf32.16x96xf16(
  %v = torch.operator "torch.edgec.linear"(%z, %w, %none) : (!torch.vtensor<[1,?,96],f32>, !torch.vtensor<[16,96],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  // CHECK: util.call @edgec.linear.1xdx96xf32.16x96xf16(
  %t = torch.operator "torch.edgec.linear"(%u, %w, %none) : (!torch.vtensor<[1,?,96],f32>, !torch.vtensor<[16,96],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  return %y, %v, %t : !torch.vtensor<[1,?,16],f32>, !torch.vtensor<[1,?,16],f32>, !torch.vtensor<[1,?,16],f32>
}

// CHECK: util.func private @edgec.linear.1xdx96xf32.16x96xf16.bias.by32(
// CHECK: %[[COUNT:.*]] = arith.divui
// CHECK: tensor.expand_shape %{{.*}} {{\[\[}}0, 1], [2]] output_shape [%[[COUNT]], 32, 96]
// CHECK: linalg.broadcast
// CHECK: linalg.contract
// CHECK-SAME: ins(%{{.*}} : tensor<?x32x96xf32>, tensor<16x96xf16>)
// CHECK-SAME: outs(%{{.*}} : tensor<?x32x16xf32>)
// CHECK: tensor.collapse_shape %{{.*}} : tensor<?x32x16xf32> into tensor<?x16xf32>

// CHECK: util.func private @edgec.linear.dx96xf32.16x96xf16.by16(
// CHECK: linalg.contract
// CHECK-SAME: tensor<?x16x96xf32>

// CHECK: util.func private @edgec.linear.1xdx96xf32.16x96xf16(
// CHECK-NOT: linalg.contract
