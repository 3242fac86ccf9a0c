// RUN: not edgec-opt %s -p lower-topk 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-topk: edgec::topk: 9 of tensor<4x8xf32>
func.func @too_many(%x: !torch.vtensor<[4,8],f32>) {
  %k = torch.constant.int 9
  %r:2 = torch.operator "torch.edgec.topk"(%x, %k) : (!torch.vtensor<[4,8],f32>, !torch.int) -> (!torch.vtensor<[4,9],f32>, !torch.vtensor<[4,9],si64>)
  return
}
