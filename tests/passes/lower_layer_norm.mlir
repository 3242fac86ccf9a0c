// RUN: edgec-opt %s -p lower-layer-norm | filecheck %s

// Two reductions and one scaling; a barrier keeps the sum before the norm out of their dispatch.

// CHECK-LABEL: func.func @norm
// CHECK: util.call @"edgec.layer_norm.1xdx48xf32.eps1e-05.w.b"(%{{.*}}, %{{.*}}, %{{.*}})
// CHECK-NOT: torch.aten.layer_norm
func.func @norm(%x: !torch.vtensor<[1,?,48],f32>, %w: !torch.vtensor<[48],f32>, %b: !torch.vtensor<[48],f32>) -> !torch.vtensor<[1,?,48],f32> {
  %width = torch.constant.int 48
  %shape = torch.prim.ListConstruct %width : (!torch.int) -> !torch.list<int>
  %eps = torch.constant.float 1.000000e-05
  %cudnn = torch.constant.bool false
  %y = torch.aten.layer_norm %x, %shape, %w, %b, %eps, %cudnn : !torch.vtensor<[1,?,48],f32>, !torch.list<int>, !torch.vtensor<[48],f32>, !torch.vtensor<[48],f32>, !torch.float, !torch.bool -> !torch.vtensor<[1,?,48],f32>
  return %y : !torch.vtensor<[1,?,48],f32>
}

// Over two dimensions, or of another type than f32, it stays.

// CHECK-LABEL: func.func @others
// CHECK: torch.aten.layer_norm
func.func @others(%x: !torch.vtensor<[2,3,48],f16>) -> !torch.vtensor<[2,3,48],f16> {
  %width = torch.constant.int 48
  %shape = torch.prim.ListConstruct %width : (!torch.int) -> !torch.list<int>
  %none = torch.constant.none
  %eps = torch.constant.float 1.000000e-05
  %cudnn = torch.constant.bool false
  %y = torch.aten.layer_norm %x, %shape, %none, %none, %eps, %cudnn : !torch.vtensor<[2,3,48],f16>, !torch.list<int>, !torch.none, !torch.none, !torch.float, !torch.bool -> !torch.vtensor<[2,3,48],f16>
  return %y : !torch.vtensor<[2,3,48],f16>
}

// CHECK: util.func private @"edgec.layer_norm.1xdx48xf32.eps1e-05.w.b"(
// CHECK: iree_tensor_ext.compute_barrier.start
// CHECK-COUNT-2: iterator_types = ["parallel", "parallel", "reduction"]
// CHECK: iterator_types = ["parallel", "parallel", "parallel"]
