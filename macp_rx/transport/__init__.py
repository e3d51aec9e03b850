"""How frames travel: the seam (`base`), and gRPC behind it (`grpc`). The other side of the seam is `macp_rx.runtime.memory`."""
