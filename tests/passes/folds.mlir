// RUN: edgec-opt %s -p lower-linear{kernel=x86_64_avx2},lower-quantized-linear{kernel=x86_64_avx2} | filecheck %s

// A norm, and a gate: all is one call, of the norm's input.

// CHECK-LABEL: func.func @gate
func.func @gate(%x: !torch.vtensor<[1,?,64],f32>, %w: !torch.vtensor<[64],f32>, %g: !torch.vtensor<[40,64],f16>, %u: !torch.vtensor<[40,64],f16>) -> !torch.vtensor<[1,?,40],f32> {
  // CHECK: %[[X:.*]] = torch_c.to_builtin_tensor %arg0
  // CHECK: %[[G:.*]] = torch_c.to_builtin_tensor %arg2
  // CHECK: %[[U:.*]] = torch_c.to_builtin_tensor %arg3
  // CHECK: %[[W:.*]] = torch_c.to_builtin_tensor %arg1
  // CHECK: %[[Y:.*]] = util.call @"edgec.linear.x86_64_avx2.1xdx64xf32.40x64xf16.40x64xf16.wnorm1e-06.silu"(%[[X]], %[[G]], %[[U]], %[[W]])
  // CHECK: %[[R:.*]] = torch_c.from_builtin_tensor %[[Y]]
  // CHECK: return %[[R]]
  %none = torch.constant.none
  %true = torch.constant.bool true
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %last = torch.constant.int -1
  %eps = torch.constant.float 1.0e-06
  %dims = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %n_sq = torch.aten.pow.Tensor_Scalar %x, %two : !torch.vtensor<[1,?,64],f32>, !torch.int -> !torch.vtensor<[1,?,64],f32>
  %n_mean = torch.aten.mean.dim %n_sq, %dims, %true, %none : !torch.vtensor<[1,?,64],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,?,1],f32>
  %n_eps = torch.aten.add.Scalar %n_mean, %eps, %one : !torch.vtensor<[1,?,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,?,1],f32>
  %n_rsqrt = torch.aten.rsqrt %n_eps : !torch.vtensor<[1,?,1],f32> -> !torch.vtensor<[1,?,1],f32>
  %n_scaled = torch.aten.mul.Tensor %x, %n_rsqrt : !torch.vtensor<[1,?,64],f32>, !torch.vtensor<[1,?,1],f32> -> !torch.vtensor<[1,?,64],f32>
  %n = torch.aten.mul.Tensor %w, %n_scaled : !torch.vtensor<[64],f32>, !torch.vtensor<[1,?,64],f32> -> !torch.vtensor<[1,?,64],f32>
  %b = torch.operator "torch.edgec.linear"(%n, %u, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[40,64],f16>, !torch.none) -> !torch.vtensor<[1,?,40],f32>
  %a = torch.operator "torch.edgec.linear"(%n, %g, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[40,64],f16>, !torch.none) -> !torch.vtensor<[1,?,40],f32>
  %s = torch.aten.silu %a : !torch.vtensor<[1,?,40],f32> -> !torch.vtensor<[1,?,40],f32>
  %y = torch.aten.mul.Tensor %s, %b : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32> -> !torch.vtensor<[1,?,40],f32>
  return %y : !torch.vtensor<[1,?,40],f32>
}

// A sum, and its factor; the sum's other part may come between.

// CHECK-LABEL: func.func @added
func.func @added(%x: !torch.vtensor<[1,?,64],f32>, %d: !torch.vtensor<[40,64],f16>, %r: !torch.vtensor<[1,?,40],f32>) -> !torch.vtensor<[1,?,40],f32> {
  // CHECK: torch.aten.relu
  // CHECK: util.call @edgec.linear.x86_64_avx2.1xdx64xf32.40x64xf16.added0.22(
  // CHECK-NOT: torch.aten.add
  %none = torch.constant.none
  %true = torch.constant.bool true
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %last = torch.constant.int -1
  %eps = torch.constant.float 1.0e-06
  %dims = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %n32 = torch.symbolic_int "s0" {min_val = 1, max_val = 8} : !torch.int
  %alpha = torch.constant.float 2.2e-01
  %a = torch.operator "torch.edgec.linear"(%x, %d, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[40,64],f16>, !torch.none) -> !torch.vtensor<[1,?,40],f32>
  torch.bind_symbolic_shape %a, [%n32], affine_map<()[s0] -> (1, s0 * 32, 40)> : !torch.vtensor<[1,?,40],f32>
  %m = torch.aten.mul.Scalar %a, %alpha : !torch.vtensor<[1,?,40],f32>, !torch.float -> !torch.vtensor<[1,?,40],f32>
  %o = torch.aten.relu %r : !torch.vtensor<[1,?,40],f32> -> !torch.vtensor<[1,?,40],f32>
  %y = torch.aten.add.Tensor %o, %m, %one : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32>, !torch.int -> !torch.vtensor<[1,?,40],f32>
  return %y : !torch.vtensor<[1,?,40],f32>
}

// What others read too stays: a norm, a gate's layer, a layer of a sum.

// CHECK-LABEL: func.func @read_elsewhere
func.func @read_elsewhere(%x: !torch.vtensor<[1,?,64],f32>, %w: !torch.vtensor<[64],f32>, %g: !torch.vtensor<[40,64],f16>, %u: !torch.vtensor<[40,64],f16>, %r: !torch.vtensor<[1,?,40],f32>) -> (!torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,64],f32>) {
  // CHECK: %[[N:.*]] = torch.aten.mul.Tensor %arg1
  // CHECK: util.call @edgec.linear.x86_64_avx2.1xdx64xf32.40x64xf16.40x64xf16(
  // CHECK: torch.aten.silu
  // CHECK: torch.aten.mul.Tensor
  // CHECK: torch.aten.add.Tensor
  // CHECK: return {{.*}}, %[[N]] :
  %none = torch.constant.none
  %true = torch.constant.bool true
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %last = torch.constant.int -1
  %eps = torch.constant.float 1.0e-06
  %dims = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %n_sq = torch.aten.pow.Tensor_Scalar %x, %two : !torch.vtensor<[1,?,64],f32>, !torch.int -> !torch.vtensor<[1,?,64],f32>
  %n_mean = torch.aten.mean.dim %n_sq, %dims, %true, %none : !torch.vtensor<[1,?,64],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,?,1],f32>
  %n_eps = torch.aten.add.Scalar %n_mean, %eps, %one : !torch.vtensor<[1,?,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,?,1],f32>
  %n_rsqrt = torch.aten.rsqrt %n_eps : !torch.vtensor<[1,?,1],f32> -> !torch.vtensor<[1,?,1],f32>
  %n_scaled = torch.aten.mul.Tensor %x, %n_rsqrt : !torch.vtensor<[1,?,64],f32>, !torch.vtensor<[1,?,1],f32> -> !torch.vtensor<[1,?,64],f32>
  %n = torch.aten.mul.Tensor %w, %n_scaled : !torch.vtensor<[64],f32>, !torch.vtensor<[1,?,64],f32> -> !torch.vtensor<[1,?,64],f32>
  %a = torch.operator "torch.edgec.linear"(%n, %g, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[40,64],f16>, !torch.none) -> !torch.vtensor<[1,?,40],f32>
  %b = torch.operator "torch.edgec.linear"(%n, %u, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[40,64],f16>, !torch.none) -> !torch.vtensor<[1,?,40],f32>
  %s = torch.aten.silu %a : !torch.vtensor<[1,?,40],f32> -> !torch.vtensor<[1,?,40],f32>
  %y = torch.aten.mul.Tensor %s, %b : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32> -> !torch.vtensor<[1,?,40],f32>
  %z = torch.aten.add.Tensor %r, %b, %one : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32>, !torch.int -> !torch.vtensor<[1,?,40],f32>
  return %y, %z, %b, %n : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,64],f32>
}

// Quantised: many rows are rounded with their norm, once for both of the gate's layers; one row by
// the product itself.

// CHECK-LABEL: func.func @quantized
func.func @quantized(%x: !torch.vtensor<[1,?,64],f32>, %w: !torch.vtensor<[64],f32>, %g: !torch.vtensor<[3,16,16,4],si8>, %u: !torch.vtensor<[3,16,16,4],si8>, %gs: !torch.vtensor<[3,2,16],f16>, %us: !torch.vtensor<[3,2,16],f16>) -> !torch.vtensor<[1,?,40],f32> {
  // CHECK: util.call @"edgec.quantized_linear.x86_64_avx2.1xdx64xf32.{{.*}}.wnorm1e-06.gelu_tanh"(
  %none = torch.constant.none
  %true = torch.constant.bool true
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %last = torch.constant.int -1
  %eps = torch.constant.float 1.0e-06
  %dims = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %tanh = torch.constant.str "tanh"
  %n40 = torch.constant.int 40
  %n_sq = torch.aten.pow.Tensor_Scalar %x, %two : !torch.vtensor<[1,?,64],f32>, !torch.int -> !torch.vtensor<[1,?,64],f32>
  %n_mean = torch.aten.mean.dim %n_sq, %dims, %true, %none : !torch.vtensor<[1,?,64],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,?,1],f32>
  %n_eps = torch.aten.add.Scalar %n_mean, %eps, %one : !torch.vtensor<[1,?,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,?,1],f32>
  %n_rsqrt = torch.aten.rsqrt %n_eps : !torch.vtensor<[1,?,1],f32> -> !torch.vtensor<[1,?,1],f32>
  %n_scaled = torch.aten.mul.Tensor %x, %n_rsqrt : !torch.vtensor<[1,?,64],f32>, !torch.vtensor<[1,?,1],f32> -> !torch.vtensor<[1,?,64],f32>
  %n = torch.aten.mul.Tensor %w, %n_scaled : !torch.vtensor<[64],f32>, !torch.vtensor<[1,?,64],f32> -> !torch.vtensor<[1,?,64],f32>
  %a = torch.operator "torch.edgec.quantized_linear"(%n, %g, %gs, %none, %n40) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,?,40],f32>
  %b = torch.operator "torch.edgec.quantized_linear"(%n, %u, %us, %none, %n40) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,?,40],f32>
  %s = torch.aten.gelu %a, %tanh : !torch.vtensor<[1,?,40],f32>, !torch.str -> !torch.vtensor<[1,?,40],f32>
  %y = torch.aten.mul.Tensor %b, %s : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,40],f32> -> !torch.vtensor<[1,?,40],f32>
  return %y : !torch.vtensor<[1,?,40],f32>
}

// CHECK-LABEL: func.func @quantized_row
func.func @quantized_row(%x: !torch.vtensor<[1,1,64],f32>, %w: !torch.vtensor<[64],f32>, %g: !torch.vtensor<[3,16,16,4],si8>, %gs: !torch.vtensor<[3,2,16],f16>, %r: !torch.vtensor<[1,1,40],f32>) -> !torch.vtensor<[1,1,40],f32> {
  // CHECK: util.call @"edgec.quantized_linear.x86_64_avx2.1x1x64xf32.{{.*}}.40.wnorm1e-06.added1.0"(
  %none = torch.constant.none
  %true = torch.constant.bool true
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %last = torch.constant.int -1
  %eps = torch.constant.float 1.0e-06
  %dims = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %n40 = torch.constant.int 40
  %n_sq = torch.aten.pow.Tensor_Scalar %x, %two : !torch.vtensor<[1,1,64],f32>, !torch.int -> !torch.vtensor<[1,1,64],f32>
  %n_mean = torch.aten.mean.dim %n_sq, %dims, %true, %none : !torch.vtensor<[1,1,64],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,1,1],f32>
  %n_eps = torch.aten.add.Scalar %n_mean, %eps, %one : !torch.vtensor<[1,1,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,1,1],f32>
  %n_rsqrt = torch.aten.rsqrt %n_eps : !torch.vtensor<[1,1,1],f32> -> !torch.vtensor<[1,1,1],f32>
  %n_scaled = torch.aten.mul.Tensor %x, %n_rsqrt : !torch.vtensor<[1,1,64],f32>, !torch.vtensor<[1,1,1],f32> -> !torch.vtensor<[1,1,64],f32>
  %n = torch.aten.mul.Tensor %w, %n_scaled : !torch.vtensor<[64],f32>, !torch.vtensor<[1,1,64],f32> -> !torch.vtensor<[1,1,64],f32>
  %a = torch.operator "torch.edgec.quantized_linear"(%n, %g, %gs, %none, %n40) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,40],f32>
  %y = torch.aten.add.Tensor %r, %a, %one : !torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,40],f32>, !torch.int -> !torch.vtensor<[1,1,40],f32>
  return %y : !torch.vtensor<[1,1,40],f32>
}

// CHECK-LABEL: util.func private @"edgec.linear.x86_64_avx2.1xdx64xf32.40x64xf16.40x64xf16.wnorm1e-06.silu"(
// CHECK: %[[PANELS:.*]] = flow.dispatch @edgec_linear::@linear_pack[{{.*}}](%{{.*}}, %arg3,
// CHECK: flow.dispatch @edgec_linear::@linear_gated_many_f16[{{.*}}](%[[PANELS]], %arg1, %arg2,
// CHECK-LABEL: util.func private @"edgec.quantized_linear.x86_64_avx2.1xdx64xf32.{{.*}}.wnorm1e-06.gelu_tanh"(
// CHECK: %[[Q:.*]]:3 = flow.dispatch @edgec_quantized_linear_i8::@quantize_rows_i8[{{.*}}](%{{.*}}, %arg5,
// CHECK: flow.dispatch @edgec_quantized_linear_i8::@quantized_gated_matmul_i8[{{.*}}](%[[Q]]#0, %[[Q]]#1, %[[Q]]#2,
// CHECK-LABEL: util.func private @"edgec.quantized_linear.x86_64_avx2.1x1x64xf32.{{.*}}.wnorm1e-06.added1.0"(
// CHECK: flow.dispatch @edgec_quantized_linear_i8::@quantized_matvec1_i8
