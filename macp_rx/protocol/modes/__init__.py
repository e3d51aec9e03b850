"""One mode, one file: its messages, its frozen `State`, its `step`."""
