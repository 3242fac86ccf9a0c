// RUN: not edgec-opt %s -p state-in-place 2>&1 | filecheck %s

// CHECK: edgec-opt: error: pass state-in-place: an entry point has no result but its state
util.func public @state_only(%cache: !hal.buffer_view, %row: tensor<1x16xf32>, %wait: !hal.fence, %signal: !hal.fence) {
  %old = hal.tensor.import wait(%wait) => %cache : !hal.buffer_view -> tensor<160x16xf32>
  %new = tensor.insert_slice %row into %old[0, 0] [1, 16] [1, 1] : tensor<1x16xf32> into tensor<160x16xf32>
  %seen = tensor.extract_slice %new[0, 0] [32, 16] [1, 1] : tensor<160x16xf32> to tensor<32x16xf32>
  %alias = hal.tensor.alias wait(%wait) => %new : tensor<160x16xf32> to %cache : !hal.buffer_view
  %joined = hal.tensor.barrier join(%alias : tensor<160x16xf32>) => %signal : !hal.fence
  util.return
}

// -----

// CHECK: edgec-opt: error: pass state-in-place: a state buffer is aliased without being updated
util.func public @not_updated(%cache: !hal.buffer_view, %same: tensor<160x16xf32>, %x: tensor<4xf32>, %wait: !hal.fence, %signal: !hal.fence) {
  %alias = hal.tensor.alias wait(%wait) => %same : tensor<160x16xf32> to %cache : !hal.buffer_view
  %joined:2 = hal.tensor.barrier join(%alias, %x : tensor<160x16xf32>, tensor<4xf32>) => %signal : !hal.fence
  util.return
}
