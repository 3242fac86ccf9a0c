// RUN: not edgec-opt %s -p lower-causal-conv 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-causal-conv: causal_conv: tensor<64x4xf32> with state tensor<3x64xf32>
func.func @state_too_short(%x: !torch.vtensor<[1,64],f32>, %state: !torch.vtensor<[3,64],f32>, %weight: !torch.vtensor<[64,4],f32>, %start: !torch.vtensor<[],si64>) {
  %none = torch.constant.none
  %r:2 = torch.operator "torch.edgec.causal_conv"(%x, %state, %weight, %none, %start, %none) : (!torch.vtensor<[1,64],f32>, !torch.vtensor<[3,64],f32>, !torch.vtensor<[64,4],f32>, !torch.none, !torch.vtensor<[],si64>, !torch.none) -> (!torch.vtensor<[1,64],f32>, !torch.vtensor<[3,64],f32>)
  return
}
