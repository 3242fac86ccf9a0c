// RUN: edgec-opt %s -p lower-attention{kernel=x86_64_avx2} | filecheck %s

// Heads that share a head of the cache share a workgroup, unless a single token would keep too few
// busy. A width that is no multiple of 16 stays generated code.

// CHECK-LABEL: func.func @decode
func.func @decode(%q: !torch.vtensor<[1,8,1,64],f32>, %k: !torch.vtensor<[160,2,64],f16>, %v: !torch.vtensor<[160,2,64],f16>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[1,1,8,64],f32> {
  // CHECK: util.call @edgec.attention.x86_64_avx2.1x8x1x64xf32.160x2x64xf16.160x2x64xf16.
  // CHECK-NOT: torch.operator
  %none = torch.constant.none
  %scale = torch.constant.float 1.250000e-01
  %zero = torch.constant.float 0.000000e+00
  %all = torch.constant.int 0
  %a = torch.operator "torch.edgec.attention"(%q, %k, %v, %start, %none, %scale, %all, %zero) : (!torch.vtensor<[1,8,1,64],f32>, !torch.vtensor<[160,2,64],f16>, !torch.vtensor<[160,2,64],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,1,8,64],f32>
  return %a : !torch.vtensor<[1,1,8,64],f32>
}

// CHECK-LABEL: func.func @prefill
func.func @prefill(%q: !torch.vtensor<[1,8,?,64],f32>, %k: !torch.vtensor<[160,2,64],f32>, %v: !torch.vtensor<[160,2,64],f32>, %start: !torch.vtensor<[],si64>, %sinks: !torch.vtensor<[8],f32>) -> !torch.vtensor<[1,?,8,64],f32> {
  %scale = torch.constant.float 1.250000e-01
  %zero = torch.constant.float 0.000000e+00
  %window = torch.constant.int 48
  %a = torch.operator "torch.edgec.attention"(%q, %k, %v, %start, %sinks, %scale, %window, %zero) : (!torch.vtensor<[1,8,?,64],f32>, !torch.vtensor<[160,2,64],f32>, !torch.vtensor<[160,2,64],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[8],f32>, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,?,8,64],f32>
  return %a : !torch.vtensor<[1,?,8,64],f32>
}

// CHECK-LABEL: func.func @odd
func.func @odd(%q: !torch.vtensor<[1,8,1,72],f32>, %k: !torch.vtensor<[160,2,72],f16>, %v: !torch.vtensor<[160,2,72],f16>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[1,1,8,72],f32> {
  // CHECK: util.call @edgec.attention.1x8x1x72xf32
  %none = torch.constant.none
  %scale = torch.constant.float 1.250000e-01
  %zero = torch.constant.float 0.000000e+00
  %all = torch.constant.int 0
  %a = torch.operator "torch.edgec.attention"(%q, %k, %v, %start, %none, %scale, %all, %zero) : (!torch.vtensor<[1,8,1,72],f32>, !torch.vtensor<[160,2,72],f16>, !torch.vtensor<[160,2,72],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float) -> !torch.vtensor<[1,1,8,72],f32>
  return %a : !torch.vtensor<[1,1,8,72],f32>
}

// CHECK: stream.executable private @edgec_attention
// CHECK-SAME: attention_x86_64_avx2.o
// CHECK: util.func private @edgec.attention.x86_64_avx2.1x8x1x64xf32
// CHECK-DAG: %[[PER:.*]] = arith.constant 2 : index
// CHECK: flow.dispatch @edgec_attention::@attention_f16[
// CHECK: util.func private @edgec.attention.x86_64_avx2.1x8xdx64xf32
// CHECK: flow.dispatch @edgec_attention::@attention_f32[
// CHECK: util.func private @edgec.attention.1x8x1x72xf32
// CHECK-NOT: flow.dispatch
