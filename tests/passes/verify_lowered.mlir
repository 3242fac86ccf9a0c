// RUN: edgec-opt %s -p verify-lowered | filecheck %s

// Operators of torch itself are IREE's to lower; the module stays as it is.

// CHECK-LABEL: func.func @relu
// CHECK: %[[R:.*]] = torch.aten.relu
// CHECK-NEXT: return %[[R]]
func.func @relu(%x: !torch.vtensor<[4],f32>) -> !torch.vtensor<[4],f32> {
  %r = torch.aten.relu %x : !torch.vtensor<[4],f32> -> !torch.vtensor<[4],f32>
  return %r : !torch.vtensor<[4],f32>
}
