// RUN: edgec-opt %s -p lower-linear{kernel=x86_64_avx2} | filecheck %s

// Layers that read the same rows become one dispatch: one row as it is, more as panels, which a
// dispatch before makes. A layer of other weights stays alone, one with columns that the kernels do
// not take is generated code.

// CHECK-LABEL: func.func @decode
func.func @decode(%x: !torch.vtensor<[1,1,64],f32>, %w: !torch.vtensor<[40,64],f16>, %b: !torch.vtensor<[40],f32>, %u: !torch.vtensor<[16,64],f16>, %v: !torch.vtensor<[16,64],f32>) -> (!torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[1,1,16],f32>) {
  // CHECK: %[[Y:.*]]:2 = util.call @edgec.linear.x86_64_avx2.1x1x64xf32.40x64xf16.bias.16x64xf16(
  // CHECK: torch_c.from_builtin_tensor %[[Y]]#0
  // CHECK: util.call @edgec.linear.x86_64_avx2.1x1x64xf32.16x64xf32(
  %none = torch.constant.none
  %y = torch.operator "torch.edgec.linear"(%x, %w, %b) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[40,64],f16>, !torch.vtensor<[40],f32>) -> !torch.vtensor<[1,1,40],f32>
  %z = torch.operator "torch.edgec.linear"(%x, %v, %none) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[16,64],f32>, !torch.none) -> !torch.vtensor<[1,1,16],f32>
  %r = torch.operator "torch.edgec.linear"(%x, %u, %none) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[16,64],f16>, !torch.none) -> !torch.vtensor<[1,1,16],f32>
  return %y, %z, %r : !torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[1,1,16],f32>
}

// CHECK-LABEL: func.func @prefill
func.func @prefill(%x: !torch.vtensor<[1,?,64],f32>, %w: !torch.vtensor<[40,64],f16>, %u: !torch.vtensor<[16,64],f16>) -> (!torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,16],f32>) {
  // CHECK: util.call @edgec.linear.x86_64_avx2.1xdx64xf32.40x64xf16.16x64xf16(
  %none = torch.constant.none
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[40,64],f16>, !torch.none) -> !torch.vtensor<[1,?,40],f32>
  %r = torch.operator "torch.edgec.linear"(%x, %u, %none) : (!torch.vtensor<[1,?,64],f32>, !torch.vtensor<[16,64],f16>, !torch.none) -> !torch.vtensor<[1,?,16],f32>
  return %y, %r : !torch.vtensor<[1,?,40],f32>, !torch.vtensor<[1,?,16],f32>
}

// CHECK-LABEL: func.func @odd
func.func @odd(%x: !torch.vtensor<[1,1,48],f32>, %w: !torch.vtensor<[16,48],f16>) -> !torch.vtensor<[1,1,16],f32> {
  // CHECK: util.call @edgec.linear.1x1x48xf32.16x48xf16(
  %none = torch.constant.none
  %y = torch.operator "torch.edgec.linear"(%x, %w, %none) : (!torch.vtensor<[1,1,48],f32>, !torch.vtensor<[16,48],f16>, !torch.none) -> !torch.vtensor<[1,1,16],f32>
  return %y : !torch.vtensor<[1,1,16],f32>
}

// CHECK: object<{path = "linear_x86_64_avx2.o"}>
// CHECK: flow.dispatch @edgec_linear::@linear2_few_f16
// CHECK: util.func private @edgec.linear.x86_64_avx2.1xdx64xf32.40x64xf16.16x64xf16(
// CHECK: %[[PANELS:.*]] = flow.dispatch @edgec_linear::@linear_pack
// CHECK: flow.dispatch @edgec_linear::@linear2_many_f16[{{.*}}](%[[PANELS]],
