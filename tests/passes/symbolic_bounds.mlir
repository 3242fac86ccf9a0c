// RUN: edgec-opt %s -p symbolic-bounds | filecheck %s

// A prompt of 32 tokens has n = 1. What torch.export says of n is mended; the bound of the
// dimension itself, and those that were stated on purpose, stay.

// CHECK-LABEL: func.func @prompt
func.func @prompt(%tokens: !torch.vtensor<[1,?],si32>) -> !torch.vtensor<[1,?],si32> {
  // CHECK: torch.symbolic_int "32*n" {min_val = 32, max_val = 256}
  %length = torch.symbolic_int "32*n" {min_val = 32, max_val = 256} : !torch.int
  // CHECK: torch.symbolic_int "n" {min_val = 1, max_val = 8}
  %n = torch.symbolic_int "n" {min_val = 2, max_val = 8} : !torch.int
  // CHECK: torch.symbolic_int "m" {min_val = 3, max_val = 8}
  %m = torch.symbolic_int "m" {min_val = 3, max_val = 8} : !torch.int
  // CHECK: torch.bind_symbolic_shape %{{.*}}, [%{{.*}}], affine_map<()[s0] -> (1, s0 * 32)>
  torch.bind_symbolic_shape %tokens, [%n], affine_map<()[s0] -> (1, s0 * 32)> : !torch.vtensor<[1,?],si32>
  return %tokens : !torch.vtensor<[1,?],si32>
}
