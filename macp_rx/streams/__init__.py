"""RPC -> Observable: the source, the session stream, the duplex stream, and `Stream`, which also iterates and awaits."""
