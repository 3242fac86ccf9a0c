// RUN: edgec-opt %s -p lower-quantized-linear{kernel=x86_64_avx2} | filecheck %s

// One row takes the fused kernel, many rows are quantised by a dispatch of their own. A layer that
// the kernels do not take stays a contraction. All share one executable, which names the object.

// CHECK-LABEL: func.func @decode
func.func @decode(%x: !torch.vtensor<[1,1,64],f32>, %w: !torch.vtensor<[3,16,16,4],si8>, %s: !torch.vtensor<[3,2,16],f16>) -> !torch.vtensor<[1,1,40],f32> {
  // CHECK: util.call @edgec.quantized_linear.x86_64_avx2.1x1x64xf32.3x16x16x4xi8.3x2x16xf16.40(
  // CHECK-NOT: torch.operator
  %none = torch.constant.none
  %n = torch.constant.int 40
  %y = torch.operator "torch.edgec.quantized_linear"(%x, %w, %s, %none, %n) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,40],f32>
  return %y : !torch.vtensor<[1,1,40],f32>
}

// CHECK-LABEL: func.func @prefill
func.func @prefill(%x: !torch.vtensor<[1,?,64],f32>, %w: !torch.vtensor<[3,8,16,4],si8>, %s: !torch.vtensor<[3,2,16],f16>, %b: !torch.vtensor<[40],f32>) -> !torch.vtensor<[1,?,40],f32> {
  // CHECK: util.call @edgec.quantized_linear.x86_64_avx2.1xdx64xf32.3x8x16x4xi8.3x2x16xf16.40.bias(
  %n = torch.constant.int 40
  %y = torch.operator "torch.edgec.quantized_linear"(%x, %w, %s, %b, %n) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[3,8,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.vtensor<[40],f32>, !torch.int) -> !torch.vtensor<[1,?,40],f32>
  return %y : !torch.vtensor<[1,?,40],f32>
}

// CHECK-LABEL: func.func @odd
func.func @odd(%x: !torch.vtensor<[1,1,48],f32>, %w: !torch.vtensor<[1,12,16,4],si8>, %s: !torch.vtensor<[1,1,16],f16>) -> !torch.vtensor<[1,1,16],f32> {
  // CHECK: util.call @edgec.quantized_linear.1x1x48xf32.1x12x16x4xi8.1x1x16xf16.16(
  %none = torch.constant.none
  %n = torch.constant.int 16
  %y = torch.operator "torch.edgec.quantized_linear"(%x, %w, %s, %none, %n) : (!torch.vtensor<[1,1,48],f32>, !torch.vtensor<[1,12,16,4],si8>, !torch.vtensor<[1,1,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,16],f32>
  return %y : !torch.vtensor<[1,1,16],f32>
}

// CHECK: stream.executable private @edgec_quantized_linear
// CHECK-SAME: quantized_linear_i8_x86_64_avx2.o
// CHECK: util.func private @edgec.quantized_linear.x86_64_avx2.1x1x64xf32
// CHECK: flow.dispatch @edgec_quantized_linear_i8::@quantized_matvec1_i8
// CHECK: util.func private @edgec.quantized_linear.x86_64_avx2.1xdx64xf32
// CHECK: flow.dispatch @edgec_quantized_linear_i4::@quantize_rows_i4
// CHECK: flow.dispatch @edgec_quantized_linear_i4::@quantized_matmul_i4
// CHECK: util.func private @edgec.quantized_linear.1x1x48xf32
// CHECK-NOT: flow.dispatch
// CHECK: arith.extsi %{{.*}} : i8 to i32
