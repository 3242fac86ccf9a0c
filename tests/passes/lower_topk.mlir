// RUN: edgec-opt %s -p lower-topk{form=cpu} | filecheck %s

// A router's experts are ranked at once, a vocabulary in blocks.

// CHECK-LABEL: func.func @router
// CHECK: %{{.*}}:2 = util.call @edgec.topk.dx32xf32.k8(%{{.*}})
// CHECK-NOT: torch.operator
func.func @router(%x: !torch.vtensor<[?,32],f32>) -> (!torch.vtensor<[?,8],f32>, !torch.vtensor<[?,8],si64>) {
  %k = torch.constant.int 8
  %r:2 = torch.operator "torch.edgec.topk"(%x, %k) : (!torch.vtensor<[?,32],f32>, !torch.int) -> (!torch.vtensor<[?,8],f32>, !torch.vtensor<[?,8],si64>)
  return %r#0, %r#1 : !torch.vtensor<[?,8],f32>, !torch.vtensor<[?,8],si64>
}

// CHECK-LABEL: func.func @sampler
// CHECK: util.call @edgec.topk.1x151936xf32.k50
func.func @sampler(%x: !torch.vtensor<[1,151936],f32>) -> !torch.vtensor<[1,50],si64> {
  %k = torch.constant.int 50
  %r:2 = torch.operator "torch.edgec.topk"(%x, %k) : (!torch.vtensor<[1,151936],f32>, !torch.int) -> (!torch.vtensor<[1,50],f32>, !torch.vtensor<[1,50],si64>)
  return %r#1 : !torch.vtensor<[1,50],si64>
}

// CHECK: util.func private @edgec.topk.dx32xf32.k8(
// CHECK-NOT: tensor.pad
// CHECK: iterator_types = ["parallel", "parallel", "reduction"]
// CHECK-SAME: outs(%{{.*}} : tensor<?x32xi32>)
// CHECK: util.func private @edgec.topk.1x151936xf32.k50(
// CHECK: tensor.pad
// CHECK: tensor.expand_shape
// CHECK-SAME: into tensor<1x594x256xf32>
// CHECK: tensor.extract
// CHECK: tensor.collapse_shape
// CHECK-SAME: into tensor<1x12800xf32>
