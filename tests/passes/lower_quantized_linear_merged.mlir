// RUN: edgec-opt %s -p lower-quantized-linear{kernel=x86_64_avx2} | filecheck %s

// Layers of one row that read the same one become one dispatch, whose weights are read before it.
// Those of another format, or of another row, stay alone.

// CHECK-LABEL: func.func @decode
func.func @decode(%x: !torch.vtensor<[1,1,64],f32>, %w: !torch.vtensor<[3,16,16,4],si8>, %s: !torch.vtensor<[3,2,16],f16>, %b: !torch.vtensor<[40],f32>, %u: !torch.vtensor<[1,8,16,4],si8>, %us: !torch.vtensor<[1,2,16],f16>) -> (!torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[1,1,40],f32>) {
  // CHECK: %[[X:.*]] = torch_c.to_builtin_tensor %{{.*}} : !torch.vtensor<[1,1,64],f32>
  // CHECK: %[[Y:.*]]:2 = util.call @edgec.quantized_linear.x86_64_avx2.1x1x64xf32.3x16x16x4xi8.3x2x16xf16.40.bias.3x16x16x4xi8.3x2x16xf16.40(%[[X]]
  // CHECK: torch_c.from_builtin_tensor %[[Y]]#0
  // CHECK: torch.aten.relu
  // CHECK: util.call @edgec.quantized_linear.x86_64_avx2.1x1x64xf32.1x8x16x4xi8.1x2x16xf16.16(
  // CHECK: util.call @edgec.quantized_linear.x86_64_avx2.1x1x64xf32.3x16x16x4xi8.3x2x16xf16.40(
  %none = torch.constant.none
  %n = torch.constant.int 40
  %m = torch.constant.int 16
  %y = torch.operator "torch.edgec.quantized_linear"(%x, %w, %s, %b, %n) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.vtensor<[40],f32>, !torch.int) -> !torch.vtensor<[1,1,40],f32>
  %r = torch.aten.relu %x : !torch.vtensor<[1,1,64],f32> -> !torch.vtensor<[1,1,64],f32>
  %read = util.global.load immutable @weight : tensor<3x16x16x4xi8>
  %late = torch_c.from_builtin_tensor %read : tensor<3x16x16x4xi8> -> !torch.vtensor<[3,16,16,4],si8>
  %z = torch.operator "torch.edgec.quantized_linear"(%x, %late, %s, %none, %n) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,40],f32>
  %v = torch.operator "torch.edgec.quantized_linear"(%x, %u, %us, %none, %m) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[1,8,16,4],si8>, !torch.vtensor<[1,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,16],f32>
  %a = torch.operator "torch.edgec.quantized_linear"(%r, %w, %s, %none, %n) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[3,16,16,4],si8>, !torch.vtensor<[3,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,40],f32>
  return %y, %z, %v, %a : !torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,40],f32>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[1,1,40],f32>
}
util.global private @weight : tensor<3x16x16x4xi8>

// CHECK: flow.dispatch @edgec_quantized_linear_i8::@quantized_matvec2_i8
