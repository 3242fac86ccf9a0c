// RUN: not edgec-opt %s -p lower-quantized-cache-update 2>&1 | filecheck %s

func.func @update(%c: !torch.vtensor<[16,2,16],si8>, %s: !torch.vtensor<[16,2],f32>, %x: !torch.vtensor<[32,2,16],f32>, %start: !torch.vtensor<[],si64>) -> (!torch.vtensor<[16,2,16],si8>, !torch.vtensor<[16,2],f32>) {
  // CHECK: pass lower-quantized-cache-update: quantized_cache_update: tensor<32x2x16xf32> does not fit in tensor<16x2x16xi8>
  %straight = torch.constant.bool false
  %r:2 = torch.operator "torch.edgec.quantized_cache_update"(%c, %s, %x, %start, %straight) : (!torch.vtensor<[16,2,16],si8>, !torch.vtensor<[16,2],f32>, !torch.vtensor<[32,2,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> (!torch.vtensor<[16,2,16],si8>, !torch.vtensor<[16,2],f32>)
  return %r#0, %r#1 : !torch.vtensor<[16,2,16],si8>, !torch.vtensor<[16,2],f32>
}
