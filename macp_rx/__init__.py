"""macp_rx (being assembled: the public names return as soon as the runtime stands)."""
