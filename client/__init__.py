"""The client: Flower ClientApp, local work and the gRPC link to a coordinator."""
