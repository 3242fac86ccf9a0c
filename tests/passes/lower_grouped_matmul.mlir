// RUN: edgec-opt %s -p lower-grouped-matmul{form=cpu} | filecheck %s

// Prefill: a workgroup for each expert and strip of columns loops over the expert's own rows.

// CHECK-LABEL: func.func @prefill
// CHECK: util.call @edgec.grouped_matmul.dx64xf32.4x128x64xf16.sorted(%{{.*}}, %{{.*}}, %{{.*}})
// CHECK-NOT: torch.operator
func.func @prefill(%x: !torch.vtensor<[?,64],f32>, %w: !torch.vtensor<[4,128,64],f16>, %offsets: !torch.vtensor<[5],si32>) -> !torch.vtensor<[?,128],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %y = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %none, %offsets, %none, %false) : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,128,64],f16>, !torch.none, !torch.vtensor<[5],si32>, !torch.none, !torch.bool) -> !torch.vtensor<[?,128],f32>
  return %y : !torch.vtensor<[?,128],f32>
}

// Decode: two rows, each with its own expert; only these experts are read.

// CHECK-LABEL: func.func @decode
// CHECK: util.call @edgec.grouped_matmul.2x64xf32.4x128x64xf16.bias(%{{.*}}, %{{.*}}, %{{.*}}, %{{.*}})
func.func @decode(%x: !torch.vtensor<[2,64],f32>, %w: !torch.vtensor<[4,128,64],f16>, %b: !torch.vtensor<[4,128],f32>, %experts: !torch.vtensor<[2],si32>) -> !torch.vtensor<[2,128],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %y = torch.operator "torch.edgec.grouped_matmul"(%x, %w, %b, %none, %experts, %false) : (!torch.vtensor<[2,64],f32>, !torch.vtensor<[4,128,64],f16>, !torch.vtensor<[4,128],f32>, !torch.none, !torch.vtensor<[2],si32>, !torch.bool) -> !torch.vtensor<[2,128],f32>
  return %y : !torch.vtensor<[2,128],f32>
}

// CHECK: util.func private @edgec.grouped_matmul.dx64xf32.4x128x64xf16.sorted(
// CHECK: flow.dispatch.workgroups
// CHECK: scf.for %[[ROW:.*]] = %{{.*}} to %{{.*}} step %{{.*}} {
// CHECK: sizes = [16, 64]
// CHECK: sizes = [1, 64, 64]
// CHECK: arith.extf %{{.*}} : f16 to f32
// CHECK: util.func private @edgec.grouped_matmul.2x64xf32.4x128x64xf16.bias(
// CHECK: %[[EXPERT:.*]] = tensor.extract %{{.*}} : tensor<2xi32>
// CHECK: linalg.broadcast
