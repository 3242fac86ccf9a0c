// RUN: edgec-opt %s -p workload-ordinals | filecheck %s

// What IREE leaves of `[%n, %n, %depth]`: inside, %depth is number 1, for the count number 2.
// CHECK-LABEL: stream.executable private @twice
stream.executable private @twice {
  // CHECK: workgroups(%[[N:.*]]: index, %[[DEPTH:.*]]: index)
  // CHECK-NEXT: workgroup_count_from_slice(%[[N]], %[[DEPTH]])
  stream.executable.export public @f workgroups(%n: index, %depth: index) -> (index, index, index) {
    %x, %y, %z = iree_tensor_ext.dispatch.workgroup_count_from_slice(%n, %n, %depth)
    stream.return %x, %y, %z : index, index, index
  }
  builtin.module {
    func.func @f(%out: !stream.binding, %n: i32, %depth: i32) {
      %0 = arith.index_castui %n : i32 to index
      %1 = arith.index_castui %depth : i32 to index
      // CHECK: dispatch.workload.ordinal %{{.*}}, 0
      // CHECK-NEXT: dispatch.workload.ordinal %{{.*}}, 0
      // CHECK-NEXT: dispatch.workload.ordinal %{{.*}}, 1
      %2 = iree_tensor_ext.dispatch.workload.ordinal %0, 0 : index
      %3 = iree_tensor_ext.dispatch.workload.ordinal %0, 0 : index
      %4 = iree_tensor_ext.dispatch.workload.ordinal %1, 1 : index
      return
    }
  }
}

// -----

// Of `[%depth, %n, %n]` the last is numbered 0 inside, though it is %n: its value in the call tells.
// CHECK-LABEL: stream.executable private @last
stream.executable private @last {
  // CHECK: workgroups(%[[DEPTH:.*]]: index, %[[N:.*]]: index)
  // CHECK-NEXT: workgroup_count_from_slice(%[[DEPTH]], %[[N]])
  stream.executable.export public @f workgroups(%depth: index, %n: index) -> (index, index, index) {
    %x, %y, %z = iree_tensor_ext.dispatch.workgroup_count_from_slice(%depth, %n, %n)
    stream.return %x, %y, %z : index, index, index
  }
  builtin.module {
    // CHECK: func.func @f(%{{.*}}, %[[I:.*]]: i32, %[[J:.*]]: i32, %{{.*}}: i32)
    func.func @f(%out: !stream.binding, %depth: i32, %low: i32, %high: i32) {
      %c32 = arith.constant 32 : i64
      // CHECK: %[[D:.*]] = arith.index_castui %[[I]]
      %0 = arith.index_castui %depth : i32 to index
      %1 = arith.extui %low : i32 to i64
      %2 = arith.extui %high : i32 to i64
      %3 = arith.shli %2, %c32 : i64
      %4 = arith.ori %1, %3 : i64
      // CHECK: %[[N:.*]] = arith.index_castui %{{.*}} : i64
      %5 = arith.index_castui %4 : i64 to index
      // CHECK: %[[A:.*]]:2 = util.assume.int
      %6:2 = util.assume.int %0<umin = 32>, %5<umin = 32> : index, index
      // CHECK: dispatch.workload.ordinal %[[A]]#0, 0
      // CHECK-NEXT: dispatch.workload.ordinal %[[A]]#1, 1
      // CHECK-NEXT: dispatch.workload.ordinal %[[N]], 1
      %7 = iree_tensor_ext.dispatch.workload.ordinal %6#0, 0 : index
      %8 = iree_tensor_ext.dispatch.workload.ordinal %6#1, 1 : index
      %9 = iree_tensor_ext.dispatch.workload.ordinal %5, 0 : index
      return
    }
  }
}
util.func public @call(%device: !stream.resource<external>, %depth: index, %n: index) -> !stream.timepoint {
  %c0 = arith.constant 0 : index
  %c32 = arith.constant 32 : i64
  %c64 = arith.constant 64 : index
  %0 = arith.index_castui %depth : index to i32
  %1 = arith.index_castui %n : index to i64
  %2 = arith.trunci %1 : i64 to i32
  %3 = arith.shrui %1, %c32 : i64
  %4 = arith.trunci %3 : i64 to i32
  %done = stream.cmd.execute with(%device as %out: !stream.resource<external>{%c64}) {
    stream.cmd.dispatch @last::@f[%depth, %n](%0, %2, %4 : i32, i32, i32) {
      wo %out[%c0 for %c64] : !stream.resource<external>{%c64}
    }
  } => !stream.timepoint
  util.return %done : !stream.timepoint
}

// -----

// Sizes that differ stay as they are.
// CHECK-LABEL: stream.executable private @once
stream.executable private @once {
  // CHECK: workgroup_count_from_slice(%{{.*}}, %{{.*}})
  stream.executable.export public @f workgroups(%a: index, %b: index) -> (index, index, index) {
    %x, %y, %z = iree_tensor_ext.dispatch.workgroup_count_from_slice(%a, %b)
    stream.return %x, %y, %z : index, index, index
  }
  builtin.module {
    func.func @f(%out: !stream.binding, %a: i32, %b: i32) {
      %0 = arith.index_castui %b : i32 to index
      // CHECK: dispatch.workload.ordinal %{{.*}}, 1
      %1 = iree_tensor_ext.dispatch.workload.ordinal %0, 1 : index
      return
    }
  }
}
