// RUN: not edgec-opt %s -p lower-cache-update 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-cache-update: expected a !torch.vtensor with known rank, got !torch.int
func.func @start_by_value(%cache: !torch.vtensor<[160,2,16],f32>, %new: !torch.vtensor<[1,2,16],f32>, %start: !torch.int) {
  %straight = torch.constant.bool false
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start, %straight) : (!torch.vtensor<[160,2,16],f32>, !torch.vtensor<[1,2,16],f32>, !torch.int, !torch.bool) -> !torch.vtensor<[160,2,16],f32>
  return
}

// -----

// CHECK: edgec-opt: error: pass lower-cache-update: cache_update: tensor<17x2x16xf32> does not fit in tensor<16x2x16xf32>
func.func @more_rows_than_the_buffer(%cache: !torch.vtensor<[16,2,16],f32>, %new: !torch.vtensor<[17,2,16],f32>, %start: !torch.vtensor<[],si64>) {
  %straight = torch.constant.bool false
  %r = torch.operator "torch.edgec.cache_update"(%cache, %new, %start, %straight) : (!torch.vtensor<[16,2,16],f32>, !torch.vtensor<[17,2,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[16,2,16],f32>
  return
}
