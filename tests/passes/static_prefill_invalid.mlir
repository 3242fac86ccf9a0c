// RUN: not edgec-opt %s -p static-prefill{sizes=48} 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass static-prefill: a prompt of 48 tokens is not one of s0 * 32
func.func @prefill(%tokens: !torch.vtensor<[1,?],si32>) -> !torch.vtensor<[1,?],si32> {
  %n = torch.symbolic_int "n" {min_val = 1, max_val = 8} : !torch.int
  torch.bind_symbolic_shape %tokens, [%n], affine_map<()[s0] -> (1, s0 * 32)> : !torch.vtensor<[1,?],si32>
  return %tokens : !torch.vtensor<[1,?],si32>
}

// -----

// CHECK: edgec-opt: error: pass static-prefill: the prompt's length is not symbolic
func.func @prefill(%tokens: !torch.vtensor<[1,32],si32>) -> !torch.vtensor<[1,32],si32> {
  return %tokens : !torch.vtensor<[1,32],si32>
}
