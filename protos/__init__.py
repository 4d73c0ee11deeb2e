"""What goes over the wire between coordinator and client: protobuf definitions and Flower messages as bytes."""
