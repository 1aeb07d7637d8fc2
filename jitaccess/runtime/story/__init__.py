"""`jitaccess demo`: the whole loop, told step by step in the terminal, on an installation that is thrown away."""
