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
  // CHECK: torch.aten.mul.Tensor %[[SB]], %[[LB]]
  %product = torch.aten.mul.Tensor %start, %length : !torch.vtensor<[],si64>, !torch.vtensor<[],si64> -> !torch.vtensor<[],si64>
  return %product : !torch.vtensor<[],si64>
}

// Sums and differences of them are computed on the host.

// CHECK-LABEL: func.func @sums
// CHECK-SAME: (%[[START:.*]]: !torch.int, %[[LENGTH:.*]]: !torch.int)
func.func @sums(%start: !torch.vtensor<[],si64>, %length: !torch.vtensor<[],si64>) -> !torch.vtensor<[],si64> {
  // CHECK-DAG: %[[S:.*]] = torch_c.to_i64 %[[START]]
  // CHECK-DAG: %[[L:.*]] = torch_c.to_i64 %[[LENGTH]]
  %one = torch.constant.int 1
  // CHECK-DAG: %[[ONE:.*]] = torch_c.to_i64 %int1
  // CHECK: %[[LAST:.*]] = arith.subi %[[L]], %[[ONE]] : i64
  %last = torch.aten.sub.Scalar %length, %one, %one : !torch.vtensor<[],si64>, !torch.int, !torch.int -> !torch.vtensor<[],si64>
  // CHECK: %[[AT:.*]] = arith.addi %[[S]], %[[LAST]] : i64
  // CHECK: %[[T:.*]] = tensor.from_elements %[[AT]] : tensor<i64>
  // CHECK: %[[B:.*]] = torch_c.from_builtin_tensor %[[T]]
  // CHECK: return %[[B]]
  %at = torch.aten.add.Tensor %start, %last, %one : !torch.vtensor<[],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[],si64>
  return %at : !torch.vtensor<[],si64>
}

// Not where another factor is asked for.

// CHECK-LABEL: func.func @twice
func.func @twice(%start: !torch.vtensor<[],si64>) -> !torch.vtensor<[],si64> {
  %two = torch.constant.int 2
  // CHECK: torch.aten.add.Tensor
  %sum = torch.aten.add.Tensor %start, %start, %two : !torch.vtensor<[],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[],si64>
  return %sum : !torch.vtensor<[],si64>
}

// Other types, and tensors that are not scalars, stay. A declaration has no body to change.

// CHECK-LABEL: func.func @others
// CHECK-SAME: (%{{.*}}: !torch.vtensor<[],si32>, %{{.*}}: !torch.vtensor<[1],si64>)
func.func @others(%a: !torch.vtensor<[],si32>, %b: !torch.vtensor<[1],si64>) {
  return
}

// CHECK: func.func private @declared(!torch.vtensor<[],si64>)
func.func private @declared(!torch.vtensor<[],si64>)
