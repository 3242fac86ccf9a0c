"""Reading weights from checkpoints, checking them, and quantising them."""
