// RUN: edgec-opt %s -p scalar-arguments,row-slices | filecheck %s

// The row of the last token: its position is known on the host.

// CHECK-LABEL: func.func @last
// CHECK-SAME: (%[[X:.*]]: !torch.vtensor<[1,?,64],f32>, %[[LENGTH:.*]]: !torch.int)
func.func @last(%x: !torch.vtensor<[1,?,64],f32>, %length: !torch.vtensor<[],si64>) -> !torch.vtensor<[1,1,64],f32> {
  // CHECK: %[[L:.*]] = torch_c.to_i64 %[[LENGTH]]
  // CHECK: %[[LAST:.*]] = arith.subi %[[L]]
  // CHECK: %[[T:.*]] = torch_c.to_builtin_tensor %[[X]] : !torch.vtensor<[1,?,64],f32> -> tensor<1x?x64xf32>
  // CHECK: %[[I:.*]] = arith.index_cast %[[LAST]] : i64 to index
  // CHECK: %[[S:.*]] = tensor.extract_slice %[[T]][0, %[[I]], 0] [1, 1, 64] [1, 1, 1] : tensor<1x?x64xf32> to tensor<1x1x64xf32>
  // CHECK: %[[R:.*]] = torch_c.from_builtin_tensor %[[S]]
  // CHECK: return %[[R]]
  %none = torch.constant.none
  %one = torch.constant.int 1
  %last = torch.aten.sub.Scalar %length, %one, %one : !torch.vtensor<[],si64>, !torch.int, !torch.int -> !torch.vtensor<[],si64>
  %sizes = torch.prim.ListConstruct %one : (!torch.int) -> !torch.list<int>
  %index = torch.aten.view %last, %sizes : !torch.vtensor<[],si64>, !torch.list<int> -> !torch.vtensor<[1],si64>
  %indices = torch.prim.ListConstruct %none, %index : (!torch.none, !torch.vtensor<[1],si64>) -> !torch.list<optional<vtensor>>
  %row = torch.aten.index.Tensor %x, %indices : !torch.vtensor<[1,?,64],f32>, !torch.list<optional<vtensor>> -> !torch.vtensor<[1,1,64],f32>
  return %row : !torch.vtensor<[1,1,64],f32>
}

// What the device chose stays a gather.

// CHECK-LABEL: func.func @chosen
func.func @chosen(%x: !torch.vtensor<[1,?,64],f32>, %index: !torch.vtensor<[1],si64>) -> !torch.vtensor<[1,1,64],f32> {
  // CHECK: torch.aten.index.Tensor
  %none = torch.constant.none
  %indices = torch.prim.ListConstruct %none, %index : (!torch.none, !torch.vtensor<[1],si64>) -> !torch.list<optional<vtensor>>
  %row = torch.aten.index.Tensor %x, %indices : !torch.vtensor<[1,?,64],f32>, !torch.list<optional<vtensor>> -> !torch.vtensor<[1,1,64],f32>
  return %row : !torch.vtensor<[1,1,64],f32>
}
