"""Version 1 of the protocol; everything here but the .proto files is generated."""
