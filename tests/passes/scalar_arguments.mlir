// RUN: edgec-opt %s -p scalar-arguments | filecheck %s

// Scalars of type i64 are passed by value; where the body wants a tensor it gets one made of it.

// CHECK-LABEL: func.func @prefill
// CHECK-SAME: (%[[TOKENS:.*]]: !torch.vtensor<[1,?],si32>, %[[START:.*]]: !torch.int, %[[LENGTH:.*]]: !torch.int)
func.func @prefill(%tokens: !torch.vtensor<[1,?],si32>, %start: !torch.vtensor<[],si64>,
                   %length: !torch.vtensor<[],si64>) -> !torch.vtensor<[],si64> {
  // CHECK-DAG: %[[S:.*]] = torch_c.to_i64 %[[START]]
  // CHECK-DAG: %[[ST:.*]] = tensor.from_elements %[[S]] : tensor<i64>
  // CHECK-DAG: %[[SB:.*]] = torch_c.from_builtin_tensor %[[ST]] : tensor<i64> -> !torch.vtensor<[],si64>
  // CHECK-DAG: %[[L:.*]] = torch_c.to_i64 %[[LENGTH]]
  // CHECK-DAG: %[[LT:.*]] = tensor.from_elements %[[L]] : tensor<i64>
  // CHECK-DAG: %[[LB:.*]] = torch_c.from_builtin_tensor %[[LT]] : tensor<i64> -> !torch.vtensor<[],si64>
  %one = torch.constant.int 1
  // CHECK: torch.aten.add.Tensor %[[SB]], %[[LB]]
  %end = torch.aten.add.Tensor %start, %length, %one : !torch.vtensor<[],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[],si64>
  return %end : !torch.vtensor<[],si64>
}

// Other types, and tensors that are not scalars, stay. A declaration has no body to change.

// CHECK-LABEL: func.func @others
// CHECK-SAME: (%{{.*}}: !torch.vtensor<[],si32>, %{{.*}}: !torch.vtensor<[1],si64>)
func.func @others(%a: !torch.vtensor<[],si32>, %b: !torch.vtensor<[1],si64>) {
  return
}

// CHECK: func.func private @declared(!torch.vtensor<[],si64>)
func.func private @declared(!torch.vtensor<[],si64>)
