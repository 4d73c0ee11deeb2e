"""The coordinator: Flower ServerApp, round engine, checkpoints and the gRPC link."""
