// RUN: edgec-opt %s -p lower-attention | filecheck %s

// Two contractions around a softmax, over the rows that the block can see and not the capacity.

// CHECK-LABEL: func.func @decode
func.func @decode(%q: !torch.vtensor<[1,4,1,16],f32>, %k: !torch.vtensor<[160,2,16],f16>, %v: !torch.vtensor<[160,2,16],f16>, %start: !torch.vtensor<[],si64>, %sinks: !torch.vtensor<[4],f32>) -> !torch.vtensor<[1,1,4,16],f32> {
  %none = torch.constant.none
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %cap = torch.constant.float 3.000000e+01
  %all = torch.constant.int 0
  %window = torch.constant.int 64
  // CHECK: %[[A:.*]] = util.call @edgec.attention.1x4x1x16xf32.160x2x16xf16.160x2x16xf16.scale0.25_window0_softcap0.0(
  // CHECK: %[[B:.*]] = torch_c.from_builtin_tensor %[[A]] : tensor<1x1x4x16xf32> -> !torch.vtensor<[1,1,4,16],f32>
  %a = torch.operator "torch.edgec.attention"(%q, %k, %v, %start, %none, %scale, %all, %zero) : (!torch.vtensor<[1,4,1,16],f32>, !torch.vtensor<[160,2,16],f16>, !torch.vtensor<[160,2,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,1,4,16],f32>
  // CHECK: util.call @edgec.attention.1x4x1x16xf32.160x2x16xf16.160x2x16xf16.scale0.25_window64_softcap30.0.sinks(
  %b = torch.operator "torch.edgec.attention"(%q, %k, %v, %start, %sinks, %scale, %window, %cap) : (!torch.vtensor<[1,4,1,16],f32>, !torch.vtensor<[160,2,16],f16>, !torch.vtensor<[160,2,16],f16>, !torch.vtensor<[],si64>, !torch.vtensor<[4],f32>, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,1,4,16],f32>
  return %b : !torch.vtensor<[1,1,4,16],f32>
}

// CHECK: util.func private @{{.*}}window0_softcap0.0(
// CHECK: %[[DEPTH:.*]] = arith.muli %{{.*}}, %c32 : index
// CHECK: tensor.extract_slice %{{.*}}[%c0{{.*}}, 0, 0] [%[[DEPTH]], 2, 16] [1, 1, 1] : tensor<160x2x16xf16> to tensor<?x2x16xf16>
// CHECK: arith.extf %{{.*}} : f16 to f32
// CHECK-NOT: math.tanh
// CHECK: util.func private @{{.*}}window64_softcap30.0.sinks(
// CHECK: %[[WRAPS:.*]] = arith.cmpi ugt
// CHECK: %[[LOW:.*]] = arith.select %[[WRAPS]], %c0{{.*}}, %{{.*}} : index
// CHECK: tensor.extract_slice %{{.*}}[%[[LOW]], 0, 0] [%{{.*}}, 2, 16]
// CHECK: math.tanh
