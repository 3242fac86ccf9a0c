// RUN: edgec-opt %s -p lower-quantized-grouped-matmul{kernel=x86_64_avx2} | filecheck %s

// Rows in order: quantised up to the last offset, then a workgroup for each strip and expert.

// CHECK-LABEL: func.func @prefill
// CHECK: util.call @edgec.quantized_grouped_matmul.x86_64_avx2.dx64xf32.4x3x16x16x4xi8.4x3x2x16xf16.40.sorted(
// CHECK-NOT: torch.operator
func.func @prefill(%x: !torch.vtensor<[?,64],f32>, %w: !torch.vtensor<[4,3,16,16,4],si8>, %s: !torch.vtensor<[4,3,2,16],f16>, %offsets: !torch.vtensor<[5],si32>, %counts: !torch.vtensor<[4],si32>) -> !torch.vtensor<[?,40],f32> {
  %none = torch.constant.none
  %n = torch.constant.int 40
  %y = torch.operator "torch.edgec.quantized_grouped_matmul"(%x, %w, %s, %none, %offsets, %counts, %none, %n) : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,3,16,16,4],si8>, !torch.vtensor<[4,3,2,16],f16>, !torch.none, !torch.vtensor<[5],si32>, !torch.vtensor<[4],si32>, !torch.none, !torch.int) -> !torch.vtensor<[?,40],f32>
  return %y : !torch.vtensor<[?,40],f32>
}

// Decode: a workgroup for each strip and row. The bias of each row is its expert's.

// CHECK-LABEL: func.func @decode
// CHECK: util.call @edgec.quantized_grouped_matmul.x86_64_avx2.2x64xf32.4x3x8x16x4xi8.4x3x2x16xf16.40.bias(
func.func @decode(%x: !torch.vtensor<[2,64],f32>, %w: !torch.vtensor<[4,3,8,16,4],si8>, %s: !torch.vtensor<[4,3,2,16],f16>, %b: !torch.vtensor<[4,40],f32>, %experts: !torch.vtensor<[2],si32>) -> !torch.vtensor<[2,40],f32> {
  %none = torch.constant.none
  %n = torch.constant.int 40
  %y = torch.operator "torch.edgec.quantized_grouped_matmul"(%x, %w, %s, %b, %none, %none, %experts, %n) : (!torch.vtensor<[2,64],f32>, !torch.vtensor<[4,3,8,16,4],si8>, !torch.vtensor<[4,3,2,16],f16>, !torch.vtensor<[4,40],f32>, !torch.none, !torch.none, !torch.vtensor<[2],si32>, !torch.int) -> !torch.vtensor<[2,40],f32>
  return %y : !torch.vtensor<[2,40],f32>
}

// Columns that the kernels do not take: each block of rows gathers its expert's packed integers.

// CHECK-LABEL: func.func @odd
// CHECK: util.call @edgec.quantized_grouped_matmul.2x48xf32.4x1x12x16x4xi8.4x1x1x16xf16.16(
func.func @odd(%x: !torch.vtensor<[2,48],f32>, %w: !torch.vtensor<[4,1,12,16,4],si8>, %s: !torch.vtensor<[4,1,1,16],f16>, %experts: !torch.vtensor<[2],si32>) -> !torch.vtensor<[2,16],f32> {
  %none = torch.constant.none
  %n = torch.constant.int 16
  %y = torch.operator "torch.edgec.quantized_grouped_matmul"(%x, %w, %s, %none, %none, %none, %experts, %n) : (!torch.vtensor<[2,48],f32>, !torch.vtensor<[4,1,12,16,4],si8>, !torch.vtensor<[4,1,1,16],f16>, !torch.none, !torch.none, !torch.none, !torch.vtensor<[2],si32>, !torch.int) -> !torch.vtensor<[2,16],f32>
  return %y : !torch.vtensor<[2,16],f32>
}

// CHECK: stream.executable private @edgec_quantized_grouped
// CHECK-SAME: quantized_linear_i8_x86_64_avx2.o
// CHECK: util.func private @edgec.quantized_grouped_matmul.x86_64_avx2.dx64xf32
// CHECK: flow.dispatch @edgec_quantized_grouped_i8::@quantize_groups_i8
// CHECK: flow.dispatch @edgec_quantized_grouped_i8::@grouped_matmul_i8
// CHECK: util.func private @edgec.quantized_grouped_matmul.x86_64_avx2.2x64xf32
// CHECK: flow.dispatch @edgec_quantized_grouped_i4::@grouped_matvec_i4
// CHECK: arith.addf
// CHECK: util.func private @edgec.quantized_grouped_matmul.2x48xf32
// CHECK-NOT: flow.dispatch
// CHECK: iree_linalg_ext.gather
// CHECK: arith.extsi %{{.*}} : i8 to i32
