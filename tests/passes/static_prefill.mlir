// RUN: edgec-opt %s -p static-prefill{sizes=32/64} | filecheck %s

// One function for each size, its shapes evaluated for it; the symbols are gone, other functions
// stay.

// CHECK-LABEL: func.func @prefill_32(%{{.*}}: !torch.vtensor<[1,32],si32>)
// CHECK-NOT: torch.symbolic_int
// CHECK: torch.aten.mul.Tensor {{.*}} -> !torch.vtensor<[1,32],si32>
// CHECK: torch.aten.cat {{.*}} -> !torch.vtensor<[1,36],si32>
// CHECK-NOT: torch.bind_symbolic_shape
// CHECK-LABEL: func.func @prefill_64(%{{.*}}: !torch.vtensor<[1,64],si32>)
// CHECK: torch.aten.cat {{.*}} -> !torch.vtensor<[1,68],si32>
// CHECK-NOT: func.func @prefill(
// CHECK-LABEL: func.func @decode(%{{.*}}: !torch.vtensor<[1,1],si32>)
func.func @prefill(%tokens: !torch.vtensor<[1,?],si32>) -> !torch.vtensor<[1,1],si32> {
  %n = torch.symbolic_int "n" {min_val = 1, max_val = 8} : !torch.int
  torch.bind_symbolic_shape %tokens, [%n], affine_map<()[s0] -> (1, s0 * 32)> : !torch.vtensor<[1,?],si32>
  %product = torch.aten.mul.Tensor %tokens, %tokens : !torch.vtensor<[1,?],si32>, !torch.vtensor<[1,?],si32> -> !torch.vtensor<[1,?],si32>
  torch.bind_symbolic_shape %product, [%n], affine_map<()[s0] -> (1, s0 * 32)> : !torch.vtensor<[1,?],si32>
  %four = torch.vtensor.literal(dense<0> : tensor<1x4xsi32>) : !torch.vtensor<[1,4],si32>
  %one = torch.constant.int 1
  %zero = torch.constant.int 0
  %list = torch.prim.ListConstruct %product, %four : (!torch.vtensor<[1,?],si32>, !torch.vtensor<[1,4],si32>) -> !torch.list<vtensor>
  %longer = torch.aten.cat %list, %one : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,?],si32>
  torch.bind_symbolic_shape %longer, [%n], affine_map<()[s0] -> (1, s0 * 32 + 4)> : !torch.vtensor<[1,?],si32>
  %first = torch.aten.slice.Tensor %longer, %one, %zero, %one, %one : !torch.vtensor<[1,?],si32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1],si32>
  return %first : !torch.vtensor<[1,1],si32>
}
func.func @decode(%token: !torch.vtensor<[1,1],si32>) -> !torch.vtensor<[1,1],si32> {
  return %token : !torch.vtensor<[1,1],si32>
}
