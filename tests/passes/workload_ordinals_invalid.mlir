// RUN: not edgec-opt %s -p workload-ordinals 2>&1 | filecheck %s

// Nothing calls the dispatch, so nothing tells which size number 0 is.
// CHECK: pass workload-ordinals: last::f: cannot tell which size a dispatch means
stream.executable private @last {
  stream.executable.export public @f workgroups(%depth: index, %n: index) -> (index, index, index) {
    %x, %y, %z = iree_tensor_ext.dispatch.workgroup_count_from_slice(%depth, %n, %n)
    stream.return %x, %y, %z : index, index, index
  }
  builtin.module {
    func.func @f(%out: !stream.binding, %depth: i32) {
      %0 = arith.index_castui %depth : i32 to index
      %1 = iree_tensor_ext.dispatch.workload.ordinal %0, 0 : index
      return
    }
  }
}
