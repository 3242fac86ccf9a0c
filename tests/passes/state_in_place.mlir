// RUN: edgec-opt %s -p state-in-place | filecheck %s

// The alias moves up to the update, what comes after reads the aliased value, and the barrier
// keeps only what no alias gives.

// CHECK-LABEL: util.func public @decode$async
util.func public @decode$async(%token: !hal.buffer_view, %cache: !hal.buffer_view, %start: index, %wait: !hal.fence, %signal: !hal.fence) -> !hal.buffer_view {
  %row = hal.tensor.import wait(%wait) => %token : !hal.buffer_view -> tensor<1x16xf32>
  %old = hal.tensor.import wait(%wait) => %cache : !hal.buffer_view -> tensor<160x16xf32>
  // CHECK: %[[NEW:.*]] = tensor.insert_slice
  // CHECK-NEXT: %[[ALIAS:.*]] = hal.tensor.alias wait(%{{.*}}) => %[[NEW]] : tensor<160x16xf32> to %{{.*}} : !hal.buffer_view
  %new = tensor.insert_slice %row into %old[%start, 0] [1, 16] [1, 1] : tensor<1x16xf32> into tensor<160x16xf32>
  // CHECK-NEXT: tensor.extract_slice %[[ALIAS]]
  %seen = tensor.extract_slice %new[0, 0] [32, 16] [1, 1] : tensor<160x16xf32> to tensor<32x16xf32>
  // CHECK-NOT: hal.tensor.alias
  %alias = hal.tensor.alias wait(%wait) => %new : tensor<160x16xf32> to %cache : !hal.buffer_view
  // CHECK: %[[KEPT:.*]] = hal.tensor.barrier join(%{{.*}} : tensor<32x16xf32>) => %{{.*}} : !hal.fence
  %joined:2 = hal.tensor.barrier join(%alias, %seen : tensor<160x16xf32>, tensor<32x16xf32>) => %signal : !hal.fence
  // CHECK: hal.tensor.export %[[KEPT]]
  %out = hal.tensor.export %joined#1 "output" : tensor<32x16xf32> -> !hal.buffer_view
  util.return %out : !hal.buffer_view
}

// A state that nobody reads after its update stays in the barrier: nothing else keeps it alive.

// CHECK-LABEL: util.func public @prefill$async
util.func public @prefill$async(%token: !hal.buffer_view, %ring: !hal.buffer_view, %start: index, %wait: !hal.fence, %signal: !hal.fence) -> !hal.buffer_view {
  %row = hal.tensor.import wait(%wait) => %token : !hal.buffer_view -> tensor<1x16xf32>
  %old = hal.tensor.import wait(%wait) => %ring : !hal.buffer_view -> tensor<4x16xf32>
  // CHECK: %[[NEW:.*]] = tensor.insert_slice
  // CHECK-NEXT: %[[ALIAS:.*]] = hal.tensor.alias wait(%{{.*}}) => %[[NEW]]
  %new = tensor.insert_slice %row into %old[%start, 0] [1, 16] [1, 1] : tensor<1x16xf32> into tensor<4x16xf32>
  %alias = hal.tensor.alias wait(%wait) => %new : tensor<4x16xf32> to %ring : !hal.buffer_view
  // CHECK: %[[KEPT:.*]]:2 = hal.tensor.barrier join(%[[ALIAS]], %{{.*}} : tensor<4x16xf32>, tensor<1x16xf32>) => %{{.*}} : !hal.fence
  %joined:2 = hal.tensor.barrier join(%alias, %row : tensor<4x16xf32>, tensor<1x16xf32>) => %signal : !hal.fence
  // CHECK: hal.tensor.export %[[KEPT]]#1
  %out = hal.tensor.export %joined#1 "output" : tensor<1x16xf32> -> !hal.buffer_view
  util.return %out : !hal.buffer_view
}

// A dispatch that writes into the buffer has nothing to alias: later readers take its result. But
// of one that nothing else needs the alias stays.

stream.executable private @kernel {
  stream.executable.export public @step workgroups() -> (index, index, index) {
    %c1 = arith.constant 1 : index
    stream.return %c1, %c1, %c1 : index, index, index
  }
}

// CHECK-LABEL: util.func public @step$async
util.func public @step$async(%token: !hal.buffer_view, %cache: !hal.buffer_view, %other: !hal.buffer_view, %wait: !hal.fence, %signal: !hal.fence) -> !hal.buffer_view {
  %row = hal.tensor.import wait(%wait) => %token : !hal.buffer_view -> tensor<1x16xf32>
  %old = hal.tensor.import wait(%wait) => %cache : !hal.buffer_view -> tensor<160x16xf32>
  %alone = hal.tensor.import wait(%wait) => %other : !hal.buffer_view -> tensor<160x16xf32>
  // CHECK: %[[BOTH:.*]]:2 = flow.dispatch @kernel::@step
  %result, %new = flow.dispatch @kernel::@step(%row, %old) : (tensor<1x16xf32>, tensor<160x16xf32>) -> (tensor<1x16xf32>, %old)
  // CHECK-NEXT: %[[NEW:.*]] = flow.dispatch @kernel::@step
  %newer = flow.dispatch @kernel::@step(%row, %alone) : (tensor<1x16xf32>, tensor<160x16xf32>) -> %alone
  // CHECK-NEXT: %[[ALIAS:.*]] = hal.tensor.alias wait(%{{.*}}) => %[[NEW]]
  // CHECK-NOT: hal.tensor.alias
  %alias = hal.tensor.alias wait(%wait) => %new : tensor<160x16xf32> to %cache : !hal.buffer_view
  %alias_newer = hal.tensor.alias wait(%wait) => %newer : tensor<160x16xf32> to %other : !hal.buffer_view
  // CHECK: %[[KEPT:.*]]:2 = hal.tensor.barrier join(%[[ALIAS]], %[[BOTH]]#0
  %joined:3 = hal.tensor.barrier join(%alias, %alias_newer, %result : tensor<160x16xf32>, tensor<160x16xf32>, tensor<1x16xf32>) => %signal : !hal.fence
  // CHECK: hal.tensor.export %[[KEPT]]#1
  %out = hal.tensor.export %joined#2 "output" : tensor<1x16xf32> -> !hal.buffer_view
  util.return %out : !hal.buffer_view
}
