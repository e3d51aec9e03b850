"""MACP itself as pure functions: no I/O, no clock, no thread, no Rx; `now` is an argument."""
