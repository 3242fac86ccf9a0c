// RUN: not edgec-opt %s -p lower-chunk-scan 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass lower-chunk-scan: chunk_scan: only chunks may be many: tensor<?x4x?x16xf32>
func.func @chunks_of_any_length(%q: !torch.vtensor<[?,4,?,16],f32>, %v: !torch.vtensor<[?,4,32,24],f32>, %a: !torch.vtensor<[?,4,32,32],f32>, %d: !torch.vtensor<[?,4,16],f32>, %s: !torch.vtensor<[4,16,24],f32>) {
  %e = torch.constant.none
  %r:2 = torch.operator "torch.edgec.chunk_scan"(%q, %q, %v, %e, %a, %d, %s) : (!torch.vtensor<[?,4,?,16],f32>, !torch.vtensor<[?,4,?,16],f32>, !torch.vtensor<[?,4,32,24],f32>, !torch.none, !torch.vtensor<[?,4,32,32],f32>, !torch.vtensor<[?,4,16],f32>, !torch.vtensor<[4,16,24],f32>) -> (!torch.vtensor<[?,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>)
  return
}
