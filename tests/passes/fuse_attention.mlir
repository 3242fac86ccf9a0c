// RUN: edgec-opt %s -p fuse-attention{kernel=x86_64_avx2} | filecheck %s

// The dispatches, at the end, state of query, key and value where their rows lie (first element,
// steps of tokens and heads), then the columns of a table of cosines, those that are rotated of query
// and key, and their norms (2: with weights).

// Norm, rotation, both updates and attention; what ends the state comes after it.
// CHECK-LABEL: func.func @decode
func.func @decode(%q: !torch.vtensor<[1,1,32],f32>, %k: !torch.vtensor<[1,1,16],f32>, %v: !torch.vtensor<[1,1,16],f32>, %cos: !torch.vtensor<[1,1,16],f32>, %sin: !torch.vtensor<[1,1,16],f32>, %w: !torch.vtensor<[16],f32>, %keys: !torch.tensor<[64,1,16],f16>, %values: !torch.tensor<[64,1,16],f16>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[1,1,2,16],f32> {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %epsilon = torch.constant.float 1.000000e-06
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i2 = torch.constant.int 2
  %i3 = torch.constant.int 3
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %end = torch.constant.int 9223372036854775807
  %last = torch.constant.int -1
  // CHECK: util.call @{{"?}}edgec.attention_step.x86_64_avx2.
  // CHECK-NOT: torch.aten.mul
  // CHECK-NOT: torch.edgec
  // CHECK-COUNT-2: torch.overwrite.tensor.contents
  %1 = torch.prim.ListConstruct %i1, %last, %i2, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %2 = torch.aten.view %q, %1 : !torch.vtensor<[1,1,32],f32>, !torch.list<int> -> !torch.vtensor<[1,1,2,16],f32>
  %3 = torch.aten.pow.Tensor_Scalar %2, %i2 : !torch.vtensor<[1,1,2,16],f32>, !torch.int -> !torch.vtensor<[1,1,2,16],f32>
  %4 = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %5 = torch.aten.mean.dim %3, %4, %true, %none : !torch.vtensor<[1,1,2,16],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,1,2,1],f32>
  %6 = torch.aten.add.Scalar %5, %epsilon, %i1 : !torch.vtensor<[1,1,2,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,1,2,1],f32>
  %7 = torch.aten.rsqrt %6 : !torch.vtensor<[1,1,2,1],f32> -> !torch.vtensor<[1,1,2,1],f32>
  %8 = torch.aten.mul.Tensor %2, %7 : !torch.vtensor<[1,1,2,16],f32>, !torch.vtensor<[1,1,2,1],f32> -> !torch.vtensor<[1,1,2,16],f32>
  %9 = torch.aten.mul.Tensor %w, %8 : !torch.vtensor<[16],f32>, !torch.vtensor<[1,1,2,16],f32> -> !torch.vtensor<[1,1,2,16],f32>
  %10 = torch.aten.transpose.int %9, %i1, %i2 : !torch.vtensor<[1,1,2,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %11 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %12 = torch.aten.view %k, %11 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %13 = torch.aten.pow.Tensor_Scalar %12, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %14 = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %15 = torch.aten.mean.dim %13, %14, %true, %none : !torch.vtensor<[1,1,1,16],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,1,1,1],f32>
  %16 = torch.aten.add.Scalar %15, %epsilon, %i1 : !torch.vtensor<[1,1,1,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,1,1,1],f32>
  %17 = torch.aten.rsqrt %16 : !torch.vtensor<[1,1,1,1],f32> -> !torch.vtensor<[1,1,1,1],f32>
  %18 = torch.aten.mul.Tensor %12, %17 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,1],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %19 = torch.aten.mul.Tensor %w, %18 : !torch.vtensor<[16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %20 = torch.aten.transpose.int %19, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %21 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %22 = torch.aten.view %v, %21 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %23 = torch.aten.transpose.int %22, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %24 = torch.aten.unsqueeze %cos, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %25 = torch.aten.unsqueeze %sin, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %26 = torch.aten.mul.Tensor %10, %24 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %27 = torch.aten.slice.Tensor %10, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %28 = torch.aten.slice.Tensor %10, %i3, %i8, %end, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %29 = torch.aten.neg %28 : !torch.vtensor<[1,2,1,8],f32> -> !torch.vtensor<[1,2,1,8],f32>
  %30 = torch.prim.ListConstruct %29, %27 : (!torch.vtensor<[1,2,1,8],f32>, !torch.vtensor<[1,2,1,8],f32>) -> !torch.list<vtensor>
  %31 = torch.aten.cat %30, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %32 = torch.aten.mul.Tensor %31, %25 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %33 = torch.aten.add.Tensor %26, %32, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,2,1,16],f32>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %34 = torch.aten.mul.Tensor %20, %24 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %35 = torch.aten.slice.Tensor %20, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %36 = torch.aten.slice.Tensor %20, %i3, %i8, %end, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %37 = torch.aten.neg %36 : !torch.vtensor<[1,1,1,8],f32> -> !torch.vtensor<[1,1,1,8],f32>
  %38 = torch.prim.ListConstruct %37, %35 : (!torch.vtensor<[1,1,1,8],f32>, !torch.vtensor<[1,1,1,8],f32>) -> !torch.list<vtensor>
  %39 = torch.aten.cat %38, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %40 = torch.aten.mul.Tensor %39, %25 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %41 = torch.aten.add.Tensor %34, %40, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %42 = torch.aten.select.int %41, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %43 = torch.aten.transpose.int %42, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %44 = torch.copy.to_vtensor %keys : !torch.vtensor<[64,1,16],f16>
  %45 = torch.operator "torch.edgec.cache_update"(%44, %43, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %46 = torch.aten.copy %44, %45, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %46 overwrites %keys : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %47 = torch.aten.select.int %23, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %48 = torch.aten.transpose.int %47, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %49 = torch.copy.to_vtensor %values : !torch.vtensor<[64,1,16],f16>
  %50 = torch.operator "torch.edgec.cache_update"(%49, %48, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %51 = torch.aten.copy %49, %50, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %51 overwrites %values : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %52 = torch.operator "torch.edgec.attention"(%33, %45, %50, %start, %none, %scale, %i0, %zero, %none, %none) : (!torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float, !torch.none, !torch.none) -> !torch.vtensor<[1,1,2,16],f32>
  return %52 : !torch.vtensor<[1,1,2,16],f32>
}

// Of many tokens attention stays an operator.
// CHECK-LABEL: func.func @prefill
func.func @prefill(%q: !torch.vtensor<[1,?,32],f32>, %k: !torch.vtensor<[1,?,16],f32>, %v: !torch.vtensor<[1,?,16],f32>, %cos: !torch.vtensor<[1,?,16],f32>, %sin: !torch.vtensor<[1,?,16],f32>, %w: !torch.vtensor<[16],f32>, %keys: !torch.tensor<[64,1,16],f16>, %values: !torch.tensor<[64,1,16],f16>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[1,?,2,16],f32> {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %epsilon = torch.constant.float 1.000000e-06
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i2 = torch.constant.int 2
  %i3 = torch.constant.int 3
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %end = torch.constant.int 9223372036854775807
  %last = torch.constant.int -1
  // CHECK: util.call @{{"?}}edgec.rotate.x86_64_avx2.
  // CHECK-NOT: torch.aten.mul
  // CHECK-NOT: cache_update
  // CHECK: torch.operator "torch.edgec.attention"
  %1 = torch.prim.ListConstruct %i1, %last, %i2, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %2 = torch.aten.view %q, %1 : !torch.vtensor<[1,?,32],f32>, !torch.list<int> -> !torch.vtensor<[1,?,2,16],f32>
  %3 = torch.aten.pow.Tensor_Scalar %2, %i2 : !torch.vtensor<[1,?,2,16],f32>, !torch.int -> !torch.vtensor<[1,?,2,16],f32>
  %4 = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %5 = torch.aten.mean.dim %3, %4, %true, %none : !torch.vtensor<[1,?,2,16],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,?,2,1],f32>
  %6 = torch.aten.add.Scalar %5, %epsilon, %i1 : !torch.vtensor<[1,?,2,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,?,2,1],f32>
  %7 = torch.aten.rsqrt %6 : !torch.vtensor<[1,?,2,1],f32> -> !torch.vtensor<[1,?,2,1],f32>
  %8 = torch.aten.mul.Tensor %2, %7 : !torch.vtensor<[1,?,2,16],f32>, !torch.vtensor<[1,?,2,1],f32> -> !torch.vtensor<[1,?,2,16],f32>
  %9 = torch.aten.mul.Tensor %w, %8 : !torch.vtensor<[16],f32>, !torch.vtensor<[1,?,2,16],f32> -> !torch.vtensor<[1,?,2,16],f32>
  %10 = torch.aten.transpose.int %9, %i1, %i2 : !torch.vtensor<[1,?,2,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,?,16],f32>
  %11 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %12 = torch.aten.view %k, %11 : !torch.vtensor<[1,?,16],f32>, !torch.list<int> -> !torch.vtensor<[1,?,1,16],f32>
  %13 = torch.aten.pow.Tensor_Scalar %12, %i2 : !torch.vtensor<[1,?,1,16],f32>, !torch.int -> !torch.vtensor<[1,?,1,16],f32>
  %14 = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %15 = torch.aten.mean.dim %13, %14, %true, %none : !torch.vtensor<[1,?,1,16],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,?,1,1],f32>
  %16 = torch.aten.add.Scalar %15, %epsilon, %i1 : !torch.vtensor<[1,?,1,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,?,1,1],f32>
  %17 = torch.aten.rsqrt %16 : !torch.vtensor<[1,?,1,1],f32> -> !torch.vtensor<[1,?,1,1],f32>
  %18 = torch.aten.mul.Tensor %12, %17 : !torch.vtensor<[1,?,1,16],f32>, !torch.vtensor<[1,?,1,1],f32> -> !torch.vtensor<[1,?,1,16],f32>
  %19 = torch.aten.mul.Tensor %w, %18 : !torch.vtensor<[16],f32>, !torch.vtensor<[1,?,1,16],f32> -> !torch.vtensor<[1,?,1,16],f32>
  %20 = torch.aten.transpose.int %19, %i1, %i2 : !torch.vtensor<[1,?,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %21 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %22 = torch.aten.view %v, %21 : !torch.vtensor<[1,?,16],f32>, !torch.list<int> -> !torch.vtensor<[1,?,1,16],f32>
  %23 = torch.aten.transpose.int %22, %i1, %i2 : !torch.vtensor<[1,?,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %24 = torch.aten.unsqueeze %cos, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %25 = torch.aten.unsqueeze %sin, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %26 = torch.aten.mul.Tensor %10, %24 : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,2,?,16],f32>
  %27 = torch.aten.slice.Tensor %10, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,2,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,?,8],f32>
  %28 = torch.aten.slice.Tensor %10, %i3, %i8, %end, %i1 : !torch.vtensor<[1,2,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,?,8],f32>
  %29 = torch.aten.neg %28 : !torch.vtensor<[1,2,?,8],f32> -> !torch.vtensor<[1,2,?,8],f32>
  %30 = torch.prim.ListConstruct %29, %27 : (!torch.vtensor<[1,2,?,8],f32>, !torch.vtensor<[1,2,?,8],f32>) -> !torch.list<vtensor>
  %31 = torch.aten.cat %30, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,2,?,16],f32>
  %32 = torch.aten.mul.Tensor %31, %25 : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,2,?,16],f32>
  %33 = torch.aten.add.Tensor %26, %32, %i1 : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,2,?,16],f32>, !torch.int -> !torch.vtensor<[1,2,?,16],f32>
  %34 = torch.aten.mul.Tensor %20, %24 : !torch.vtensor<[1,1,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,1,?,16],f32>
  %35 = torch.aten.slice.Tensor %20, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,8],f32>
  %36 = torch.aten.slice.Tensor %20, %i3, %i8, %end, %i1 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,8],f32>
  %37 = torch.aten.neg %36 : !torch.vtensor<[1,1,?,8],f32> -> !torch.vtensor<[1,1,?,8],f32>
  %38 = torch.prim.ListConstruct %37, %35 : (!torch.vtensor<[1,1,?,8],f32>, !torch.vtensor<[1,1,?,8],f32>) -> !torch.list<vtensor>
  %39 = torch.aten.cat %38, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %40 = torch.aten.mul.Tensor %39, %25 : !torch.vtensor<[1,1,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,1,?,16],f32>
  %41 = torch.aten.add.Tensor %34, %40, %i1 : !torch.vtensor<[1,1,?,16],f32>, !torch.vtensor<[1,1,?,16],f32>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %42 = torch.aten.select.int %41, %i0, %i0 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,?,16],f32>
  %43 = torch.aten.transpose.int %42, %i0, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,1,16],f32>
  %44 = torch.copy.to_vtensor %keys : !torch.vtensor<[64,1,16],f16>
  %45 = torch.operator "torch.edgec.cache_update"(%44, %43, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[?,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %46 = torch.aten.copy %44, %45, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %46 overwrites %keys : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %47 = torch.aten.select.int %23, %i0, %i0 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,?,16],f32>
  %48 = torch.aten.transpose.int %47, %i0, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,1,16],f32>
  %49 = torch.copy.to_vtensor %values : !torch.vtensor<[64,1,16],f16>
  %50 = torch.operator "torch.edgec.cache_update"(%49, %48, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[?,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %51 = torch.aten.copy %49, %50, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %51 overwrites %values : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %52 = torch.operator "torch.edgec.attention"(%33, %45, %50, %start, %none, %scale, %i0, %zero, %none, %none) : (!torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float, !torch.none, !torch.none) -> !torch.vtensor<[1,?,2,16],f32>
  return %52 : !torch.vtensor<[1,?,2,16],f32>
}

// Something else reads the query's norm: only what comes after it is fused.
// CHECK-LABEL: func.func @norm_is_read
func.func @norm_is_read(%q: !torch.vtensor<[1,1,32],f32>, %k: !torch.vtensor<[1,1,16],f32>, %v: !torch.vtensor<[1,1,16],f32>, %cos: !torch.vtensor<[1,1,16],f32>, %sin: !torch.vtensor<[1,1,16],f32>, %w: !torch.vtensor<[16],f32>, %keys: !torch.tensor<[64,1,16],f16>, %values: !torch.tensor<[64,1,16],f16>, %start: !torch.vtensor<[],si64>) -> (!torch.vtensor<[1,1,2,16],f32>, !torch.vtensor<[1,1,2,16],f32>) {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %epsilon = torch.constant.float 1.000000e-06
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i2 = torch.constant.int 2
  %i3 = torch.constant.int 3
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %end = torch.constant.int 9223372036854775807
  %last = torch.constant.int -1
  // CHECK: torch.aten.rsqrt
  // CHECK-NOT: torch.aten.rsqrt
  // CHECK: util.call @{{"?}}edgec.attention_step.x86_64_avx2.
  // CHECK-NOT: torch.edgec
  %1 = torch.prim.ListConstruct %i1, %last, %i2, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %2 = torch.aten.view %q, %1 : !torch.vtensor<[1,1,32],f32>, !torch.list<int> -> !torch.vtensor<[1,1,2,16],f32>
  %3 = torch.aten.pow.Tensor_Scalar %2, %i2 : !torch.vtensor<[1,1,2,16],f32>, !torch.int -> !torch.vtensor<[1,1,2,16],f32>
  %4 = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %5 = torch.aten.mean.dim %3, %4, %true, %none : !torch.vtensor<[1,1,2,16],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,1,2,1],f32>
  %6 = torch.aten.add.Scalar %5, %epsilon, %i1 : !torch.vtensor<[1,1,2,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,1,2,1],f32>
  %7 = torch.aten.rsqrt %6 : !torch.vtensor<[1,1,2,1],f32> -> !torch.vtensor<[1,1,2,1],f32>
  %8 = torch.aten.mul.Tensor %2, %7 : !torch.vtensor<[1,1,2,16],f32>, !torch.vtensor<[1,1,2,1],f32> -> !torch.vtensor<[1,1,2,16],f32>
  %9 = torch.aten.mul.Tensor %w, %8 : !torch.vtensor<[16],f32>, !torch.vtensor<[1,1,2,16],f32> -> !torch.vtensor<[1,1,2,16],f32>
  %10 = torch.aten.transpose.int %9, %i1, %i2 : !torch.vtensor<[1,1,2,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %11 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %12 = torch.aten.view %k, %11 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %13 = torch.aten.pow.Tensor_Scalar %12, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %14 = torch.prim.ListConstruct %last : (!torch.int) -> !torch.list<int>
  %15 = torch.aten.mean.dim %13, %14, %true, %none : !torch.vtensor<[1,1,1,16],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[1,1,1,1],f32>
  %16 = torch.aten.add.Scalar %15, %epsilon, %i1 : !torch.vtensor<[1,1,1,1],f32>, !torch.float, !torch.int -> !torch.vtensor<[1,1,1,1],f32>
  %17 = torch.aten.rsqrt %16 : !torch.vtensor<[1,1,1,1],f32> -> !torch.vtensor<[1,1,1,1],f32>
  %18 = torch.aten.mul.Tensor %12, %17 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,1],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %19 = torch.aten.mul.Tensor %w, %18 : !torch.vtensor<[16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %20 = torch.aten.transpose.int %19, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %21 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %22 = torch.aten.view %v, %21 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %23 = torch.aten.transpose.int %22, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %24 = torch.aten.unsqueeze %cos, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %25 = torch.aten.unsqueeze %sin, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %26 = torch.aten.mul.Tensor %10, %24 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %27 = torch.aten.slice.Tensor %10, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %28 = torch.aten.slice.Tensor %10, %i3, %i8, %end, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %29 = torch.aten.neg %28 : !torch.vtensor<[1,2,1,8],f32> -> !torch.vtensor<[1,2,1,8],f32>
  %30 = torch.prim.ListConstruct %29, %27 : (!torch.vtensor<[1,2,1,8],f32>, !torch.vtensor<[1,2,1,8],f32>) -> !torch.list<vtensor>
  %31 = torch.aten.cat %30, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %32 = torch.aten.mul.Tensor %31, %25 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %33 = torch.aten.add.Tensor %26, %32, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,2,1,16],f32>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %34 = torch.aten.mul.Tensor %20, %24 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %35 = torch.aten.slice.Tensor %20, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %36 = torch.aten.slice.Tensor %20, %i3, %i8, %end, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %37 = torch.aten.neg %36 : !torch.vtensor<[1,1,1,8],f32> -> !torch.vtensor<[1,1,1,8],f32>
  %38 = torch.prim.ListConstruct %37, %35 : (!torch.vtensor<[1,1,1,8],f32>, !torch.vtensor<[1,1,1,8],f32>) -> !torch.list<vtensor>
  %39 = torch.aten.cat %38, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %40 = torch.aten.mul.Tensor %39, %25 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %41 = torch.aten.add.Tensor %34, %40, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %42 = torch.aten.select.int %41, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %43 = torch.aten.transpose.int %42, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %44 = torch.copy.to_vtensor %keys : !torch.vtensor<[64,1,16],f16>
  %45 = torch.operator "torch.edgec.cache_update"(%44, %43, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %46 = torch.aten.copy %44, %45, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %46 overwrites %keys : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %47 = torch.aten.select.int %23, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %48 = torch.aten.transpose.int %47, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %49 = torch.copy.to_vtensor %values : !torch.vtensor<[64,1,16],f16>
  %50 = torch.operator "torch.edgec.cache_update"(%49, %48, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %51 = torch.aten.copy %49, %50, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %51 overwrites %values : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %52 = torch.operator "torch.edgec.attention"(%33, %45, %50, %start, %none, %scale, %i0, %zero, %none, %none) : (!torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float, !torch.none, !torch.none) -> !torch.vtensor<[1,1,2,16],f32>
  return %52, %9 : !torch.vtensor<[1,1,2,16],f32>, !torch.vtensor<[1,1,2,16],f32>
}

// Something else reads the rotated key: it is written as it is.
// CHECK-LABEL: func.func @key_is_read
func.func @key_is_read(%q: !torch.vtensor<[1,1,32],f32>, %k: !torch.vtensor<[1,1,16],f32>, %v: !torch.vtensor<[1,1,16],f32>, %cos: !torch.vtensor<[1,1,16],f32>, %sin: !torch.vtensor<[1,1,16],f32>, %w: !torch.vtensor<[16],f32>, %keys: !torch.tensor<[64,1,16],f16>, %values: !torch.tensor<[64,1,16],f16>, %start: !torch.vtensor<[],si64>) -> (!torch.vtensor<[1,1,2,16],f32>, !torch.vtensor<[1,1,1,16],f32>) {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %epsilon = torch.constant.float 1.000000e-06
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i2 = torch.constant.int 2
  %i3 = torch.constant.int 3
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %end = torch.constant.int 9223372036854775807
  %last = torch.constant.int -1
  // CHECK: torch.aten.cat
  // CHECK: util.call @{{"?}}edgec.attention_step.x86_64_avx2.
  // CHECK-NOT: torch.edgec
  %1 = torch.prim.ListConstruct %i1, %last, %i2, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %2 = torch.aten.view %q, %1 : !torch.vtensor<[1,1,32],f32>, !torch.list<int> -> !torch.vtensor<[1,1,2,16],f32>
  %3 = torch.aten.transpose.int %2, %i1, %i2 : !torch.vtensor<[1,1,2,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %4 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %5 = torch.aten.view %k, %4 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %6 = torch.aten.transpose.int %5, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %7 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %8 = torch.aten.view %v, %7 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %9 = torch.aten.transpose.int %8, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %10 = torch.aten.unsqueeze %cos, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %11 = torch.aten.unsqueeze %sin, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %12 = torch.aten.mul.Tensor %3, %10 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %13 = torch.aten.slice.Tensor %3, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %14 = torch.aten.slice.Tensor %3, %i3, %i8, %end, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %15 = torch.aten.neg %14 : !torch.vtensor<[1,2,1,8],f32> -> !torch.vtensor<[1,2,1,8],f32>
  %16 = torch.prim.ListConstruct %15, %13 : (!torch.vtensor<[1,2,1,8],f32>, !torch.vtensor<[1,2,1,8],f32>) -> !torch.list<vtensor>
  %17 = torch.aten.cat %16, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %18 = torch.aten.mul.Tensor %17, %11 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %19 = torch.aten.add.Tensor %12, %18, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,2,1,16],f32>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %20 = torch.aten.mul.Tensor %6, %10 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %21 = torch.aten.slice.Tensor %6, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %22 = torch.aten.slice.Tensor %6, %i3, %i8, %end, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %23 = torch.aten.neg %22 : !torch.vtensor<[1,1,1,8],f32> -> !torch.vtensor<[1,1,1,8],f32>
  %24 = torch.prim.ListConstruct %23, %21 : (!torch.vtensor<[1,1,1,8],f32>, !torch.vtensor<[1,1,1,8],f32>) -> !torch.list<vtensor>
  %25 = torch.aten.cat %24, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %26 = torch.aten.mul.Tensor %25, %11 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %27 = torch.aten.add.Tensor %20, %26, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %28 = torch.aten.select.int %27, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %29 = torch.aten.transpose.int %28, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %30 = torch.copy.to_vtensor %keys : !torch.vtensor<[64,1,16],f16>
  %31 = torch.operator "torch.edgec.cache_update"(%30, %29, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %32 = torch.aten.copy %30, %31, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %32 overwrites %keys : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %33 = torch.aten.select.int %9, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %34 = torch.aten.transpose.int %33, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %35 = torch.copy.to_vtensor %values : !torch.vtensor<[64,1,16],f16>
  %36 = torch.operator "torch.edgec.cache_update"(%35, %34, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %37 = torch.aten.copy %35, %36, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %37 overwrites %values : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %38 = torch.operator "torch.edgec.attention"(%19, %31, %36, %start, %none, %scale, %i0, %zero, %none, %none) : (!torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float, !torch.none, !torch.none) -> !torch.vtensor<[1,1,2,16],f32>
  return %38, %27 : !torch.vtensor<[1,1,2,16],f32>, !torch.vtensor<[1,1,1,16],f32>
}

// Of many tokens that leaves nothing worth a dispatch.
// CHECK-LABEL: func.func @key_is_read_of_many
func.func @key_is_read_of_many(%q: !torch.vtensor<[1,?,32],f32>, %k: !torch.vtensor<[1,?,16],f32>, %v: !torch.vtensor<[1,?,16],f32>, %cos: !torch.vtensor<[1,?,16],f32>, %sin: !torch.vtensor<[1,?,16],f32>, %w: !torch.vtensor<[16],f32>, %keys: !torch.tensor<[64,1,16],f16>, %values: !torch.tensor<[64,1,16],f16>, %start: !torch.vtensor<[],si64>) -> (!torch.vtensor<[1,?,2,16],f32>, !torch.vtensor<[1,1,?,16],f32>) {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %epsilon = torch.constant.float 1.000000e-06
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i2 = torch.constant.int 2
  %i3 = torch.constant.int 3
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %end = torch.constant.int 9223372036854775807
  %last = torch.constant.int -1
  // CHECK-NOT: util.call
  // CHECK-COUNT-2: torch.edgec.cache_update
  // CHECK: torch.edgec.attention
  %1 = torch.prim.ListConstruct %i1, %last, %i2, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %2 = torch.aten.view %q, %1 : !torch.vtensor<[1,?,32],f32>, !torch.list<int> -> !torch.vtensor<[1,?,2,16],f32>
  %3 = torch.aten.transpose.int %2, %i1, %i2 : !torch.vtensor<[1,?,2,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,?,16],f32>
  %4 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %5 = torch.aten.view %k, %4 : !torch.vtensor<[1,?,16],f32>, !torch.list<int> -> !torch.vtensor<[1,?,1,16],f32>
  %6 = torch.aten.transpose.int %5, %i1, %i2 : !torch.vtensor<[1,?,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %7 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %8 = torch.aten.view %v, %7 : !torch.vtensor<[1,?,16],f32>, !torch.list<int> -> !torch.vtensor<[1,?,1,16],f32>
  %9 = torch.aten.transpose.int %8, %i1, %i2 : !torch.vtensor<[1,?,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %10 = torch.aten.unsqueeze %cos, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %11 = torch.aten.unsqueeze %sin, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %12 = torch.aten.mul.Tensor %3, %10 : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,2,?,16],f32>
  %13 = torch.aten.slice.Tensor %3, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,2,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,?,8],f32>
  %14 = torch.aten.slice.Tensor %3, %i3, %i8, %end, %i1 : !torch.vtensor<[1,2,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,2,?,8],f32>
  %15 = torch.aten.neg %14 : !torch.vtensor<[1,2,?,8],f32> -> !torch.vtensor<[1,2,?,8],f32>
  %16 = torch.prim.ListConstruct %15, %13 : (!torch.vtensor<[1,2,?,8],f32>, !torch.vtensor<[1,2,?,8],f32>) -> !torch.list<vtensor>
  %17 = torch.aten.cat %16, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,2,?,16],f32>
  %18 = torch.aten.mul.Tensor %17, %11 : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,2,?,16],f32>
  %19 = torch.aten.add.Tensor %12, %18, %i1 : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,2,?,16],f32>, !torch.int -> !torch.vtensor<[1,2,?,16],f32>
  %20 = torch.aten.mul.Tensor %6, %10 : !torch.vtensor<[1,1,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,1,?,16],f32>
  %21 = torch.aten.slice.Tensor %6, %i3, %i0, %i8, %i1 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,8],f32>
  %22 = torch.aten.slice.Tensor %6, %i3, %i8, %end, %i1 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,8],f32>
  %23 = torch.aten.neg %22 : !torch.vtensor<[1,1,?,8],f32> -> !torch.vtensor<[1,1,?,8],f32>
  %24 = torch.prim.ListConstruct %23, %21 : (!torch.vtensor<[1,1,?,8],f32>, !torch.vtensor<[1,1,?,8],f32>) -> !torch.list<vtensor>
  %25 = torch.aten.cat %24, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %26 = torch.aten.mul.Tensor %25, %11 : !torch.vtensor<[1,1,?,16],f32>, !torch.vtensor<[1,1,?,16],f32> -> !torch.vtensor<[1,1,?,16],f32>
  %27 = torch.aten.add.Tensor %20, %26, %i1 : !torch.vtensor<[1,1,?,16],f32>, !torch.vtensor<[1,1,?,16],f32>, !torch.int -> !torch.vtensor<[1,1,?,16],f32>
  %28 = torch.aten.select.int %27, %i0, %i0 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,?,16],f32>
  %29 = torch.aten.transpose.int %28, %i0, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,1,16],f32>
  %30 = torch.copy.to_vtensor %keys : !torch.vtensor<[64,1,16],f16>
  %31 = torch.operator "torch.edgec.cache_update"(%30, %29, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[?,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %32 = torch.aten.copy %30, %31, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %32 overwrites %keys : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %33 = torch.aten.select.int %9, %i0, %i0 : !torch.vtensor<[1,1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,?,16],f32>
  %34 = torch.aten.transpose.int %33, %i0, %i1 : !torch.vtensor<[1,?,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,1,16],f32>
  %35 = torch.copy.to_vtensor %values : !torch.vtensor<[64,1,16],f16>
  %36 = torch.operator "torch.edgec.cache_update"(%35, %34, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[?,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %37 = torch.aten.copy %35, %36, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %37 overwrites %values : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %38 = torch.operator "torch.edgec.attention"(%19, %31, %36, %start, %none, %scale, %i0, %zero, %none, %none) : (!torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float, !torch.none, !torch.none) -> !torch.vtensor<[1,?,2,16],f32>
  return %38, %27 : !torch.vtensor<[1,?,2,16],f32>, !torch.vtensor<[1,1,?,16],f32>
}

// Columns that turn with their neighbour: the rotation stays generated code.
// CHECK-LABEL: func.func @interleaved
func.func @interleaved(%q: !torch.vtensor<[1,1,32],f32>, %k: !torch.vtensor<[1,1,16],f32>, %v: !torch.vtensor<[1,1,16],f32>, %cos: !torch.vtensor<[1,1,16],f32>, %sin: !torch.vtensor<[1,1,16],f32>, %w: !torch.vtensor<[16],f32>, %keys: !torch.tensor<[64,1,16],f16>, %values: !torch.tensor<[64,1,16],f16>, %start: !torch.vtensor<[],si64>) -> !torch.vtensor<[1,1,2,16],f32> {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %epsilon = torch.constant.float 1.000000e-06
  %scale = torch.constant.float 2.500000e-01
  %zero = torch.constant.float 0.000000e+00
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i2 = torch.constant.int 2
  %i3 = torch.constant.int 3
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %end = torch.constant.int 9223372036854775807
  %last = torch.constant.int -1
  // CHECK-COUNT-2: torch.aten.stack
  // CHECK: util.call @{{"?}}edgec.attention_step.x86_64_avx2.
  // CHECK-NOT: torch.edgec
  %1 = torch.prim.ListConstruct %i1, %last, %i2, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %2 = torch.aten.view %q, %1 : !torch.vtensor<[1,1,32],f32>, !torch.list<int> -> !torch.vtensor<[1,1,2,16],f32>
  %3 = torch.aten.transpose.int %2, %i1, %i2 : !torch.vtensor<[1,1,2,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %4 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %5 = torch.aten.view %k, %4 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %6 = torch.aten.transpose.int %5, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %7 = torch.prim.ListConstruct %i1, %last, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %8 = torch.aten.view %v, %7 : !torch.vtensor<[1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %9 = torch.aten.transpose.int %8, %i1, %i2 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %10 = torch.aten.unsqueeze %cos, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %11 = torch.aten.unsqueeze %sin, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %12 = torch.prim.ListConstruct %i1, %i2, %i1, %i8, %i2 : (!torch.int, !torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %13 = torch.aten.view %3, %12 : !torch.vtensor<[1,2,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,2,1,8,2],f32>
  %14 = torch.aten.select.int %13, %last, %i0 : !torch.vtensor<[1,2,1,8,2],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %15 = torch.aten.select.int %13, %last, %i1 : !torch.vtensor<[1,2,1,8,2],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,2,1,8],f32>
  %16 = torch.aten.neg %15 : !torch.vtensor<[1,2,1,8],f32> -> !torch.vtensor<[1,2,1,8],f32>
  %17 = torch.prim.ListConstruct %16, %14 : (!torch.vtensor<[1,2,1,8],f32>, !torch.vtensor<[1,2,1,8],f32>) -> !torch.list<vtensor>
  %18 = torch.aten.stack %17, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,2,1,8,2],f32>
  %19 = torch.prim.ListConstruct %i1, %i2, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %20 = torch.aten.view %18, %19 : !torch.vtensor<[1,2,1,8,2],f32>, !torch.list<int> -> !torch.vtensor<[1,2,1,16],f32>
  %21 = torch.aten.mul.Tensor %3, %10 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %22 = torch.aten.mul.Tensor %20, %11 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,2,1,16],f32>
  %23 = torch.aten.add.Tensor %21, %22, %i1 : !torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[1,2,1,16],f32>, !torch.int -> !torch.vtensor<[1,2,1,16],f32>
  %24 = torch.prim.ListConstruct %i1, %i1, %i1, %i8, %i2 : (!torch.int, !torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %25 = torch.aten.view %6, %24 : !torch.vtensor<[1,1,1,16],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,8,2],f32>
  %26 = torch.aten.select.int %25, %last, %i0 : !torch.vtensor<[1,1,1,8,2],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %27 = torch.aten.select.int %25, %last, %i1 : !torch.vtensor<[1,1,1,8,2],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,1,8],f32>
  %28 = torch.aten.neg %27 : !torch.vtensor<[1,1,1,8],f32> -> !torch.vtensor<[1,1,1,8],f32>
  %29 = torch.prim.ListConstruct %28, %26 : (!torch.vtensor<[1,1,1,8],f32>, !torch.vtensor<[1,1,1,8],f32>) -> !torch.list<vtensor>
  %30 = torch.aten.stack %29, %last : !torch.list<vtensor>, !torch.int -> !torch.vtensor<[1,1,1,8,2],f32>
  %31 = torch.prim.ListConstruct %i1, %i1, %i1, %i16 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %32 = torch.aten.view %30, %31 : !torch.vtensor<[1,1,1,8,2],f32>, !torch.list<int> -> !torch.vtensor<[1,1,1,16],f32>
  %33 = torch.aten.mul.Tensor %6, %10 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %34 = torch.aten.mul.Tensor %32, %11 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32> -> !torch.vtensor<[1,1,1,16],f32>
  %35 = torch.aten.add.Tensor %33, %34, %i1 : !torch.vtensor<[1,1,1,16],f32>, !torch.vtensor<[1,1,1,16],f32>, !torch.int -> !torch.vtensor<[1,1,1,16],f32>
  %36 = torch.aten.select.int %35, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %37 = torch.aten.transpose.int %36, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %38 = torch.copy.to_vtensor %keys : !torch.vtensor<[64,1,16],f16>
  %39 = torch.operator "torch.edgec.cache_update"(%38, %37, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %40 = torch.aten.copy %38, %39, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %40 overwrites %keys : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %41 = torch.aten.select.int %9, %i0, %i0 : !torch.vtensor<[1,1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %42 = torch.aten.transpose.int %41, %i0, %i1 : !torch.vtensor<[1,1,16],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,1,16],f32>
  %43 = torch.copy.to_vtensor %values : !torch.vtensor<[64,1,16],f16>
  %44 = torch.operator "torch.edgec.cache_update"(%43, %42, %start, %false) : (!torch.vtensor<[64,1,16],f16>, !torch.vtensor<[1,1,16],f32>, !torch.vtensor<[],si64>, !torch.bool) -> !torch.vtensor<[64,1,16],f16>
  %45 = torch.aten.copy %43, %44, %false : !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.bool -> !torch.vtensor<[64,1,16],f16>
  torch.overwrite.tensor.contents %45 overwrites %values : !torch.vtensor<[64,1,16],f16>, !torch.tensor<[64,1,16],f16>
  %46 = torch.operator "torch.edgec.attention"(%23, %39, %44, %start, %none, %scale, %i0, %zero, %none, %none) : (!torch.vtensor<[1,2,1,16],f32>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[64,1,16],f16>, !torch.vtensor<[],si64>, !torch.none, !torch.float, !torch.int, !torch.float, !torch.none, !torch.none) -> !torch.vtensor<[1,1,2,16],f32>
  return %46 : !torch.vtensor<[1,1,2,16],f32>
}

// CHECK: stream.executable private @edgec_attention
// CHECK-SAME: attention_x86_64_avx2.o
// decode
// CHECK: flow.dispatch @edgec_attention::@attention_step_f16[
// CHECK-SAME: ](%arg0, %arg1, %arg2, %arg3, %arg4, %arg5, %arg6, %arg7, %arg8, %arg1, %arg1, %arg1,
// CHECK-SAME: %{{.*}}, %c2, %c1, %c16, %c16, %c64, %c0, %c32, %c16, %c0, %c16, %c16, %c0, %c16, %c16, %c16, %c16, %c16, %c2, %c2, %c0, %c0, %c1, %cst, %cst_0, %cst_1, %cst_1)
// CHECK-SAME: -> (tensor<1x1x2x16xf32>, %arg7, %arg8)
// prefill
// CHECK: flow.dispatch @edgec_attention::@rotate_f16[
// CHECK-SAME: ](%arg0, %arg1, %arg2, %arg3, %arg4, %arg5, %arg6, %arg7, %arg8, %arg1, %arg1,
// CHECK-SAME: %{{.*}}, %{{.*}}, %c2, %c1, %c16, %c16, %c64, %c0, %c32, %c16, %c0, %c16, %c16, %c0, %c16, %c16, %c16, %c16, %c16, %c2, %c2, %c4, %cst, %cst)
// CHECK-SAME: -> (tensor<1x2x?x16xf32>{%{{.*}}}, %arg7, %arg8)
// norm_is_read
// CHECK: flow.dispatch @edgec_attention::@attention_step_f16[
// CHECK-SAME: ](%arg0, %arg1, %arg2, %arg3, %arg4, %arg1, %arg5, %arg6, %arg7, %arg1, %arg1, %arg1,
// CHECK-SAME: %{{.*}}, %c2, %c1, %c16, %c16, %c64, %c0, %c32, %c16, %c0, %c16, %c16, %c0, %c16, %c16, %c16, %c16, %c16, %c0, %c2, %c0, %c0, %c1, %cst, %cst_0, %cst_0, %cst_1)
// CHECK-SAME: -> (tensor<1x1x2x16xf32>, %arg6, %arg7)
// key_is_read
// CHECK: flow.dispatch @edgec_attention::@attention_step_f16[
// CHECK-SAME: ](%arg0, %arg1, %arg2, %arg3, %arg4, %arg1, %arg1, %arg5, %arg6, %arg1, %arg1, %arg1,
// CHECK-SAME: %{{.*}}, %c2, %c1, %c16, %c16, %c64, %c0, %c32, %c16, %c0, %c16, %c16, %c0, %c16, %c16, %c16, %c16, %c0, %c0, %c0, %c0, %c0, %c1, %cst, %cst_0, %cst_0, %cst_0)
// CHECK-SAME: -> (tensor<1x1x2x16xf32>, %arg5, %arg6)
// interleaved
// CHECK: flow.dispatch @edgec_attention::@attention_step_f16[
// CHECK-SAME: ](%arg0, %arg1, %arg2, %arg1, %arg1, %arg1, %arg1, %arg3, %arg4, %arg1, %arg1, %arg1,
// CHECK-SAME: %{{.*}}, %c2, %c1, %c16, %c16, %c64, %c0, %c16, %c16, %c0, %c16, %c16, %c0, %c16, %c16, %c0, %c0, %c0, %c0, %c0, %c0, %c0, %c1, %cst, %cst_0, %cst_0, %cst_0)
// CHECK-SAME: -> (tensor<1x1x2x16xf32>, %arg3, %arg4)
