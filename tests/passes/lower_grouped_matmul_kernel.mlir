// RUN: edgec-opt %s -p lower-grouped-matmul{kernel=x86_64_avx2} | filecheck %s

// Sorted rows are turned into panels and each expert's multiplied by its own matrix; a few rows are
// multiplied one by one. Experts with biases are left to generated code.

// CHECK-LABEL: func.func @prefill
func.func @prefill(%x: !torch.vtensor<[?,64],f32>, %w: !torch.vtensor<[4,128,64],f16>, %offsets: !torch.vtensor<[5],si32>) -> !torch.vtensor<[?,128],f32> {
  // CHECK: util.call @edgec.grouped_matmul.x86_64_avx2.dx64xf32.4x128x64xf16.sorted(
  %none = torch.constant.none
  %false = torch.constant.bool false
  %y = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %none, %offsets, %none, %false) : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,128,64],f16>, !torch.none, !torch.vtensor<[5],si32>, !torch.none, !torch.bool) -> !torch.vtensor<[?,128],f32>
  return %y : !torch.vtensor<[?,128],f32>
}

// CHECK-LABEL: func.func @decode
func.func @decode(%x: !torch.vtensor<[2,64],f32>, %w: !torch.vtensor<[4,128,64],f16>, %b: !torch.vtensor<[4,128],f32>, %experts: !torch.vtensor<[2],si32>) -> (!torch.vtensor<[2,128],f32>, !torch.vtensor<[2,128],f32>) {
  // CHECK: util.call @edgec.grouped_matmul.x86_64_avx2.2x64xf32.4x128x64xf16(
  // CHECK: util.call @edgec.grouped_matmul.2x64xf32.4x128x64xf16.bias(
  %none = torch.constant.none
  %false = torch.constant.bool false
  %y = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %none, %none, %experts, %false) : (!torch.vtensor<[2,64],f32>, !torch.vtensor<[4,128,64],f16>, !torch.none, !torch.none, !torch.vtensor<[2],si32>, !torch.bool) -> !torch.vtensor<[2,128],f32>
  %z = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %b, %none, %experts, %false) : (!torch.vtensor<[2,64],f32>, !torch.vtensor<[4,128,64],f16>, !torch.vtensor<[4,128],f32>, !torch.none, !torch.vtensor<[2],si32>, !torch.bool) -> !torch.vtensor<[2,128],f32>
  return %y, %z : !torch.vtensor<[2,128],f32>, !torch.vtensor<[2,128],f32>
}

// CHECK: object<{path = "linear_x86_64_avx2.o"}>
// CHECK: flow.dispatch @edgec_grouped::@grouped_pack
// CHECK: flow.dispatch @edgec_grouped::@grouped_many_f16
// CHECK: flow.dispatch @edgec_grouped::@grouped_few_f16
