// RUN: not edgec-opt %s -p lower-quantized-linear 2>&1 | filecheck %s

// The weights have the bytes of neither 8 nor 4 bits a column.
// CHECK: pass lower-quantized-linear: quantized_linear: x
func.func @wrong(%x: !torch.vtensor<[1,1,64],f32>, %w: !torch.vtensor<[1,4,16,4],si8>, %s: !torch.vtensor<[1,2,16],f16>) -> !torch.vtensor<[1,1,16],f32> {
  %none = torch.constant.none
  %n = torch.constant.int 16
  %y = torch.operator "torch.edgec.quantized_linear"(%x, %w, %s, %none, %n) : (!torch.vtensor<[1,1,64],f32>, !torch.vtensor<[1,4,16,4],si8>, !torch.vtensor<[1,2,16],f16>, !torch.none, !torch.int) -> !torch.vtensor<[1,1,16],f32>
  return %y : !torch.vtensor<[1,1,16],f32>
}
