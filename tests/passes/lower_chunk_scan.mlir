// RUN: edgec-opt %s -p lower-chunk-scan | filecheck %s

// One loop over chunks that carries the results and the state; a turn is three products, and a
// fourth where the delta rule erases.

// CHECK-LABEL: func.func @plain
// CHECK: util.call @edgec.chunk_scan.dx4x32x16xf32.dx4x32x24xf32(
// CHECK-NOT: torch.operator
func.func @plain(%q: !torch.vtensor<[?,4,32,16],f32>, %k: !torch.vtensor<[?,4,32,16],f32>, %v: !torch.vtensor<[?,4,32,24],f32>, %a: !torch.vtensor<[?,4,32,32],f32>, %d: !torch.vtensor<[?,4,16],f32>, %s: !torch.vtensor<[4,16,24],f32>) -> (!torch.vtensor<[?,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>) {
  %e = torch.constant.none
  %r:2 = torch.operator "torch.edgec.chunk_scan"(%q, %k, %v, %e, %a, %d, %s) : (!torch.vtensor<[?,4,32,16],f32>, !torch.vtensor<[?,4,32,16],f32>, !torch.vtensor<[?,4,32,24],f32>, !torch.none, !torch.vtensor<[?,4,32,32],f32>, !torch.vtensor<[?,4,16],f32>, !torch.vtensor<[4,16,24],f32>) -> (!torch.vtensor<[?,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>)
  return %r#0, %r#1 : !torch.vtensor<[?,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>
}

// CHECK-LABEL: func.func @delta
// CHECK: util.call @edgec.chunk_scan.3x4x32x16xf32.3x4x32x24xf32.delta(
func.func @delta(%q: !torch.vtensor<[3,4,32,16],f32>, %k: !torch.vtensor<[3,4,32,16],f32>, %v: !torch.vtensor<[3,4,32,24],f32>, %e: !torch.vtensor<[3,4,32,16],f32>, %a: !torch.vtensor<[3,4,32,32],f32>, %d: !torch.vtensor<[3,4,16],f32>, %s: !torch.vtensor<[4,16,24],f32>) -> (!torch.vtensor<[3,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>) {
  %r:2 = torch.operator "torch.edgec.chunk_scan"(%q, %k, %v, %e, %a, %d, %s) : (!torch.vtensor<[3,4,32,16],f32>, !torch.vtensor<[3,4,32,16],f32>, !torch.vtensor<[3,4,32,24],f32>, !torch.vtensor<[3,4,32,16],f32>, !torch.vtensor<[3,4,32,32],f32>, !torch.vtensor<[3,4,16],f32>, !torch.vtensor<[4,16,24],f32>) -> (!torch.vtensor<[3,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>)
  return %r#0, %r#1 : !torch.vtensor<[3,4,32,24],f32>, !torch.vtensor<[4,16,24],f32>
}

// CHECK: util.func private @edgec.chunk_scan.dx4x32x16xf32.dx4x32x24xf32(
// CHECK: scf.for %[[I:.*]] = %{{.*}} to %{{.*}} step %{{.*}} iter_args(%[[OUT:.*]] = %{{.*}}, %[[S:.*]] = %{{.*}}) -> (tensor<?x4x32x24xf32>, tensor<4x16x24xf32>)
// CHECK-NOT: arith.subf
// CHECK-COUNT-3: "reduction"
// CHECK: tensor.insert_slice %{{.*}} into %[[OUT]][%[[I]], 0, 0, 0] [1, 4, 32, 24]
// CHECK: util.func private @edgec.chunk_scan.3x4x32x16xf32.3x4x32x24xf32.delta(
// CHECK: arith.subf
// CHECK-COUNT-3: "reduction"
