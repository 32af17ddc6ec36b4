"""One request to facts: checks, interleaved timing, leases, peers. The deciding clock lives here alone."""
