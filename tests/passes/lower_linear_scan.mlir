// RUN: edgec-opt %s -p lower-linear-scan | filecheck %s

// Channels are parallel, tokens a reduction of the state, which starts as it was.

// CHECK-LABEL: func.func @scan
func.func @scan(%a: !torch.vtensor<[?,48],f32>, %b: !torch.vtensor<[?,48],f32>, %s: !torch.vtensor<[48],f32>) -> (!torch.vtensor<[?,48],f32>, !torch.vtensor<[48],f32>) {
  // CHECK: util.call @edgec.linear_scan.dx48xf32
  // CHECK-NOT: torch.operator
  %r:2 = torch.operator "torch.edgec.linear_scan"(%a, %b, %s) : (!torch.vtensor<[?,48],f32>, !torch.vtensor<[?,48],f32>, !torch.vtensor<[48],f32>) -> (!torch.vtensor<[?,48],f32>, !torch.vtensor<[48],f32>)
  return %r#0, %r#1 : !torch.vtensor<[?,48],f32>, !torch.vtensor<[48],f32>
}

// CHECK: util.func private @edgec.linear_scan.dx48xf32(%{{.*}}: tensor<?x48xf32>, %{{.*}}: tensor<?x48xf32>, %[[STATE:.*]]: tensor<48xf32>)
// CHECK: linalg.generic {{.*}}iterator_types = ["parallel", "reduction"]} ins({{.*}}) outs(%{{.*}}, %[[STATE]] : tensor<?x48xf32>, tensor<48xf32>)
// CHECK: arith.mulf
// CHECK-NEXT: arith.addf
