// RUN: not edgec-opt %s -p lower-histogram 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-histogram: edgec::histogram: 0 bins of tensor<4x2xi64>
func.func @no_bins(%ids: !torch.vtensor<[4,2],si64>, %length: !torch.vtensor<[],si64>) {
  %bins = torch.constant.int 0
  %counts = torch.operator "torch.edgec.histogram"(%ids, %length, %bins) : (!torch.vtensor<[4,2],si64>, !torch.vtensor<[],si64>, !torch.int) -> !torch.vtensor<[0],si32>
  return
}
